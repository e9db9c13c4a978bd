//! The number of workers: the autoscaler's decision, adjusted to the mode, with the condition Scaling
//! and `status.scaling`. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use layra_autoscaler::{
    Decision, Inputs, Learned, Limit, Memory, Observation, Partition, Terms, UnknownBacklog, decide,
};
use layra_crds::{
    IngestionPipeline, LearnedStatus, ScalingInputs, ScalingMode, ScalingStatus, ScalingTerms,
};
use layra_policy::{fewest, floor_now, policy};

use super::{conditions::Verdict, fleet, manual, stall::Stall};
use crate::reconcile::{reason::Reason, world::World};

/// Learned values are written to the status when one changes by more than this fraction.
const SIGNIFICANT_CHANGE: f64 = 0.25;
/// A termination grace period is at least this many times the longest work.
const GRACE_PER_WORK: f64 = 2.0;
/// The shortest and the longest termination grace period, in seconds. The values between them are
/// doublings of the shortest, so that the pod template rarely changes.
const SHORTEST_GRACE: u32 = 120;
const LONGEST_GRACE: u32 = 6 * 3600;

/// Partitions that a message names.
const MOST_NAMED: usize = 5;

/// A scaling decision in the operator's types.
pub(super) struct Scaling {
    pub(super) replicas: i32,
    pub(super) verdict: Verdict,
    pub(super) status: ScalingStatus,
    /// The decision with its current numbers, for metrics; `None` while paused or in mode `Manual`.
    pub(super) decision: Option<Decision>,
    /// State of the autoscaler for the next decision; `None` while paused or in mode `Manual`.
    pub(super) memory: Option<Memory>,
    /// The number of workers to write into the spec.
    pub(super) record: Option<i32>,
}

/// Decides. Without a `memory` it starts with the learned values in the status.
pub(super) fn plan(
    pipeline: &IngestionPipeline,
    world: &World,
    memory: Option<&Memory>,
    now: Timestamp,
) -> Scaling {
    let scaling = &pipeline.spec.scaling;
    let before = pipeline.status.as_ref().and_then(|s| s.scaling.as_ref());
    let live = live_replicas(world);
    if pipeline.spec.paused {
        let message = "The pipeline is paused: the number of workers does not change.";
        let verdict = Verdict::no(Reason::Paused, message);
        return fixed(live.unwrap_or(0), verdict, before, now);
    }
    if scaling.mode == ScalingMode::Manual {
        let (replicas, message) = manual::replicas(scaling, live);
        let verdict = Verdict::yes(Reason::Manual, message);
        return Scaling {
            record: manual::to_record(scaling, replicas),
            ..fixed(replicas, verdict, before, now)
        };
    }

    let floor = floor_now(scaling, now);
    let min_replicas = fewest(scaling);
    let policy = policy(
        &pipeline.spec,
        floor.as_ref().copied().unwrap_or(min_replicas),
    );
    let memory = memory.cloned().unwrap_or_else(|| {
        Memory::new(
            before
                .and_then(|status| status.learned.as_ref())
                .map(learned),
            &policy,
        )
    });
    let current = live.unwrap_or(scaling.min_replicas);
    let observation = observe(world, current, now);
    let (decision, memory) = decide(&observation, &policy, memory);
    let recommend_only = scaling.mode == ScalingMode::Recommend;
    Scaling {
        replicas: if recommend_only {
            current
        } else {
            whole(decision.desired)
        },
        verdict: match floor {
            Err(error) => Verdict::no(Reason::InvalidSchedule, error.to_string()),
            Ok(_) => verdict(world, &decision, recommend_only),
        },
        status: status(&decision, before, now),
        decision: Some(decision),
        memory: Some(memory),
        record: None,
    }
}

/// The number of workers of a pipeline that waits for an edit.
pub(super) fn stalled(
    pipeline: &IngestionPipeline,
    world: &World,
    stall: &Stall,
    now: Timestamp,
) -> Scaling {
    let before = pipeline.status.as_ref().and_then(|s| s.scaling.as_ref());
    let replicas = stall.replicas.or_else(|| live_replicas(world));
    fixed(replicas.unwrap_or(0), stall.verdict.clone(), before, now)
}

/// The termination grace period for the longest work measured so far.
pub(super) fn grace_seconds(status: &ScalingStatus) -> u32 {
    let longest = status
        .learned
        .as_ref()
        .map_or(0.0, |learned| learned.longest_work_seconds);
    let mut grace = SHORTEST_GRACE;
    while f64::from(grace) < GRACE_PER_WORK * longest && grace < LONGEST_GRACE {
        grace *= 2;
    }
    grace.min(LONGEST_GRACE)
}

fn live_replicas(world: &World) -> Option<i32> {
    let deployment = world.live.deployment.as_ref()?;
    deployment.spec.as_ref()?.replicas
}

fn observe(world: &World, current: i32, now: Timestamp) -> Observation {
    let (workers, terminating) = fleet::workers(&world.pods, &world.counts);
    Observation {
        at: now,
        current: u32::try_from(current).unwrap_or(0),
        backlog: world
            .backlog
            .clone()
            .map_err(|problem| UnknownBacklog::OffsetsNotRead {
                reason: problem.reason.as_str(),
                message: problem.message,
            }),
        workers,
        terminating,
    }
}

/// A number of workers that the autoscaler does not decide.
fn fixed(
    replicas: i32,
    verdict: Verdict,
    before: Option<&ScalingStatus>,
    now: Timestamp,
) -> Scaling {
    Scaling {
        replicas,
        status: ScalingStatus {
            desired_replicas: replicas,
            reason: verdict.reason.as_str().to_owned(),
            message: verdict.message.clone(),
            learned: before.and_then(|before| before.learned.clone()),
            last_scale_time: scale_time(replicas, before, now),
            ..ScalingStatus::default()
        },
        verdict,
        decision: None,
        memory: None,
        record: None,
    }
}

fn verdict(world: &World, decision: &Decision, recommend_only: bool) -> Verdict {
    if let Err(problem) = &world.backlog {
        let message = format!(
            "The backlog is unknown, so the number of workers is held. {}",
            problem.message
        );
        return Verdict::unknown(problem.reason, message);
    }
    if decision.limits.contains(&Limit::Unknown) {
        // The cause of an unknown backlog has a reason of the same word.
        let reason =
            Reason::from_word(decision.reason.as_str()).unwrap_or(Reason::KafkaUnreachable);
        return Verdict::unknown(reason, decision.message.clone());
    }
    if !decision.stuck.is_empty() {
        let message = format!(
            "No progress on {}: the same message has been in progress for more than ten minutes. Check the worker's log and the message at the committed offset.",
            partitions(&decision.stuck).join(", ")
        );
        return Verdict::yes(Reason::PartitionStuck, message);
    }
    if let Some(message) = unread(world) {
        return Verdict::yes(Reason::PartitionsUnread, message);
    }
    let has = |limit| decision.limits.contains(&limit);
    let (reason, message) = if has(Limit::IneffectiveScaleUp) {
        (
            Reason::IneffectiveScaleUp,
            "The last scale-up did not raise the pages per second, so no more workers are added for now. Look for another bottleneck, for example Milvus or the object store.",
        )
    } else if has(Limit::PendingWorkers) {
        (
            Reason::PendingWorkers,
            "As many workers are pending as scaling.maxPendingWorkers allows, so no more are added. Add nodes.",
        )
    } else if has(Limit::MaxReplicas) {
        (
            Reason::AtMaxReplicas,
            "The backlog needs more workers than scaling.maxReplicas. Raise it, or accept a longer drain.",
        )
    } else if has(Limit::Partitions) {
        (
            Reason::AtPartitions,
            "The backlog needs more workers than there are partitions. Raise source.kafka.partitions, or accept a longer drain.",
        )
    } else if recommend_only {
        (
            Reason::RecommendOnly,
            "scaling.mode is Recommend: status.scaling shows the decision, and nothing is changed.",
        )
    } else {
        (
            Reason::FollowingBacklog,
            "The number of workers follows the backlog.",
        )
    };
    Verdict::yes(reason, message)
}

/// Which partitions could not be read, and why not.
fn unread(world: &World) -> Option<String> {
    let unread = &world.backlog.as_ref().ok()?.unread;
    let (_, why) = unread.first_key_value()?;
    let names = partitions(&unread.keys().copied().collect::<Vec<_>>());
    let more = match names.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "The offsets of {}{more} cannot be read: {why}. The others count, and no worker is stopped. Check the brokers.",
        names[..names.len().min(MOST_NAMED)].join(", ")
    ))
}

/// The status keeps the explanation of a decision until the decision or its reason changes.
fn status(decision: &Decision, before: Option<&ScalingStatus>, now: Timestamp) -> ScalingStatus {
    let desired = whole(decision.desired);
    let limits: Vec<String> = decision
        .limits
        .iter()
        .map(|limit| limit.as_str().to_owned())
        .collect();
    let stuck = partitions(&decision.stuck);
    let learned = decision
        .is_learned
        .then(|| learned_status(&decision.learned));
    let same = before.filter(|before| {
        before.desired_replicas == desired
            && before.reason == decision.reason.as_str()
            && before.limits == limits
            && before.stuck_partitions == stuck
    });
    if let Some(same) = same {
        let is_due = match (&learned, &same.learned) {
            (Some(new), Some(old)) => differs(new, old),
            (new, old) => new.is_some() && old.is_none(),
        };
        return ScalingStatus {
            learned: if is_due {
                learned
            } else {
                same.learned.clone()
            },
            ..same.clone()
        };
    }
    ScalingStatus {
        desired_replicas: desired,
        reason: decision.reason.as_str().to_owned(),
        message: decision.message.clone(),
        limits,
        inputs: Some(inputs(&decision.inputs)),
        terms: decision.terms.as_ref().map(terms),
        learned: learned.or_else(|| before.and_then(|before| before.learned.clone())),
        stuck_partitions: stuck,
        last_scale_time: scale_time(desired, before, now),
    }
}

fn scale_time(desired: i32, before: Option<&ScalingStatus>, now: Timestamp) -> Option<Time> {
    match before.filter(|before| before.desired_replicas == desired) {
        Some(before) => before.last_scale_time.clone(),
        None => Timestamp::from_second(now.as_second()).ok().map(Time),
    }
}

/// Whether a learned value changed significantly.
fn differs(new: &LearnedStatus, old: &LearnedStatus) -> bool {
    let changed = |new: f64, old: f64| (new - old).abs() > SIGNIFICANT_CHANGE * old.abs();
    changed(new.pages_per_second, old.pages_per_second)
        || changed(new.pages_per_document, old.pages_per_document)
        || changed(new.startup_seconds, old.startup_seconds)
        || changed(new.longest_work_seconds, old.longest_work_seconds)
}

fn learned(status: &LearnedStatus) -> Learned {
    Learned {
        pages_per_second: status.pages_per_second.max(1e-3),
        pages_per_document: status.pages_per_document.max(1e-3),
        startup_seconds: status.startup_seconds.max(0.0),
        longest_seconds: status.longest_work_seconds.max(0.0),
    }
}

fn learned_status(learned: &Learned) -> LearnedStatus {
    LearnedStatus {
        pages_per_second: rounded(learned.pages_per_second),
        pages_per_document: rounded(learned.pages_per_document),
        startup_seconds: rounded(learned.startup_seconds),
        longest_work_seconds: rounded(learned.longest_seconds),
    }
}

fn inputs(inputs: &Inputs) -> ScalingInputs {
    ScalingInputs {
        documents: inputs.documents,
        ranges: inputs.ranges,
        pages: inputs.pages.map(rounded),
        oldest_seconds: inputs.oldest_seconds.map(rounded),
        arriving_pages_per_second: inputs.arriving.map(rounded),
        partitions: inputs.partitions,
        partitions_with_work: inputs.partitions_with_work,
        ready_workers: inputs.ready,
        starting_workers: inputs.starting,
        waiting_workers: inputs.pending,
    }
}

fn terms(terms: &Terms) -> ScalingTerms {
    ScalingTerms {
        for_arrivals: terms.for_arrivals,
        for_backlog: terms.for_backlog,
        to_scale_down: terms.to_scale_down,
        floor: terms.floor,
        ceiling: terms.ceiling,
        window: terms.window,
        window_seconds: terms.window_seconds,
    }
}

fn partitions(partitions: &[Partition]) -> Vec<String> {
    partitions
        .iter()
        .map(|partition| format!("{}/{}", partition.topic, partition.number))
        .collect()
}

/// Three decimals are precise enough and short in the status.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
