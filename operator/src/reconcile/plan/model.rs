//! The model that the workers run, as reported by the container that fetched it. Pure.

use std::collections::BTreeMap;

use layra_crds::{ModelReference, ModelReport, ModelStatus, RESOLVE_MODEL_ANNOTATION};

use super::conditions::Verdict;
use crate::{
    reconcile::{pods::WorkerPod, reason::Reason, world::World},
    resources::FETCH_MODEL,
};

/// The model of the newest pod that has fetched one, else the model known before.
pub(super) fn status(before: Option<&ModelStatus>, world: &World) -> Option<ModelStatus> {
    let newest = world
        .pods
        .iter()
        .filter_map(|pod| Some((pod.created, reported(pod)?.model)))
        .max_by_key(|(created, _)| *created);
    match newest {
        Some((_, model)) => Some(model),
        None => before.cloned(),
    }
}

/// Adds to the verdict of ready workers that they have loaded different checkpoints, or another one
/// than the pipeline's `reference`. Pods of another template may have another model: they are being
/// replaced.
pub(super) fn judge(
    verdict: Verdict,
    world: &World,
    reference: Option<&ModelReference>,
) -> Verdict {
    if verdict.reason != Reason::WorkersReady || !verdict.is_true() {
        return verdict;
    }
    let pods = world
        .pods
        .iter()
        .filter(|pod| !pod.terminating && !pod.ended);
    let mut loaded: BTreeMap<(&Option<String>, String), usize> = BTreeMap::new();
    for pod in pods {
        let Some(report) = reported(pod) else {
            continue;
        };
        let count = (&pod.template, report.model.checksum);
        *loaded.entry(count).or_default() += 1;
        // It may be alone, after a time without workers.
        if let Some(reference) = reference
            && report.reference.is_some_and(|it| is_like(&it, reference))
        {
            let first = (&pod.template, reference.checksum.clone());
            loaded.entry(first).or_default();
        }
    }
    let is_shared = |template: &Option<String>| {
        let of_template = loaded.keys().filter(|(other, _)| *other == template);
        of_template.count() > 1
    };
    let different: Vec<String> = loaded
        .iter()
        .filter(|((template, _), _)| is_shared(template))
        .map(|((_, checksum), workers)| format!("{checksum} ({workers})"))
        .collect();
    if different.is_empty() {
        return verdict;
    }
    let different = different.join(", ");
    let message = match reference {
        Some(reference) => format!(
            "Workers have loaded different checkpoints, whose vectors cannot be compared: {different}. The pipeline's is {}, which its first worker found. From hf://, a worker that is deleted is replaced by one with that checkpoint. Otherwise restore the files, and restart the workers. To use other files from now on, change the annotation {RESOLVE_MODEL_ANNOTATION} first.",
            reference.checksum
        ),
        None => format!(
            "Workers with the same configuration have loaded different checkpoints, whose vectors cannot be compared: {different}. Restart the workers."
        ),
    };
    Verdict::yes(Reason::ModelDiffers, message)
}

/// Whether both are of the same addresses and the same request.
fn is_like(one: &ModelReference, other: &ModelReference) -> bool {
    one.uri == other.uri && one.adapter_uri == other.adapter_uri && one.request == other.request
}

/// What the container that fetched the model has reported.
pub(super) fn reported(pod: &WorkerPod) -> Option<ModelReport> {
    let mut containers = pod.containers.iter();
    let fetch = containers.find(|container| container.name == FETCH_MODEL)?;
    let end = fetch.state.as_ref()?.terminated.as_ref()?;
    if end.exit_code != 0 {
        return None;
    }
    // A worker of another version may report something else.
    serde_json::from_str(end.message.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn pod(created: &str, exit_code: i32, message: &Value) -> Value {
        json!({
            "metadata": {"creationTimestamp": created},
            "status": {"initContainerStatuses": [{
                "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "message": message.to_string()}},
            }]},
        })
    }

    /// A ready worker's pod of this template.
    fn loaded(template: &str, checksum: &str) -> Value {
        let mut pod = pod("2026-11-23T10:00:00Z", 0, &model(checksum));
        pod["metadata"]["labels"] = json!({"pod-template-hash": template});
        pod
    }

    fn judged(pods: Vec<Value>) -> Verdict {
        let ready = Verdict::yes(Reason::WorkersReady, "2 of 2 workers are ready.");
        judge(ready, &world(pods), None)
    }

    #[test]
    fn two_checkpoints_of_one_template_are_reported() {
        let verdict = judged(vec![loaded("a", "sha256:1"), loaded("a", "sha256:2")]);
        assert_eq!(verdict.reason, Reason::ModelDiffers);
        assert!(verdict.is_true());
        let message = &verdict.message;
        assert!(message.contains("sha256:1 (1), sha256:2 (1)"), "{message}");
    }

    #[test]
    fn a_rollout_to_another_model_is_no_difference() {
        let pods = vec![loaded("a", "sha256:1"), loaded("b", "sha256:2")];
        assert_eq!(judged(pods).reason, Reason::WorkersReady);
        let same = vec![loaded("a", "sha256:1"), loaded("a", "sha256:1")];
        assert_eq!(judged(same).reason, Reason::WorkersReady);
    }

    #[test]
    fn a_worker_with_another_checkpoint_than_the_first_one_is_reported_even_if_it_is_alone() {
        let reference = |checksum: &str, request: Option<&str>| ModelReference {
            uri: "s3://models/minilm".into(),
            adapter_uri: None,
            checksum: checksum.into(),
            revision: None,
            adapter_revision: None,
            request: request.map(Into::into),
        };
        let judged = |loaded: &ModelReference, expected: &ModelReference| {
            let mut report = model(&loaded.checksum);
            report["reference"] = serde_json::to_value(loaded).unwrap();
            let pods = vec![pod("2026-11-23T10:00:00Z", 0, &report)];
            let ready = Verdict::yes(Reason::WorkersReady, "1 of 1 workers are ready.");
            judge(ready, &world(pods), Some(expected))
        };
        let (one, two) = (reference("sha256:1", None), reference("sha256:2", None));
        assert_eq!(judged(&one, &one).reason, Reason::WorkersReady);
        let verdict = judged(&two, &one);
        assert_eq!(
            (verdict.is_true(), verdict.reason),
            (true, Reason::ModelDiffers)
        );
        let words = "cannot be compared: sha256:1 (0), sha256:2 (1). The pipeline's is sha256:1,";
        assert!(verdict.message.contains(words), "{}", verdict.message);
        // Workers from before a request to look it up again do not count.
        let new = reference("sha256:1", Some("1"));
        assert_eq!(judged(&two, &new).reason, Reason::WorkersReady);
    }

    fn world(pods: Vec<Value>) -> World {
        World {
            pods: pods.into_iter().map(fixtures::pod).collect(),
            ..World::unobserved()
        }
    }

    fn model(checksum: &str) -> Value {
        json!({"checksum": checksum, "dimensions": 128, "bytes": 7_500_000_000_u64})
    }

    #[test]
    fn the_model_of_the_newest_pod_that_has_fetched_one_is_shown() {
        let world = world(vec![
            pod("2026-11-23T10:00:01Z", 0, &model("sha256:new")),
            pod("2026-11-23T10:00:00Z", 0, &model("sha256:old")),
            pod("2026-11-23T10:00:02Z", 1, &json!("no such bucket")),
        ]);
        assert_eq!(status(None, &world).unwrap().checksum, "sha256:new");
    }

    #[test]
    fn the_model_stays_known_while_there_is_no_worker() {
        let before = serde_json::from_value(model("sha256:old")).unwrap();
        let after = status(Some(&before), &world(Vec::new()));
        assert_eq!(after, Some(before));
    }
}
