//! Limits evictions, such as those of a node drain, to one worker at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use layra_crds::IngestionPipeline;

pub(super) fn build(pipeline: &IngestionPipeline) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: super::metadata(pipeline),
        spec: Some(PodDisruptionBudgetSpec {
            // Not `minAvailable`: it would block the eviction of the only worker.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(super::selector(&pipeline.name_any())),
            // A worker that cannot start must not block a node drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
