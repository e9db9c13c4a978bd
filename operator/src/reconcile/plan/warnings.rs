//! What is allowed in a spec and is probably a mistake: an event for each new generation. Rules of the
//! definition cannot refuse it, because objects of earlier versions keep working. Pure.

use layra_crds::{IngestionPipeline, IngestionPipelineStatus};

use super::PipelineEvent;
use crate::reconcile::reason::Reason;

/// The warnings about a spec that the operator sees for the first time.
pub(super) fn of_new_spec(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
) -> Option<PipelineEvent> {
    if before.observed_generation == pipeline.metadata.generation {
        return None;
    }
    let family = pipeline.spec.embedding.model.family;
    let worker = &pipeline.spec.worker;
    match (family.is_visual(), &worker.gpu) {
        (false, Some(_)) => Some(PipelineEvent::warning(
            Reason::GpuUnused,
            format!(
                "worker.gpu reserves a GPU for each worker, but {family} computes on the CPU. Remove worker.gpu, or choose a visual family."
            ),
        )),
        (true, None) if worker.resources.is_none() => Some(PipelineEvent::warning(
            Reason::MemoryLimitLow,
            format!(
                "Without a GPU the weights of {family} are in a worker's memory, which the default limits to 4Gi: 2 billion parameters take 8 GB in f32 and 4 GB in bf16. Set worker.resources."
            ),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use layra_crds::{GpuSpec, ModelFamily};

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_gpu_that_the_model_does_not_use_is_mentioned_once() {
        let mut pipeline = fixtures::pipeline();
        let new = IngestionPipelineStatus::default();
        assert_eq!(of_new_spec(&pipeline, &new), None);

        pipeline.spec.worker.gpu = Some(GpuSpec {
            resource: "nvidia.com/gpu".into(),
            count: 1,
        });
        let event = of_new_spec(&pipeline, &new).expect("an event");
        assert!(event.warning);
        assert_eq!(event.reason, Reason::GpuUnused);

        let seen = IngestionPipelineStatus {
            observed_generation: pipeline.metadata.generation,
            ..IngestionPipelineStatus::default()
        };
        assert_eq!(of_new_spec(&pipeline, &seen), None);

        pipeline.spec.embedding.model.family = ModelFamily::ColQwen2;
        assert_eq!(of_new_spec(&pipeline, &new), None);
    }

    #[test]
    fn a_large_model_with_the_default_memory_of_a_worker_is_mentioned() {
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.embedding.model.family = ModelFamily::ColQwen2;
        let new = IngestionPipelineStatus::default();
        let event = of_new_spec(&pipeline, &new).expect("an event");
        assert_eq!(event.reason, Reason::MemoryLimitLow);
        pipeline.spec.worker.resources = Some(ResourceRequirements::default());
        assert_eq!(of_new_spec(&pipeline, &new), None, "the user's own");
    }
}
