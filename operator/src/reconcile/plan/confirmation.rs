//! Changes that cut a pipeline off from the documents that it has processed. An annotation has to
//! confirm them: until then nothing of the pipeline is changed. Pure.

use std::borrow::Cow;

use kube::ResourceExt;
use layra_crds::{ConfirmedStatus, IngestionPipeline, IngestionPipelineSpec};
use serde_json::{Value, from_value};

use crate::reconcile::world::World;

/// The annotation. Its value names the changed fields and their new values, so that it confirms no
/// later change.
const ANNOTATION: &str = "ingest.layra.io/confirm-change";

/// What a change that is not confirmed does, and how to confirm it.
pub(super) fn unconfirmed(pipeline: &IngestionPipeline) -> Option<String> {
    let before = confirmed(pipeline)?;
    if is_same(&pipeline.spec, before) {
        return None;
    }
    let settings = settings(pipeline);
    let changes = changes(before, &settings);
    let expected = value(&changes);
    if pipeline.annotations().get(ANNOTATION) == Some(&expected) {
        return None;
    }
    let sentences: Vec<String> = changes.iter().map(Change::consequence).collect();
    Some(format!(
        "{} Undo the change, or confirm it: kubectl annotate ipl {} --overwrite '{ANNOTATION}={expected}'.",
        sentences.join(" "),
        pipeline.name_any(),
    ))
}

/// The settings to compare with from now on. They are noted as soon as there are workers, and stay
/// while the pipeline waits for an edit: then no worker gets other ones.
pub(super) fn next(
    pipeline: &IngestionPipeline,
    world: &World,
    is_stalled: bool,
) -> Option<ConfirmedStatus> {
    let before = confirmed(pipeline).cloned();
    let has_past = before.is_some() || !world.pods.is_empty();
    if has_past && !is_stalled && !pipeline.spec.paused {
        Some(settings(pipeline))
    } else {
        before
    }
}

/// The spec with the settings that the workers have: those that were confirmed last.
pub(crate) fn confirmed_spec(pipeline: &IngestionPipeline) -> Cow<'_, IngestionPipelineSpec> {
    let confirmed = confirmed(pipeline).filter(|before| !is_same(&pipeline.spec, before));
    let Some(before) = confirmed else {
        return Cow::Borrowed(&pipeline.spec);
    };
    let mut spec = pipeline.spec.clone();
    let kafka = &mut spec.source.kafka;
    kafka.consumer_group.clone_from(&before.consumer_group);
    kafka.ranges_topic = Some(before.ranges_topic.clone());
    let stores = &mut spec.stores;
    stores.milvus.collection.clone_from(&before.collection);
    stores.mongodb.database.clone_from(&before.database);
    // A family that only another version of the operator knows is unlike any other.
    if let Ok(family) = from_value(Value::from(before.model_family.clone())) {
        spec.embedding.model.family = family;
    }
    Cow::Owned(spec)
}

/// The spec, without a change that waits for its confirmation.
pub(crate) fn spec_in_force(pipeline: &IngestionPipeline) -> Cow<'_, IngestionPipelineSpec> {
    if unconfirmed(pipeline).is_some() {
        confirmed_spec(pipeline)
    } else {
        Cow::Borrowed(&pipeline.spec)
    }
}

/// Whether workers have run with these settings.
pub(super) fn has_run_with(pipeline: &IngestionPipeline, spec: &IngestionPipelineSpec) -> bool {
    confirmed(pipeline).is_some_and(|before| is_same(spec, before))
}

fn confirmed(pipeline: &IngestionPipeline) -> Option<&ConfirmedStatus> {
    pipeline.status.as_ref()?.confirmed.as_ref()
}

/// Builds no name: it is asked for every pair of pipelines.
fn is_same(spec: &IngestionPipelineSpec, before: &ConfirmedStatus) -> bool {
    let kafka = &spec.source.kafka;
    let has_same_ranges = match &kafka.ranges_topic {
        Some(topic) => *topic == before.ranges_topic,
        None => before.ranges_topic.strip_prefix(&kafka.topic) == Some(".ranges"),
    };
    has_same_ranges
        && kafka.consumer_group == before.consumer_group
        && spec.stores.milvus.collection == before.collection
        && spec.stores.mongodb.database == before.database
        && spec.embedding.model.family.to_string() == before.model_family
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
