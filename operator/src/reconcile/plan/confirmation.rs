//! Changes that cut a pipeline off from the documents that it has processed. An annotation has to
//! confirm them: until then nothing of the pipeline is changed. Pure.

use kube::ResourceExt;
use layra_crds::{ConfirmedStatus, IngestionPipeline};

use super::conditions::Verdict;
use crate::reconcile::{reason::Reason, world::World};

/// The annotation. Its value names the changed fields and their new values, so that it confirms no
/// later change.
const ANNOTATION: &str = "ingest.layra.io/confirm-change";

/// Why the operator waits, if a change is not confirmed.
pub(super) fn judge(pipeline: &IngestionPipeline) -> Option<Verdict> {
    let before = pipeline.status.as_ref()?.confirmed.as_ref()?;
    let settings = settings(pipeline);
    let changes = changes(before, &settings);
    let expected = value(&changes);
    let is_confirmed = pipeline.annotations().get(ANNOTATION) == Some(&expected);
    if changes.is_empty() || is_confirmed {
        return None;
    }
    let sentences: Vec<String> = changes.iter().map(Change::consequence).collect();
    Some(Verdict::no(
        Reason::ChangeNotConfirmed,
        format!(
            "{} Undo the change, or confirm it: kubectl annotate ipl {} --overwrite '{ANNOTATION}={expected}'. Until then the workers keep their configuration and their number.",
            sentences.join(" "),
            pipeline.name_any(),
        ),
    ))
}

/// The settings to compare with from now on. They are noted as soon as there are workers.
pub(super) fn next(pipeline: &IngestionPipeline, world: &World) -> Option<ConfirmedStatus> {
    let before = pipeline.status.as_ref().and_then(|s| s.confirmed.clone());
    let has_past = before.is_some() || !world.pods.is_empty();
    if has_past && judge(pipeline).is_none() && !pipeline.spec.paused {
        Some(settings(pipeline))
    } else {
        before
    }
}

fn settings(pipeline: &IngestionPipeline) -> ConfirmedStatus {
    let spec = &pipeline.spec;
    ConfirmedStatus {
        consumer_group: spec.source.kafka.consumer_group.clone(),
        ranges_topic: spec.source.kafka.ranges_topic(),
        collection: spec.stores.milvus.collection.clone(),
        database: spec.stores.mongodb.database.clone(),
        model_family: spec.embedding.model.family.to_string(),
    }
}

struct Change<'a> {
    field: &'static str,
    from: &'a str,
    to: &'a str,
    /// What becomes of the past.
    effect: &'static str,
}

impl Change<'_> {
    fn consequence(&self) -> String {
        let Self {
            field,
            from,
            to,
            effect,
        } = self;
        format!("{field} was {from} and is {to}: {effect}.")
    }
}

fn changes<'a>(from: &'a ConfirmedStatus, to: &'a ConfirmedStatus) -> Vec<Change<'a>> {
    let change = |field, from: &'a str, to: &'a str, effect| Change {
        field,
        from,
        to,
        effect,
    };
    let all = [
        change(
            "source.kafka.consumerGroup",
            &from.consumer_group,
            &to.consumer_group,
            "the new group starts at its own committed offsets, or with every task that the topic holds",
        ),
        change(
            "source.kafka.rangesTopic",
            &from.ranges_topic,
            &to.ranges_topic,
            "page ranges that are still in the old topic are not read; their documents start again after ten minutes",
        ),
        change(
            "stores.milvus.collection",
            &from.collection,
            &to.collection,
            "vectors in the old collections are no longer found",
        ),
        change(
            "stores.mongodb.database",
            &from.database,
            &to.database,
            "the new database knows nothing of the documents that were processed",
        ),
        change(
            "embedding.model.family",
            &from.model_family,
            &to.model_family,
            "vectors in the existing collections cannot be compared with new ones, and documents of another vector width become dead letters",
        ),
    ];
    let changed = all.into_iter().filter(|change| change.from != change.to);
    changed.collect()
}

fn value(changes: &[Change<'_>]) -> String {
    let parts: Vec<String> = changes
        .iter()
        .map(|change| format!("{}={}", change.field, change.to))
        .collect();
    parts.join(",")
}
