//! The condition VectorStoreReady. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_crds::{
    DriftedCollection, IngestionPipeline, IngestionPipelineStatus,
    condition_types::VECTOR_STORE_READY,
};

use super::{
    conditions::{self, Verdict},
    quotas,
    rebuild::Rebuilds,
};
use crate::{
    milvus::IndexReport,
    reconcile::{
        reason::Reason,
        world::{Problem, World},
    },
};

/// The verdict on Milvus: on the rebuild if it has one, on the indexes else, on the models, and on the
/// quotas.
pub(super) fn of(
    pipeline: &IngestionPipeline,
    world: &World,
    before: &IngestionPipelineStatus,
    rebuilds: &Rebuilds,
) -> Verdict {
    let generation = pipeline.metadata.generation;
    let before = conditions::find(&before.conditions, VECTOR_STORE_READY)
        .filter(|condition| condition.observed_generation == generation);
    let on_indexes = || judge(&world.indexes, before, generation);
    let index = rebuilds.index.verdict.clone();
    let models = rebuilds.models.verdict.clone();
    let store = with_models(index.unwrap_or_else(on_indexes), models);
    quotas::judge(store, world, before)
}

/// What is said about other models comes first: documents wait for it. Each has a line of its own.
fn with_models(store: Verdict, models: Option<Verdict>) -> Verdict {
    match models {
        Some(models) if store.reason == Reason::IndexesMatch => models,
        Some(models) if store.is_true() => Verdict {
            message: format!("{}\n{}", models.message, store.message),
            ..models
        },
        _ => store,
    }
}

/// Another index than the spec's does not make the condition false: searches work, only slower or
/// less exact. The reason shows it, and the status lists some of the collections. Until the first
/// check of a restarted operator the condition of the same generation holds.
pub(super) fn judge(
    indexes: &Result<IndexReport, Problem>,
    before: Option<&Condition>,
    generation: Option<i64>,
) -> Verdict {
    let report = match indexes {
        Ok(report) => report,
        Err(problem) if problem.reason == Reason::MilvusChecking => {
            return before
                .filter(|condition| condition.observed_generation == generation)
                .and_then(Verdict::of)
                .unwrap_or_else(|| Verdict::unknown(problem.reason, problem.message.clone()));
        }
        Err(problem) => return problem.into(),
    };
    let (all, checked) = (report.collections, report.checked);
    if let Some(example) = report.examples.first() {
        return Verdict::yes(
            Reason::IndexDrift,
            format!(
                "The index differs from the spec in {} of {all} collections, for example {}: {}. Searches work; status.driftedCollections lists the first differences.",
                report.drifted, example.name, example.difference
            ),
        );
    }
    let message = match all {
        0 => "No collection exists yet; workers create collections when needed.".to_owned(),
        1 if checked == 1 => "The only collection has the index of the spec.".to_owned(),
        _ if checked == all => format!("All {all} collections have the index of the spec."),
        _ => format!(
            "{checked} of {all} collections were checked so far and have the index of the spec."
        ),
    };
    Verdict::yes(Reason::IndexesMatch, message)
}

/// The drifted collections in the status: their number, and the first of them.
pub(super) fn drifted(report: &IndexReport) -> (Option<i64>, Vec<DriftedCollection>) {
    let count = i64::try_from(report.drifted).unwrap_or(i64::MAX);
    ((count > 0).then_some(count), report.examples.clone())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::reconcile::plan::conditions::{Status, update};

    #[test]
    fn a_restarted_operator_keeps_the_condition_until_its_first_check() {
        let checking = Err(Problem::new(Reason::MilvusChecking, "being checked"));
        let at = Timestamp::UNIX_EPOCH;
        let ready = Verdict::yes(Reason::IndexesMatch, "All 2 collections ...");
        let before = update(&[], vec![(VECTOR_STORE_READY, ready.clone())], Some(3), at);
        assert_eq!(judge(&checking, before.first(), Some(3)), ready);
        let edited = judge(&checking, before.first(), Some(4));
        assert_eq!(
            (edited.status, edited.reason),
            (Status::Unknown, Reason::MilvusChecking)
        );
        assert_eq!(judge(&checking, None, Some(1)).status, Status::Unknown);
    }

    #[test]
    fn an_unfinished_check_is_shown() {
        let report = IndexReport {
            collections: 1_200,
            checked: 500,
            ..IndexReport::default()
        };
        let verdict = judge(&Ok(report), None, None);
        assert!(verdict.is_true());
        assert!(verdict.message.starts_with("500 of 1200 collections"));
    }
}
