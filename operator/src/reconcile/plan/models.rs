//! Which collections are of another model, as far as it is known: from the workers, which read MongoDB,
//! or from the Job that embeds them again. Pure.

use layra_crds::{IngestionPipeline, IngestionPipelineStatus, ModelReference, ReindexProgress};

use super::rebuild::Inputs;
use crate::{
    milvus::IndexReport,
    reconcile::rebuild_job::{JobPhase, RebuildJob},
    resources::{JobKind, hash_of_job},
};

/// What makes the vectors of the pipeline's model comparable, for the status. `None` until a pod has
/// fetched the model.
pub(super) fn key(
    pipeline: &IngestionPipeline,
    reference: Option<&ModelReference>,
) -> Option<String> {
    let pool_factor = pipeline.spec.embedding.pool_factor;
    reference.map(|it| format!("{}, poolFactor {pool_factor}", it.checksum))
}

/// The collections of another model than the pipeline's. `None`: nobody has compared them with it yet.
pub(super) fn known(
    inputs: Inputs<'_>,
    before: &IngestionPipelineStatus,
    reference: Option<&ModelReference>,
) -> Option<IndexReport> {
    let collections = inputs.world.indexes.as_ref().ok()?.collections;
    let report = |drifted: u64, examples: &[_]| IndexReport {
        collections,
        checked: collections,
        drifted: usize::try_from(drifted).unwrap_or(usize::MAX),
        urgent: 0,
        examples: examples.to_vec(),
    };
    let pool_factor = inputs.pipeline.spec.embedding.pool_factor;
    let checksum = &reference?.checksum;
    // Those of workers that are being replaced are about another model.
    let mut told = inputs.world.reports.other_models.iter();
    if let Some(told) = told.find(|it| (&it.checksum, it.pool_factor) == (checksum, pool_factor)) {
        return Some(report(told.collections, &told.first));
    }
    let named = &before.other_model_collections;
    let before = before.models.as_ref();
    let is_going_on = before.is_some_and(|before| before.start_time.is_some());
    let job = inputs.world.reembed_job.as_ref();
    if let Some(job) = job.filter(|job| is_going_on && is_of_this_model(inputs, job)) {
        match (&job.phase, &job.progress) {
            (JobPhase::Succeeded { .. }, _) => return Some(report(0, &[])),
            (JobPhase::Running, Some(progress)) if has_looked(progress) => {
                return Some(report(progress.drifted, named));
            }
            _ => {}
        }
    }
    let before = before?;
    let is_same = before.model.is_some() && before.model == key(inputs.pipeline, reference);
    let drifted = u64::try_from(before.drifted).unwrap_or_default();
    is_same.then(|| report(drifted, named))
}

fn has_looked(progress: &ReindexProgress) -> bool {
    progress.collections > 0
}

/// Whether a Job embeds with what the spec says now, and does not only finish what others have begun.
fn is_of_this_model(inputs: Inputs<'_>, job: &RebuildJob) -> bool {
    let wanted = inputs.job(JobKind::Reembed);
    !job.only_finishes && wanted.is_some_and(|wanted| hash_of_job(&wanted) == job.hash)
}
