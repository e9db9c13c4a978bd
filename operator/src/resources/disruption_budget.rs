//! Limits evictions, such as those of a node drain, to as many workers at a time as a rollout.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use kube::ResourceExt;
use layra_crds::IngestionPipeline;

pub(super) fn build(pipeline: &IngestionPipeline) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: super::metadata(pipeline),
        spec: Some(PodDisruptionBudgetSpec {
            // Not `minAvailable`: it would block the eviction of the only worker.
            max_unavailable: Some(pipeline.spec.worker.rollout.max_unavailable.clone()),
            selector: Some(super::selector(&pipeline.name_any())),
            // A worker that cannot start must not block a node drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
