//! What people want to be told: an event for each change, none while things stay as they are. Pure.

use kube::runtime::events::{Event, EventType};
use layra_crds::{IngestionPipelineStatus, ScalingMode};

use super::{
    Manifest,
    conditions::{self, READY, SCALING, TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE},
    manifests::changes_template,
    scaling, vector_store, workers,
};
use crate::{kafka::TopicAction, reconcile::world::World, resources::Kind};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whether somebody should have a look.
    pub(crate) warning: bool,
    /// A stable word.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

impl Note {
    fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// The event as Kubernetes takes it.
    pub(crate) fn to_event(&self) -> Event {
        Event {
            type_: if self.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: self.reason.clone(),
            note: Some(shortened(&self.message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        }
    }
}

/// What is worth telling about the step from one status to the next.
pub(super) fn between(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    world: &World,
    manifests: &[Manifest],
    mode: ScalingMode,
) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(scaled(before, after, mode));
    notes.extend(hindered(before, after));
    notes.extend(rolled(world, manifests));
    notes.extend(drifted(before, after));
    for type_ in [TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE, READY] {
        notes.extend(turned(before, after, type_));
    }
    notes
}

/// A change to a topic that succeeded.
pub(crate) fn topic_changed(action: &TopicAction) -> Note {
    match action {
        TopicAction::Create {
            topic,
            partitions,
            replication_factor,
            ..
        } => Note::normal(
            "TopicCreated",
            format!(
                "Topic {topic} was created (partitions: {partitions}, replication factor: {replication_factor})."
            ),
        ),
        TopicAction::AddPartitions { topic, partitions } => Note::normal(
            "PartitionsIncreased",
            format!("Topic {topic} now has {partitions} partitions."),
        ),
    }
}

fn scaled(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    mode: ScalingMode,
) -> Option<Note> {
    let after = after.scaling.as_ref()?;
    let old = before
        .scaling
        .as_ref()
        .map_or(0, |scaling| scaling.desired_replicas);
    let reason = match after.desired_replicas.cmp(&old) {
        std::cmp::Ordering::Less | std::cmp::Ordering::Greater
            if mode == ScalingMode::Recommend =>
        {
            "ScalingRecommended"
        }
        std::cmp::Ordering::Greater => "ScaledUp",
        std::cmp::Ordering::Less => "ScaledDown",
        std::cmp::Ordering::Equal => return None,
    };
    let message = format!(
        "{old} to {} workers. {}",
        after.desired_replicas, after.message
    );
    Some(Note::normal(reason, message))
}

/// Something keeps the workers from helping.
fn hindered(before: &IngestionPipelineStatus, after: &IngestionPipelineStatus) -> Option<Note> {
    let old = conditions::find(&before.conditions, SCALING);
    let new = conditions::find(&after.conditions, SCALING)?;
    let grave = [
        scaling::PARTITION_STUCK,
        scaling::INEFFECTIVE,
        scaling::INVALID_SCHEDULE,
    ];
    let is_new = old.is_none_or(|old| old.reason != new.reason);
    (is_new && grave.contains(&new.reason.as_str()))
        .then(|| Note::warning(&new.reason, new.message.clone()))
}

/// Another configuration, secret, image or pod setting: the workers are replaced.
fn rolled(world: &World, manifests: &[Manifest]) -> Option<Note> {
    let live = world.live.deployment.as_deref()?;
    live.spec
        .as_ref()?
        .replicas
        .filter(|replicas| *replicas > 0)?;
    let manifest = manifests
        .iter()
        .find(|manifest| manifest.kind == Kind::Deployment)?;
    changes_template(manifest, live).then(|| {
        Note::normal(
            "RolloutStarted",
            "The workers are replaced: their configuration, Secrets or pod settings changed.",
        )
    })
}

fn drifted(before: &IngestionPipelineStatus, after: &IngestionPipelineStatus) -> Option<Note> {
    let new = after
        .drifted_collections
        .iter()
        .find(|collection| !before.drifted_collections.contains(collection))?;
    Some(Note::warning(
        vector_store::INDEX_DRIFT,
        format!(
            "Collection {} has another index than the spec: {}.",
            new.name, new.difference
        ),
    ))
}

/// A condition that turned: a warning when it is bad news, else a note when it became true again.
fn turned(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    type_: &str,
) -> Option<Note> {
    let old = conditions::find(&before.conditions, type_);
    let new = conditions::find(&after.conditions, type_)?;
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return None;
    }
    if type_ == READY {
        // Its bad news are those of its parts.
        let became_ready = new.status == "True" && old.is_none_or(|old| old.status != "True");
        return became_ready.then(|| Note::normal(&new.reason, new.message.clone()));
    }
    let partly = [workers::WAITING_FOR_GPU, workers::UNSCHEDULABLE].contains(&new.reason.as_str());
    let expected = [
        workers::STARTING,
        workers::ROLLOUT,
        super::topic::CREATING,
        super::topic::INCREASING,
        "Paused",
        "NotChecked",
    ];
    let bad = new.status != "True" || partly;
    (bad && !expected.contains(&new.reason.as_str()))
        .then(|| Note::warning(&new.reason, new.message.clone()))
}

/// The API server takes 1024 bytes.
fn shortened(message: &str) -> String {
    const LONGEST: usize = 1000;
    match message
        .char_indices()
        .take_while(|(index, _)| *index <= LONGEST)
        .last()
    {
        Some((index, _)) if message.len() > LONGEST => format!("{}…", &message[..index]),
        _ => message.to_owned(),
    }
}
