//! What is allowed in a spec and is probably a mistake: an event for each new generation. Rules of the
//! definition cannot refuse it, because objects of earlier versions keep working. Pure.

use layra_crds::{IngestionPipeline, IngestionPipelineStatus, LAYRA_PAGE_VECTORS};

use super::PipelineEvent;
use crate::reconcile::reason::Reason;

/// Vectors of a page besides those of its visual tokens: the prompt's.
const PROMPT_VECTORS: u64 = 11;

/// The warnings about a spec that the operator sees for the first time.
pub(super) fn of_new_spec(
    pipeline: &IngestionPipeline,
    before: &IngestionPipelineStatus,
) -> Vec<PipelineEvent> {
    if before.observed_generation == pipeline.metadata.generation {
        return Vec::new();
    }
    let all = [unused_gpu(pipeline), long_pages(pipeline)];
    all.into_iter().flatten().collect()
}

/// Pages may have more vectors than LAYRA reads.
fn long_pages(pipeline: &IngestionPipeline) -> Option<PipelineEvent> {
    let embedding = &pipeline.spec.embedding;
    let tokens = u64::from(embedding.max_visual_tokens?);
    let most = tokens / u64::from(embedding.pool_factor.max(1)) + PROMPT_VECTORS;
    (most > LAYRA_PAGE_VECTORS).then(|| {
        PipelineEvent::warning(
            Reason::PagesCutByLayra,
            format!(
                "With embedding.maxVisualTokens={tokens} a page can have {most} vectors, and LAYRA's search ignores those after the first {LAYRA_PAGE_VECTORS}. Lower it, or raise embedding.poolFactor, if LAYRA searches these collections."
            ),
        )
    })
}

fn unused_gpu(pipeline: &IngestionPipeline) -> Option<PipelineEvent> {
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
        assert_eq!(of_new_spec(&pipeline, &new), []);

        pipeline.spec.worker.gpu = Some(GpuSpec {
            resource: "nvidia.com/gpu".into(),
            count: 1,
        });
        let event = of_new_spec(&pipeline, &new).remove(0);
        assert!(event.warning);
        assert_eq!(event.reason, Reason::GpuUnused);

        let seen = IngestionPipelineStatus {
            observed_generation: pipeline.metadata.generation,
            ..IngestionPipelineStatus::default()
        };
        assert_eq!(of_new_spec(&pipeline, &seen), []);

        pipeline.spec.embedding.model.family = ModelFamily::ColQwen2;
        assert_eq!(of_new_spec(&pipeline, &new), []);
    }

    #[test]
    fn pages_that_layra_would_cut_are_mentioned_when_they_are_asked_for() {
        let mut pipeline = fixtures::pipeline();
        let new = IngestionPipelineStatus::default();
        pipeline.spec.worker.resources = Some(ResourceRequirements::default());
        let embedding = &mut pipeline.spec.embedding;
        embedding.model.family = ModelFamily::ColQwen2;
        embedding.max_visual_tokens = Some(768);
        assert_eq!(of_new_spec(&pipeline, &new), []);
        pipeline.spec.embedding.max_visual_tokens = Some(1280);
        let event = of_new_spec(&pipeline, &new).remove(0);
        assert_eq!(event.reason, Reason::PagesCutByLayra);
        assert!(event.message.contains("1291 vectors"), "{}", event.message);
        pipeline.spec.embedding.pool_factor = 2;
        assert_eq!(of_new_spec(&pipeline, &new), []);
    }

    #[test]
    fn a_large_model_with_the_default_memory_of_a_worker_is_mentioned() {
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.embedding.model.family = ModelFamily::ColQwen2;
        let new = IngestionPipelineStatus::default();
        let event = of_new_spec(&pipeline, &new).remove(0);
        assert_eq!(event.reason, Reason::MemoryLimitLow);
        pipeline.spec.worker.resources = Some(ResourceRequirements::default());
        assert_eq!(of_new_spec(&pipeline, &new), [], "the user's own");
    }
}
