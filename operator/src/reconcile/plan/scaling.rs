//! The number of workers: what the autoscaler decides, what the mode makes of it, and how it is
//! told. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use layra_autoscaler::{
    Decision, Inputs, Learned, Limit, Memory, Observation, Partition, Terms, UnknownBacklog, decide,
};
use layra_crds::{
    IngestionPipeline, LearnedStatus, ScalingInputs, ScalingMode, ScalingStatus, ScalingTerms,
};

use super::{conditions::Verdict, fleet};
use crate::{
    policy::{fewest, floor_now, policy},
    reconcile::world::World,
};

/// What is learned is written again when it differs by more than this part ...
const NEWS: f64 = 0.25;
/// ... and a termination grace is this many times the longest piece of work,
const GRACE_TIMES_WORK: f64 = 2.0;
/// doubled from this one up, so that it seldom changes.
const SHORTEST_GRACE: u32 = 120;
const LONGEST_GRACE: u32 = 6 * 3600;

pub(crate) const PARTITION_STUCK: &str = "PartitionStuck";
pub(crate) const INEFFECTIVE: &str = "IneffectiveScaleUp";
pub(crate) const INVALID_SCHEDULE: &str = "InvalidSchedule";

/// What was decided.
pub(super) struct Scaling {
    /// Workers that the Deployment is to ask for.
    pub(super) replicas: i32,
    /// The condition.
    pub(super) verdict: Verdict,
    /// For the status.
    pub(super) status: ScalingStatus,
    /// The numbers of this moment, for metrics.
    pub(super) decision: Option<Decision>,
    /// What the autoscaler is to remember; `None` when it was not asked.
    pub(super) memory: Option<Memory>,
}

/// Decides. Without a `memory` it begins with what the status remembers.
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
        let message = "Paused: the number of workers stays.";
        let verdict = Verdict::no(
            "Paused",
            "The number of workers stays while the pipeline is paused.",
        );
        return fixed(live.unwrap_or(0), "Paused", message, verdict, before, now);
    }
    if scaling.mode == ScalingMode::Manual {
        let replicas = scaling.replicas.unwrap_or(scaling.min_replicas);
        let message = "scaling.mode is Manual: scaling.replicas holds.";
        let verdict = Verdict::yes(
            "Manual",
            "scaling.replicas says how many workers there are.",
        );
        return fixed(replicas, "Manual", message, verdict, before, now);
    }

    let floor = floor_now(scaling, now);
    let fewest = fewest(scaling);
    let policy = policy(&pipeline.spec, floor.as_ref().copied().unwrap_or(fewest));
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
            Err(error) => Verdict::no(INVALID_SCHEDULE, error.to_string()),
            Ok(_) => verdict(world, &decision, recommend_only),
        },
        status: status(&decision, before, now),
        decision: Some(decision),
        memory: Some(memory),
    }
}

/// The termination grace that follows from the longest piece of work seen.
pub(super) fn grace_seconds(status: &ScalingStatus) -> u32 {
    let longest = status
        .learned
        .as_ref()
        .map_or(0.0, |learned| learned.longest_work_seconds);
    let mut grace = SHORTEST_GRACE;
    while f64::from(grace) < GRACE_TIMES_WORK * longest && grace < LONGEST_GRACE {
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
                reason: problem.reason,
                message: problem.message,
            }),
        workers,
        terminating,
    }
}

fn fixed(
    replicas: i32,
    reason: &str,
    message: &str,
    verdict: Verdict,
    before: Option<&ScalingStatus>,
    now: Timestamp,
) -> Scaling {
    Scaling {
        replicas,
        verdict,
        status: ScalingStatus {
            desired_replicas: replicas,
            reason: reason.to_owned(),
            message: message.to_owned(),
            learned: before.and_then(|before| before.learned.clone()),
            last_scale_time: scale_time(replicas, before, now),
            ..ScalingStatus::default()
        },
        decision: None,
        memory: None,
    }
}

fn verdict(world: &World, decision: &Decision, recommend_only: bool) -> Verdict {
    if let Err(problem) = &world.backlog {
        let message = format!(
            "The backlog is unknown, workers stay as they are: {}",
            problem.message
        );
        return Verdict::unknown(problem.reason, message);
    }
    if decision.limits.contains(&Limit::Unknown) {
        return Verdict::unknown(decision.reason.as_str(), decision.message.clone());
    }
    if !decision.stuck.is_empty() {
        let message = format!(
            "No worker gets on with {}: it has been at the same message for long. Look at the worker's log, and at the message.",
            partitions(&decision.stuck).join(", ")
        );
        return Verdict::yes(PARTITION_STUCK, message);
    }
    let has = |limit| decision.limits.contains(&limit);
    if has(Limit::IneffectiveScaleUp) {
        Verdict::yes(
            INEFFECTIVE,
            "The last scale-up brought no more pages per second: something else is the bottleneck, for example Milvus or the object store. No more workers are added for now.",
        )
    } else if has(Limit::PendingWorkers) {
        Verdict::yes(
            "PendingWorkers",
            "Workers wait for a node; no more than scaling.maxPendingWorkers do at the same time.",
        )
    } else if has(Limit::MaxReplicas) {
        Verdict::yes(
            "AtMaxReplicas",
            "The work asks for more workers than maxReplicas.",
        )
    } else if has(Limit::Partitions) {
        Verdict::yes(
            "AtPartitions",
            "The work asks for more workers than there are partitions.",
        )
    } else if recommend_only {
        Verdict::yes(
            "RecommendOnly",
            "scaling.mode is Recommend: status.scaling says what would be done.",
        )
    } else {
        Verdict::yes(
            "FollowingBacklog",
            "The number of workers follows the backlog.",
        )
    }
}

/// The status keeps the explanation of the last decision until another one, or another reason for
/// the same one, takes its place.
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
        let is_news = match (&learned, &same.learned) {
            (Some(new), Some(old)) => is_news(new, old),
            (new, old) => new.is_some() && old.is_none(),
        };
        return ScalingStatus {
            learned: if is_news {
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

fn is_news(new: &LearnedStatus, old: &LearnedStatus) -> bool {
    let differs = |new: f64, old: f64| (new - old).abs() > NEWS * old.abs();
    differs(new.pages_per_second, old.pages_per_second)
        || differs(new.pages_per_document, old.pages_per_document)
        || differs(new.startup_seconds, old.startup_seconds)
        || differs(new.longest_work_seconds, old.longest_work_seconds)
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

/// Three decimals: enough for every use, and short in the status.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn whole(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
