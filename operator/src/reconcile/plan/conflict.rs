//! Two pipelines that need the same thing for themselves. The older one has it; the younger one runs
//! no workers until one of the two changes. Pure.
//!
//! What is compared: the brokers and databases as they are written in the specs, and the hosts of
//! MongoDB in the Secrets. Two names of one server are not recognised. A change that waits for its
//! confirmation does not count: the workers still have the settings of before.

use jiff::Timestamp;
use kube::ResourceExt;
use layra_crds::{
    COLLECTION_PLACEHOLDER, IngestionPipeline, IngestionPipelineSpec,
    condition_types::WORKERS_AVAILABLE,
};

use super::{
    conditions::{self, Verdict},
    confirmation::{self, confirmed_spec, spec_in_force},
};
use crate::reconcile::{reason::Reason, rivals::Rival, world::World};

/// Something that both pipelines need for themselves, and the field that tells them apart.
struct Clash {
    what: String,
    field: &'static str,
    /// Only vectors of two families would be mixed. That stops no pipeline that has already run: its
    /// vectors are there, and the older one may have come to them later.
    is_of_model: bool,
}

/// The conflict with the oldest pipeline that there is one with. `rivals` are the older pipelines,
/// the oldest first.
pub(super) fn judge(pipeline: &IngestionPipeline, rivals: &[Rival]) -> Option<Verdict> {
    let spec = spec_in_force(pipeline);
    let has_run = confirmation::has_run_with(pipeline, &spec);
    rivals.iter().find_map(|rival| {
        let clashes = clashes(&spec, rival);
        let mut stopping = clashes.iter().filter(|it| !(has_run && it.is_of_model));
        stopping
            .next()
            .map(|_| Verdict::no(Reason::Conflict, message(&rival.pipeline, &clashes)))
    })
}

/// The conflict that was found for this generation, while it can neither be found nor refuted: the
/// pipelines of a namespace are not listed, or a Secret cannot be read.
pub(super) fn kept(pipeline: &IngestionPipeline, world: &World) -> Option<Verdict> {
    let before = &pipeline.status.as_ref()?.conditions;
    let condition = conditions::find(before, WORKERS_AVAILABLE)?;
    if condition.observed_generation != pipeline.metadata.generation {
        return None;
    }
    let found = Verdict::of(condition).filter(|verdict| verdict.reason == Reason::Conflict)?;
    let is_unread = |rival: &Rival| {
        rival.same_mongodb.is_none() && found.message.starts_with(&beginning(&rival.pipeline))
    };
    let is_open = world.has_unlisted_rivals || world.rivals.iter().any(is_unread);
    is_open.then_some(found)
}

fn beginning(older: &IngestionPipeline) -> String {
    format!("Pipeline {} is older", full_name(older))
}

fn message(older: &IngestionPipeline, clashes: &[Clash]) -> String {
    let list = |part: fn(&Clash) -> &str| {
        let parts: Vec<&str> = clashes.iter().map(part).collect();
        parts.join(", ")
    };
    format!(
        "{} and uses the same {}. Change {} here, or delete one of the two. Until then no worker of this pipeline runs.",
        beginning(older),
        list(|clash| &clash.what),
        list(|clash| clash.field),
    )
}

pub(super) fn full_name(pipeline: &IngestionPipeline) -> String {
    let namespace = pipeline.namespace().unwrap_or_default();
    format!("{namespace}/{}", pipeline.name_any())
}

/// Orders pipelines by age, the oldest first. The names decide between two of the same second.
pub(crate) fn age(pipeline: &IngestionPipeline) -> (Option<Timestamp>, Option<String>, String) {
    let created = pipeline.metadata.creation_timestamp.as_ref();
    let created = created.map(|time| time.0);
    (created, pipeline.namespace(), pipeline.name_any())
}

/// Whether there can be a conflict at all. Cheap, for every pair of pipelines.
pub(crate) fn may_conflict(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    topics_may_meet(a, b) || (!same_model(a, b) && overlap(a, b))
}

/// Whether both read the same tasks.
pub(crate) fn same_source(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    a.source.kafka.topic == b.source.kafka.topic && same_cluster(a, b)
}

/// Whether one of them may read a topic that the other one reads. Builds no names: usually the topics
/// have nothing in common.
fn topics_may_meet(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    let (a, b) = (&a.source.kafka, &b.source.kafka);
    let has_own = a.ranges_topic.is_some() || b.ranges_topic.is_some();
    has_own || a.topic.starts_with(&b.topic) || b.topic.starts_with(&a.topic)
}

fn clashes(spec: &IngestionPipelineSpec, rival: &Rival) -> Vec<Clash> {
    let other = &*confirmed_spec(&rival.pipeline);
    let (kafka, older) = (&spec.source.kafka, &other.source.kafka);
    let same_source = same_source(spec, other);
    let mut clashes = Vec::new();
    let mut clash = |what: String, field| {
        clashes.push(Clash {
            what,
            field,
            is_of_model: false,
        });
    };
    if same_source && kafka.consumer_group == older.consumer_group {
        let (group, topic) = (&kafka.consumer_group, &kafka.topic);
        clash(
            format!("consumer group {group} of topic {topic}"),
            "source.kafka.consumerGroup",
        );
    }
    if same_cluster(spec, other) {
        let (ranges, older_ranges) = (kafka.ranges_topic(), older.ranges_topic());
        if ranges == older_ranges || ranges == older.topic {
            clash(format!("topic {ranges}"), "source.kafka.rangesTopic");
        } else if kafka.topic == older_ranges {
            clash(format!("topic {older_ranges}"), "source.kafka.topic");
        }
    }
    if same_source && rival.same_mongodb == Some(true) {
        let database = &spec.stores.mongodb.database;
        if *database == other.stores.mongodb.database {
            clash(
                format!("database {database} for documents of this topic"),
                "stores.mongodb.database",
            );
        }
    }
    if overlap(spec, other) && (same_source || !same_model(spec, other)) {
        let collection = &other.stores.milvus.collection;
        let why = if same_source {
            "for documents of this topic"
        } else {
            "for another model"
        };
        clashes.push(Clash {
            what: format!("collections {collection} {why}"),
            field: "stores.milvus.collection",
            is_of_model: !same_source,
        });
    }
    clashes
}

/// Whether the lists of brokers have one in common.
fn same_cluster(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    let (a, b) = (
        &a.source.kafka.bootstrap_servers,
        &b.source.kafka.bootstrap_servers,
    );
    let brokers = |list: &str| -> Vec<String> {
        let brokers = list.split(',').map(str::trim);
        let brokers = brokers.filter(|broker| !broker.is_empty());
        brokers.map(str::to_ascii_lowercase).collect()
    };
    a == b || {
        let others = brokers(b);
        brokers(a).iter().any(|broker| others.contains(broker))
    }
}

/// Whether the vectors can be compared, as far as the family tells. The checkpoints are compared where
/// they are loaded: two addresses may lead to the same one.
fn same_model(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    a.embedding.model.family == b.embedding.model.family
}

/// Whether a collection can have a name that both take for theirs.
pub(super) fn overlap(a: &IngestionPipelineSpec, b: &IngestionPipelineSpec) -> bool {
    let (a, b) = (&a.stores.milvus, &b.stores.milvus);
    let address = |uri: &str| uri.trim_end_matches('/').to_ascii_lowercase();
    let templates = a
        .collection
        .split_once(COLLECTION_PLACEHOLDER)
        .zip(b.collection.split_once(COLLECTION_PLACEHOLDER));
    let Some(((prefix, suffix), (other_prefix, other_suffix))) = templates else {
        return false;
    };
    let prefixes = prefix.starts_with(other_prefix) || other_prefix.starts_with(prefix);
    let suffixes = suffix.ends_with(other_suffix) || other_suffix.ends_with(suffix);
    prefixes && suffixes && address(&a.uri) == address(&b.uri)
}

#[cfg(test)]
#[path = "conflict_tests.rs"]
mod tests;
