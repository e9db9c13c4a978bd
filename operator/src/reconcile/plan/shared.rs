//! Collections that two pipelines have: which of the two rebuilds them. Pure.

use std::sync::Arc;

use layra_crds::{IngestionPipeline, condition_types::STALLED};

use super::{
    conditions,
    conflict::{age, full_name, overlap},
    spec_in_force,
};
use crate::{reconcile::reason::Reason, resources::JobKind};

/// Another pipeline with the same collections.
#[derive(Clone, Debug)]
pub(crate) struct Sharer {
    pub(crate) pipeline: Arc<IngestionPipeline>,
    /// Both have the same database in MongoDB, as far as is known.
    pub(crate) same_database: bool,
}

/// Whether both may write to one collection. One that is in conflict has no workers.
pub(crate) fn shares_collections(one: &IngestionPipeline, other: &IngestionPipeline) -> bool {
    age(one) != age(other)
        && overlap(&spec_in_force(one), &spec_in_force(other))
        && !is_in_conflict(other)
}

fn is_in_conflict(pipeline: &IngestionPipeline) -> bool {
    let conditions = pipeline.status.as_ref().map(|status| &status.conditions);
    conditions
        .and_then(|all| conditions::find(all, STALLED))
        .is_some_and(|stalled| stalled.reason == Reason::Conflict.as_str())
}

/// Why this pipeline begins no rebuild of a kind, in full sentences. Workers learn of a rebuild from MongoDB:
/// with another one they do not wait while a collection is swapped. And two pipelines that both
/// rebuild would undo each other's work for ever.
pub(crate) fn rebuild_obstacle(
    kind: JobKind,
    pipeline: &IngestionPipeline,
    sharers: &[Sharer],
) -> Option<String> {
    sharers.iter().find_map(|sharer| {
        let (other, name) = (&sharer.pipeline, full_name(&sharer.pipeline));
        if !sharer.same_database {
            return Some(format!(
                "Pipeline {name} has the same collections and another database in MongoDB, so its workers would not wait while a collection is swapped. Give one of the two another stores.milvus.collection."
            ));
        }
        let rebuilds = !kind.is_only_reported(other);
        let (does, field) = match kind {
            JobKind::Reindex => (
                "rebuilds the same collections with its own index",
                "onIndexDrift: Report",
            ),
            JobKind::Reembed => (
                "embeds the same collections again with its own model",
                "onModelChange: Refuse",
            ),
        };
        (rebuilds && age(other) < age(pipeline)).then(|| {
            format!(
                "Pipeline {name} is older and {does}. Set stores.milvus.{field} in one of the two."
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use layra_crds::{OnIndexDrift, OnModelChange};

    use super::*;
    use crate::fixtures;

    fn pipeline(name: &str, age: i64, policy: OnIndexDrift) -> IngestionPipeline {
        let mut pipeline = fixtures::pipeline();
        let created = Timestamp::UNIX_EPOCH - SignedDuration::from_secs(age);
        pipeline.metadata.creation_timestamp = Some(Time(created));
        pipeline.metadata.name = Some(name.to_owned());
        pipeline.spec.stores.milvus.on_index_drift = policy;
        pipeline
    }

    fn obstacle(this: &IngestionPipeline, other: &IngestionPipeline, same: bool) -> Option<String> {
        if !shares_collections(this, other) {
            return None;
        }
        let sharer = Sharer {
            pipeline: Arc::new(other.clone()),
            same_database: same,
        };
        rebuild_obstacle(JobKind::Reindex, this, &[sharer])
    }

    #[test]
    fn of_two_pipelines_that_rebuild_the_same_collections_the_older_one_does() {
        let old = pipeline("old", 2, OnIndexDrift::RebuildBeside);
        let young = pipeline("young", 1, OnIndexDrift::RebuildBeside);
        assert_eq!(obstacle(&old, &young, true), None);
        let why = obstacle(&young, &old, true).unwrap();
        assert!(why.contains("/old is older"), "{why}");
        let reports = pipeline("old", 2, OnIndexDrift::Report);
        assert_eq!(obstacle(&young, &reports, true), None);
        assert_eq!(obstacle(&old, &old, true), None, "itself");
    }

    #[test]
    fn of_two_pipelines_that_embed_the_same_collections_again_the_older_one_does() {
        let mut pipelines =
            [("old", 2), ("young", 1)].map(|(name, age)| pipeline(name, age, OnIndexDrift::Report));
        let why = |[old, young]: &[IngestionPipeline; 2]| {
            let sharer = Sharer {
                pipeline: Arc::new(old.clone()),
                same_database: true,
            };
            rebuild_obstacle(JobKind::Reembed, young, &[sharer])
        };
        assert_eq!(why(&pipelines), None);
        pipelines[0].spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside;
        let words = why(&pipelines).unwrap();
        assert!(words.contains("onModelChange: Refuse"), "{words}");
    }

    #[test]
    fn collections_of_a_pipeline_with_another_database_are_not_rebuilt() {
        let one = pipeline("one", 2, OnIndexDrift::RebuildBeside);
        let mut other = pipeline("other", 1, OnIndexDrift::Report);
        let why = obstacle(&one, &other, false).unwrap();
        assert!(why.contains("another database in MongoDB"), "{why}");
        other.spec.stores.milvus.collection = "other_{knowledge_db_id}".into();
        assert_eq!(obstacle(&one, &other, false), None);
    }
}
