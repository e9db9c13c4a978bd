//! The checkpoint that all workers load: the one that the first of them found. It stays until an
//! address of the model is edited or an annotation asks to look it up again. Pure.

use kube::ResourceExt;
use layra_crds::{IngestionPipeline, KnownModel, ModelReference, RESOLVE_MODEL_ANNOTATION};

use super::model;
use crate::reconcile::world::World;

/// The checkpoint from now on, and what later workers are told. While the pipeline waits for an
/// edit its workers keep what they have.
pub(super) fn next(pipeline: &IngestionPipeline, world: &World, is_stalled: bool) -> KnownModel {
    let before = pipeline.status.as_ref();
    let before = before.and_then(|status| status.model_reference.as_ref());
    if is_stalled || pipeline.spec.paused {
        return KnownModel {
            request: before.and_then(|before| before.request.clone()),
            reference: before.cloned(),
        };
    }
    let request = pipeline.annotations().get(RESOLVE_MODEL_ANNOTATION);
    let is_wanted = |reference: &ModelReference| {
        let model = &pipeline.spec.embedding.model;
        reference.is_of(model, request.map(String::as_str))
    };
    let kept = before.filter(|before| is_wanted(before)).cloned();
    KnownModel {
        request: request.cloned(),
        reference: kept.or_else(|| first(world, is_wanted)),
    }
}

/// The checkpoint that the oldest pod with a wanted one has reported. Those that answer questions, or
/// embed collections again, count as workers, because they may be the first.
fn first(world: &World, is_wanted: impl Fn(&ModelReference) -> bool) -> Option<ModelReference> {
    let pods = world.pods.iter().chain(&world.query_pods);
    let pods = pods.chain(&world.reembed_pods);
    let reported = pods.filter_map(|pod| {
        let reference = model::reported(pod)?.reference.filter(&is_wanted)?;
        Some(((pod.created, &pod.name), reference))
    });
    let oldest = reported.min_by(|(one, _), (other, _)| one.cmp(other))?;
    Some(oldest.1)
}

#[cfg(test)]
mod tests {
    use layra_crds::IngestionPipelineStatus;
    use serde_json::json;

    use super::*;
    use crate::{fixtures, reconcile::WorkerPod};

    const URI: &str = "s3://models/minilm";

    /// A pod that has fetched the model at an address, as told with a request.
    fn pod(created: &str, uri: &str, checksum: &str, request: Option<&str>) -> WorkerPod {
        let report = json!({"checksum": checksum, "dimensions": 384, "bytes": 1,
            "reference": {"uri": uri, "checksum": checksum, "request": request}});
        fixtures::pod(json!({
            "metadata": {"name": checksum, "creationTimestamp": created},
            "status": {"initContainerStatuses": [{
                "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "message": report.to_string()}}}]}}))
    }

    fn world(pods: Vec<WorkerPod>) -> World {
        World {
            pods,
            ..World::unobserved()
        }
    }

    fn checksum(known: &KnownModel) -> Option<&str> {
        known.reference.as_ref().map(|it| it.checksum.as_str())
    }

    /// Plans, and keeps the result in the status.
    fn step(pipeline: &mut IngestionPipeline, world: &World) -> KnownModel {
        let known = next(pipeline, world, false);
        pipeline.status = Some(IngestionPipelineStatus {
            model_reference: known.reference.clone(),
            ..IngestionPipelineStatus::default()
        });
        known
    }

    #[test]
    fn the_first_worker_decides_which_checkpoint_all_workers_load() {
        let mut pipeline = fixtures::pipeline();
        assert_eq!(step(&mut pipeline, &world(vec![])), KnownModel::default());
        let first = pod("2026-11-25T10:00:00Z", URI, "first", None);
        let second = pod("2026-11-25T10:00:01Z", URI, "second", None);
        let both = world(vec![second.clone(), first]);
        assert_eq!(checksum(&step(&mut pipeline, &both)), Some("first"));
        let other = world(vec![second]);
        assert_eq!(checksum(&step(&mut pipeline, &other)), Some("first"));
        let none = world(vec![]);
        assert_eq!(
            checksum(&step(&mut pipeline, &none)),
            Some("first"),
            "at zero"
        );
    }

    #[test]
    fn a_job_that_embeds_may_be_the_first() {
        let world = World {
            reembed_pods: vec![pod("2026-11-25T10:00:00Z", URI, "first", None)],
            ..World::unobserved()
        };
        let known = step(&mut fixtures::pipeline(), &world);
        assert_eq!(checksum(&known), Some("first"));
    }

    #[test]
    fn an_edited_address_is_looked_up_again_and_not_decided_by_workers_of_before() {
        let mut pipeline = fixtures::pipeline();
        let old = pod("2026-11-25T10:00:00Z", URI, "old", None);
        step(&mut pipeline, &world(vec![old.clone()]));
        pipeline.spec.embedding.model.uri = "hf://acme/tiny".into();
        let unconfirmed = next(&pipeline, &world(vec![old.clone()]), true);
        assert_eq!(checksum(&unconfirmed), Some("old"), "its workers have it");
        assert_eq!(
            step(&mut pipeline, &world(vec![old.clone()])).reference,
            None
        );
        let new = pod("2026-11-25T11:00:00Z", "hf://acme/tiny", "new", None);
        let both = world(vec![old, new]);
        assert_eq!(checksum(&step(&mut pipeline, &both)), Some("new"));
    }

    #[test]
    fn an_annotation_asks_for_the_model_to_be_looked_up_again_once() {
        let mut pipeline = fixtures::pipeline();
        let old = pod("2026-11-25T10:00:00Z", URI, "old", None);
        step(&mut pipeline, &world(vec![old.clone()]));
        let request = (RESOLVE_MODEL_ANNOTATION.to_owned(), "1".to_owned());
        pipeline.metadata.annotations = Some([request].into());
        let known = step(&mut pipeline, &world(vec![old.clone()]));
        assert_eq!(
            (known.request.as_deref(), known.reference),
            (Some("1"), None)
        );
        // One that started before it could have been told of the request does not decide.
        let late = pod("2026-11-25T11:00:00Z", URI, "late", None);
        let new = pod("2026-11-25T12:00:00Z", URI, "new", Some("1"));
        assert_eq!(
            step(&mut pipeline, &world(vec![late.clone()])).reference,
            None
        );
        let all = world(vec![old, late, new]);
        assert_eq!(checksum(&step(&mut pipeline, &all)), Some("new"));
        assert_eq!(checksum(&step(&mut pipeline, &world(vec![]))), Some("new"));
    }

    #[test]
    fn the_report_of_a_worker_of_an_earlier_version_decides_nothing() {
        let report = json!({"checksum": "old", "dimensions": 384, "bytes": 1});
        let old = fixtures::pod(json!({
            "metadata": {"name": "a"},
            "status": {"initContainerStatuses": [{
                "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "message": report.to_string()}}}]}}));
        let mut pipeline = fixtures::pipeline();
        assert_eq!(step(&mut pipeline, &world(vec![old])).reference, None);
    }
}
