//! Kubernetes events: one for each change, none in a steady state. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::runtime::events::{Event, EventType};
use layra_crds::{
    IngestionPipeline, IngestionPipelineStatus, ScalingMode,
    condition_types::{
        QUERY_READY, READY, SCALING, TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE,
    },
};

use super::{Manifest, conditions, manifests::changes_template, warnings};
use crate::{
    kafka::TopicAction,
    reconcile::{
        reason::{Progress, Reason},
        world::World,
    },
    resources::Kind,
};

/// A pod that was ended before this time is not reported.
const RECENT: SignedDuration = SignedDuration::from_mins(10);

/// An event to publish on the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PipelineEvent {
    /// Needs attention.
    pub(crate) warning: bool,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// It repeats what a condition says, so that an equal one need not be published again soon.
    pub(crate) of_condition: bool,
    /// The pod, or the run of a command, that it is about: it is published once for each.
    pub(crate) pod: Option<String>,
}

impl PipelineEvent {
    pub(crate) fn normal(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
            of_condition: false,
            pod: None,
        }
    }

    pub(crate) fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
            of_condition: false,
            pod: None,
        }
    }

    fn of_condition(self) -> Self {
        Self {
            of_condition: true,
            ..self
        }
    }

    /// The event in Kubernetes' own type.
    pub(crate) fn to_kubernetes(&self) -> Event {
        Event {
            type_: if self.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: self.reason.as_str().to_owned(),
            note: Some(shortened(&self.message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        }
    }
}

/// The events for what has changed in the status, the spec and the pods.
pub(super) fn of(
    pipeline: &IngestionPipeline,
    world: &World,
    status: &IngestionPipelineStatus,
    manifests: &[Manifest],
    now: Timestamp,
) -> Vec<PipelineEvent> {
    let before = pipeline.status.clone().unwrap_or_default();
    let mode = pipeline.spec.scaling.mode;
    let mut events = between(&before, status, world, manifests, mode);
    events.extend(warnings::of_new_spec(pipeline, &before));
    events.extend(evicted(world, now));
    events
}

/// The events for the step from one status to the next.
fn between(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    world: &World,
    manifests: &[Manifest],
    mode: ScalingMode,
) -> Vec<PipelineEvent> {
    let mut events = Vec::new();
    events.extend(scaled(before, after, mode));
    events.extend(scaling_problem(before, after));
    events.extend(rollout(world, manifests));
    events.extend(model_changed(before, after, world));
    for type_ in [
        TOPIC_READY,
        VECTOR_STORE_READY,
        WORKERS_AVAILABLE,
        QUERY_READY,
        READY,
    ] {
        events.extend(condition_changed(before, after, type_));
    }
    events
}

/// The event for a change of a topic that succeeded.
pub(crate) fn topic_changed(action: &TopicAction) -> PipelineEvent {
    match action {
        TopicAction::Create {
            topic,
            partitions,
            replication_factor,
            ..
        } => PipelineEvent::normal(
            Reason::TopicCreated,
            format!(
                "Topic {topic} was created (partitions: {partitions}, replication factor: {replication_factor})."
            ),
        ),
        TopicAction::AddPartitions { topic, partitions } => PipelineEvent::normal(
            Reason::PartitionsIncreased,
            format!("Topic {topic} now has {partitions} partitions."),
        ),
    }
}

fn scaled(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    mode: ScalingMode,
) -> Option<PipelineEvent> {
    let after = after.scaling.as_ref()?;
    let old = before
        .scaling
        .as_ref()
        .map_or(0, |scaling| scaling.desired_replicas);
    let new = after.desired_replicas;
    let (reason, verb) = match new.cmp(&old) {
        std::cmp::Ordering::Equal => return None,
        _ if mode == ScalingMode::Recommend => {
            (Reason::ScalingRecommended, "Recommendation: scale")
        }
        std::cmp::Ordering::Greater => (Reason::ScaledUp, "Scaled up"),
        std::cmp::Ordering::Less => (Reason::ScaledDown, "Scaled down"),
    };
    let message = format!("{verb} the workers from {old} to {new}. {}", after.message);
    Some(PipelineEvent::normal(reason, message))
}

/// A problem that more workers do not solve.
fn scaling_problem(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
) -> Option<PipelineEvent> {
    let old = conditions::find(&before.conditions, SCALING);
    let new = conditions::find(&after.conditions, SCALING)?;
    let is_new = old.is_none_or(|old| old.reason != new.reason);
    let reason = Reason::from_word(&new.reason)?;
    let is_problem = matches!(
        reason,
        Reason::PartitionStuck
            | Reason::IneffectiveScaleUp
            | Reason::InvalidSchedule
            | Reason::StoresAway
            | Reason::QuotaReached
            | Reason::WorkersNotMeasured
            | Reason::PartitionsUnread
    );
    (is_new && is_problem)
        .then(|| PipelineEvent::warning(reason, new.message.clone()).of_condition())
}

/// A new pod template: the workers are replaced.
fn rollout(world: &World, manifests: &[Manifest]) -> Option<PipelineEvent> {
    let live = world.live.deployment.as_deref()?;
    live.spec
        .as_ref()?
        .replicas
        .filter(|replicas| *replicas > 0)?;
    let manifest = manifests
        .iter()
        .find(|manifest| manifest.kind == Kind::Deployment)?;
    let past = &world.past_writes;
    // It had no effect, so this time it has none either.
    let is_repeat = past
        .applied
        .iter()
        .any(|applied| applied.write == manifest.write);
    (!is_repeat && changes_template(manifest, live, past)).then(|| {
        PipelineEvent::normal(
            Reason::RolloutStarted,
            "The workers are being replaced because their configuration, Secrets or pod settings changed.",
        )
    })
}

/// Pods that were ended a short time ago: a restarted operator does not report old ones again.
fn evicted(world: &World, now: Timestamp) -> impl Iterator<Item = PipelineEvent> {
    let pods = world.pods.iter();
    pods.filter_map(move |pod| {
        let why = pod.eviction.as_ref().filter(|_| !pod.terminating)?;
        let since = pod.unready_since?;
        (now.duration_since(since) < RECENT).then(|| PipelineEvent {
            pod: Some(pod.name.clone()),
            ..PipelineEvent::warning(
                Reason::WorkerEvicted,
                format!("Worker {} was ended. {why}", pod.name),
            )
        })
    })
}

/// New workers have loaded another checkpoint, and there are vectors of the earlier one.
fn model_changed(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    world: &World,
) -> Option<PipelineEvent> {
    let (old, new) = before.model.as_ref().zip(after.model.as_ref())?;
    let collections = world
        .indexes
        .as_ref()
        .map_or(0, |report| report.collections);
    (old.checksum != new.checksum && collections > 0).then(|| {
        PipelineEvent::warning(
            Reason::ModelChanged,
            format!(
                "New workers have loaded the checkpoint {} instead of {}. Vectors in the {collections} existing collections cannot be compared with theirs: their documents wait and searches are refused until layra-worker reembed has embedded them again, or the model is set back.",
                new.checksum, old.checksum
            ),
        )
    })
}

/// A condition changed: a warning if that is a problem, a normal event when Ready becomes true.
fn condition_changed(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    type_: &str,
) -> Option<PipelineEvent> {
    let old = conditions::find(&before.conditions, type_);
    let new = conditions::find(&after.conditions, type_)?;
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return None;
    }
    let reason = Reason::from_word(&new.reason)?;
    if type_ == READY {
        // Its problems are those of its parts, which have events of their own.
        let became_ready = new.status == "True" && old.is_none_or(|old| old.status != "True");
        return became_ready
            .then(|| PipelineEvent::normal(reason, new.message.clone()).of_condition());
    }
    let is_problem = new.status != "True" || reason.warns_while_true();
    let is_expected = reason == Reason::Paused || reason.progress() == Some(Progress::InProgress);
    (is_problem && !is_expected)
        .then(|| PipelineEvent::warning(reason, new.message.clone()).of_condition())
}

/// The API server accepts 1024 bytes.
pub(super) fn shortened(message: &str) -> String {
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
