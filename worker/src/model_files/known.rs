//! The checkpoint that the pipeline's first worker found, which this worker loads too. No I/O.

use layra_crds::{KnownModel, ModelReference, ModelSpec, ModelStatus, RESOLVE_MODEL_ANNOTATION};

use super::Part;
use crate::runtime::failure::{Failure, Reason};

/// The commit of a part that the first worker loaded, if it came from the hub.
pub(super) fn commit<'a>(known: &'a KnownModel, model: &ModelSpec, part: Part) -> Option<&'a str> {
    let reference = known.reference_for(model)?;
    match part {
        Part::Checkpoint => reference.revision.as_deref(),
        Part::Adapter => reference.adapter_revision.as_deref(),
    }
}

/// What this worker has loaded, as the reference of later ones. Logs a difference from the first
/// worker's.
pub(super) fn reference(
    known: &KnownModel,
    model: &ModelSpec,
    loaded: &ModelStatus,
    commits: [Option<String>; 2],
) -> ModelReference {
    let first = known.reference_for(model);
    if let Some(first) = first.filter(|first| first.checksum != loaded.checksum) {
        tracing::warn!(
            checksum = loaded.checksum,
            expected = first.checksum,
            "the model differs from the one that the pipeline's first worker loaded"
        );
    }
    let [revision, adapter_revision] = commits;
    ModelReference {
        uri: model.uri.clone(),
        adapter_uri: model.adapter_uri.clone(),
        checksum: loaded.checksum.clone(),
        revision,
        adapter_revision,
        request: known.request.clone(),
    }
}

/// Says how to load another checkpoint if the hub has the first worker's commit no more.
pub(super) fn explained(failure: Failure, commit: Option<&str>) -> Failure {
    let Some(commit) = commit.filter(|_| failure.reason == Reason::ModelNotFound) else {
        return failure;
    };
    let message = format!(
        "{}: the pipeline's first worker loaded the commit {commit}. To load another one, change \
         embedding.model or the annotation {RESOLVE_MODEL_ANNOTATION}",
        failure.message
    );
    Failure { message, ..failure }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::failure::Stage;

    fn model(uri: &str) -> ModelSpec {
        serde_json::from_value(json!({"family": "minilm", "uri": uri})).unwrap()
    }

    fn known(request: Option<&str>) -> KnownModel {
        let text = format!(
            "reference: {{uri: 'hf://acme/tiny', checksum: 'sha256:1', revision: c0ffee}}\n{}",
            request
                .map(|it| format!("request: '{it}'"))
                .unwrap_or_default()
        );
        KnownModel::from_yaml(&text).unwrap()
    }

    #[test]
    fn the_commit_of_the_first_worker_is_loaded_instead_of_a_branch() {
        let tiny = model("hf://acme/tiny");
        let of = |known: &KnownModel, model, part| commit(known, model, part).map(str::to_owned);
        let checkpoint = Part::Checkpoint;
        assert_eq!(
            of(&known(None), &tiny, checkpoint).as_deref(),
            Some("c0ffee")
        );
        assert_eq!(of(&known(None), &tiny, Part::Adapter), None);
        assert_eq!(of(&KnownModel::default(), &tiny, checkpoint), None);
        let edited = model("hf://acme/tiny@v2");
        assert_eq!(
            of(&known(None), &edited, checkpoint),
            None,
            "of another address"
        );
        assert_eq!(
            of(&known(Some("1")), &tiny, checkpoint),
            None,
            "before the request"
        );
    }

    #[test]
    fn what_a_worker_loaded_is_a_reference_with_the_request_that_it_was_told() {
        let loaded = ModelStatus {
            checksum: "sha256:2".into(),
            dimensions: 384,
            bytes: 1,
            revision: None,
        };
        let tiny = model("hf://acme/tiny");
        let commits = [Some("abc".to_owned()), None];
        let reference = reference(&known(Some("1")), &tiny, &loaded, commits);
        assert!(reference.is_of(&tiny, Some("1")));
        assert_eq!(reference.revision.as_deref(), Some("abc"));
        assert_eq!(reference.checksum, "sha256:2");
    }

    #[test]
    fn a_commit_that_is_gone_is_named_with_the_way_out() {
        let gone = || Failure::fatal(Stage::Model, Reason::ModelNotFound, "no such revision");
        let message = explained(gone(), Some("c0ffee")).message;
        assert!(message.contains("loaded the commit c0ffee"), "{message}");
        assert!(
            message.contains("ingest.layra.io/resolve-model"),
            "{message}"
        );
        assert_eq!(explained(gone(), None).message, "no such revision");
    }
}
