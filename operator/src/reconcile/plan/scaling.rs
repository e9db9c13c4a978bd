//! The number of workers: the autoscaler's decision, adjusted to the mode, with the condition Scaling
//! and `status.scaling`. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use layra_autoscaler::{
    Decision, Inputs, Learned, Limit, Memory, Observation, Partition, Policy, Terms,
    UnknownBacklog, decide,
};
use layra_crds::{
    FORGET_ANNOTATION, IngestionPipeline, LearnedStatus, ScalingInputs, ScalingMode, ScalingStatus,
    ScalingTerms,
};
use layra_policy::{fewest, floor_now, policy};

use super::{
    conditions::Verdict,
    fleet,
    manual::{self, Manual},
    stall::Stall,
};
use crate::{
    reconcile::{pods::WorkerPod, reason::Reason, world::World},
    resources::JobKind,
};

/// Learned values are written to the status when one changes by more than this fraction.
const SIGNIFICANT_CHANGE: f64 = 0.25;
/// Workers that wait for a server for a shorter time, in seconds, are not reported.
const SHORTEST_OUTAGE: f64 = 15.0;
/// A termination grace period is at least this many times the longest work.
const GRACE_PER_WORK: f64 = 2.0;
/// The shortest and the longest termination grace period, in seconds. The values between them are
/// doublings of the shortest, so that the pod template rarely changes.
const SHORTEST_GRACE: u32 = 120;
const LONGEST_GRACE: u32 = 6 * 3600;
/// For how long workers stay away for a Job that finds no node. A new node with a GPU takes less.
const LONGEST_WAY: SignedDuration = SignedDuration::from_mins(30);

/// Partitions that a message names.
const MOST_NAMED: usize = 5;

/// A scaling decision in the operator's types.
pub(super) struct Scaling {
    pub(super) replicas: i32,
    pub(super) verdict: Verdict,
    pub(super) status: ScalingStatus,
    /// The decision with its current numbers, for metrics; `None` while paused or in mode `Manual`.
    pub(super) decision: Option<Decision>,
    /// State of the autoscaler for the next decision. It stays while the autoscaler does not decide.
    pub(super) memory: Memory,
    /// The number of workers to write into the spec.
    pub(super) record: Option<i32>,
}

/// The last status, without what is to be forgotten.
struct Before {
    status: Option<ScalingStatus>,
    /// A person asks to forget what was learned, and that was not done yet.
    forget: bool,
    /// The last such request.
    request: Option<String>,
}

impl Before {
    fn of(pipeline: &IngestionPipeline) -> Self {
        let mut status = pipeline.status.as_ref().and_then(|s| s.scaling.clone());
        let request = pipeline.annotations().get(FORGET_ANNOTATION).cloned();
        let done = status.as_ref().and_then(|status| status.forgotten.as_ref());
        let forget = request.is_some() && request.as_ref() != done;
        if forget && let Some(status) = &mut status {
            status.learned = None;
        }
        Self {
            status,
            forget,
            request,
        }
    }

    /// The autoscaler's memory: that of the last decision, or what the status keeps of it.
    fn memory(&self, last: Option<&Memory>, policy: &Policy, world: &World) -> Memory {
        if let Some(last) = last.filter(|_| !self.forget) {
            return last.clone();
        }
        let recalled = self.learned().as_ref().map(learned);
        let open_rechecks = self.status.as_ref().and_then(|status| status.open_rechecks);
        let memory = Memory::new(recalled, policy).with_open_rechecks(open_rechecks.unwrap_or(0));
        if !self.forget {
            return memory;
        }
        // Else the same would be learned from them at once.
        let (workers, _) = fleet::workers(&world.pods, &world.counts);
        memory.without_past_of(&workers)
    }

    fn recorded_replicas(&self) -> Option<i32> {
        self.status
            .as_ref()
            .and_then(|status| status.recorded_replicas)
    }

    fn learned(&self) -> Option<LearnedStatus> {
        self.status
            .as_ref()
            .and_then(|status| status.learned.clone())
    }
}

/// Decides. Without a `memory` it starts with the learned values in the status.
pub(super) fn plan(
    pipeline: &IngestionPipeline,
    world: &World,
    memory: Option<&Memory>,
    now: Timestamp,
) -> Scaling {
    let scaling = &pipeline.spec.scaling;
    let before = Before::of(pipeline);
    let floor = floor_now(scaling, now);
    let min_replicas = fewest(scaling);
    let policy = policy(
        &pipeline.spec,
        floor.as_ref().copied().unwrap_or(min_replicas),
    );
    let memory = before.memory(memory, &policy, world);
    let live = live_replicas(world);
    if pipeline.spec.paused {
        let message = "The pipeline is paused: the number of workers does not change.";
        let verdict = Verdict::no(Reason::Paused, message);
        return fixed(live.unwrap_or(0), verdict, &before, memory, now);
    }
    if scaling.mode == ScalingMode::Manual {
        let manual = Manual::decide(scaling, live, before.status.as_ref());
        let verdict = Verdict::yes(Reason::Manual, manual.message);
        let mut scaling = fixed(manual.replicas, verdict, &before, memory, now);
        scaling.record = manual.record;
        scaling.status.recorded_replicas = manual.recorded;
        return scaling;
    }
    if scaling.mode == ScalingMode::Auto && gives_way(pipeline, world, &before, now) {
        let job = JobKind::Reembed.job_name(&pipeline.name_any());
        let message = format!(
            "No worker runs until the pod of Job {job} has a node: what the workers would do waits for it."
        );
        let verdict = Verdict::yes(Reason::Reembedding, message);
        return fixed(0, verdict, &before, memory, now);
    }

    let current = live.unwrap_or(scaling.min_replicas);
    let observation = observe(world, current, now);
    let (decision, memory) = decide(&observation, &policy, memory);
    let recommend_only = scaling.mode == ScalingMode::Recommend;
    // A conflict has stopped the workers. Nothing else would start them again.
    let after_conflict = manual::is_reason(before.status.as_ref(), Reason::Conflict);
    Scaling {
        replicas: if recommend_only && !after_conflict {
            current
        } else {
            whole(decision.desired)
        },
        verdict: match floor {
            Err(error) => Verdict::no(Reason::InvalidSchedule, format!("scaling.floors: {error}")),
            Ok(_) => verdict(world, &decision, recommend_only),
        },
        status: status(&decision, &before, now),
        decision: Some(decision),
        memory,
        record: None,
    }
}

/// The Job that embeds collections again finds no node, perhaps because the workers, which all wait for
/// it or have nothing to do, have the GPUs. Only for so long: something else may keep it from a node.
fn gives_way(pipeline: &IngestionPipeline, world: &World, before: &Before, now: Timestamp) -> bool {
    let is_meant = |pod: &&WorkerPod| !pod.ended && !pod.terminating;
    let finds_no_node = |pod: &WorkerPod| {
        let found = pod.unschedulable.as_ref();
        let recently = |since: Timestamp| now.duration_since(since) < LONGEST_WAY;
        found.is_some_and(|found| found.since.is_none_or(recently))
    };
    let mut job_pods = world.reembed_pods.iter().filter(is_meant);
    if pipeline.spec.worker.gpu.is_none() || !job_pods.any(finds_no_node) {
        return false;
    }
    let nothing_is_sent = world.lag() == Some(0);
    let may_go = |pod: &WorkerPod| {
        world.counts.get(&pod.name).is_some_and(|counts| {
            let is_idle = nothing_is_sent && counts.in_flight == 0;
            is_idle || (!counts.waiting_for.is_empty() && counts.waits_for_model)
        })
    };
    let pods: Vec<&WorkerPod> = world.pods.iter().filter(is_meant).collect();
    // Without workers, only those that went for the Job stay away.
    let went = manual::is_reason(before.status.as_ref(), Reason::Reembedding);
    let mut running = pods.iter();
    (went || !pods.is_empty()) && running.all(|pod| pod.unschedulable.is_some() || may_go(pod))
}

/// The number of workers of a pipeline that waits for an edit.
pub(super) fn stalled(
    pipeline: &IngestionPipeline,
    world: &World,
    stall: &Stall,
    memory: Option<&Memory>,
    now: Timestamp,
) -> Scaling {
    let before = Before::of(pipeline);
    let policy = policy(&pipeline.spec, fewest(&pipeline.spec.scaling));
    let memory = before.memory(memory, &policy, world);
    let replicas = stall.replicas.or_else(|| live_replicas(world));
    let verdict = stall.verdict.clone();
    fixed(replicas.unwrap_or(0), verdict, &before, memory, now)
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
    before: &Before,
    memory: Memory,
    now: Timestamp,
) -> Scaling {
    Scaling {
        replicas,
        status: ScalingStatus {
            desired_replicas: replicas,
            reason: verdict.reason.as_str().to_owned(),
            message: verdict.message.clone(),
            learned: before.learned(),
            forgotten: before.request.clone(),
            open_rechecks: open_rechecks(memory.open_rechecks()),
            recorded_replicas: before.recorded_replicas(),
            last_scale_time: scale_time(replicas, before.status.as_ref(), now),
            ..ScalingStatus::default()
        },
        verdict,
        decision: None,
        memory,
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
    let has = |limit| decision.limits.contains(&limit);
    if has(Limit::QuotaReached) {
        let message = "A quota of stores.milvus.quotas is reached, so the workers wait, and one of them is enough. The condition VectorStoreReady says which. Delete documents or raise the quota.";
        return Verdict::yes(Reason::QuotaReached, message);
    }
    // A single answer that is late is no outage, and no event.
    if has(Limit::StoresAway) && decision.outage_seconds >= SHORTEST_OUTAGE {
        let servers = match &decision.waiting_for[..] {
            [] => "a server; `kubectl get pods` and /readyz of a worker show which".to_owned(),
            names => names.join(", "),
        };
        let message = format!(
            "Every worker waits for {servers}. The number of workers does not follow the backlog, and nothing is learned, until one of them works."
        );
        return Verdict::yes(Reason::StoresAway, message);
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
    if decision.unmeasured > 0 {
        let message = format!(
            "{} of {} ready workers could not be asked for a minute, so their speed is unknown. The operator needs to reach port 9090 of the workers' pods: check NetworkPolicies and service meshes.",
            decision.unmeasured, decision.inputs.ready
        );
        return Verdict::yes(Reason::WorkersNotMeasured, message);
    }
    let (reason, message) = if has(Limit::IneffectiveScaleUp) {
        (
            Reason::IneffectiveScaleUp,
            "The last scale-up did not raise the pages per second, so no more workers are added for now. Look for another bottleneck, for example Milvus or the object store.",
        )
    } else if has(Limit::PendingWorkers) {
        (
            Reason::PendingWorkers,
            "No node has come for pending workers, so only a few are requested at a time: scaling.maxPendingWorkers, and twice as many after each node that comes. Add nodes.",
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
    } else if has(Limit::Activation) {
        (
            Reason::FollowingBacklog,
            "The backlog is still too small and too young for the first worker: scaling.activation.",
        )
    } else if decision.reason == layra_autoscaler::Reason::Rechecking {
        (
            Reason::FollowingBacklog,
            "There is no backlog. One worker runs, or starts, for documents whose recheck is due within 15 minutes.",
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

/// The status is one snapshot: it keeps that of an earlier decision until the decision, its reason
/// or what was learned changes.
fn status(decision: &Decision, before: &Before, now: Timestamp) -> ScalingStatus {
    let new = ScalingStatus {
        desired_replicas: whole(decision.desired),
        reason: decision.reason.as_str().to_owned(),
        message: decision.message.clone(),
        limits: decision
            .limits
            .iter()
            .map(|limit| limit.as_str().to_owned())
            .collect(),
        inputs: Some(inputs(&decision.inputs)),
        terms: decision.terms.as_ref().map(terms),
        learned: decision
            .is_learned
            .then(|| learned_status(&decision.learned))
            .or_else(|| before.learned()),
        forgotten: before.request.clone(),
        open_rechecks: open_rechecks(decision.open_rechecks),
        stuck_partitions: partitions(&decision.stuck),
        recorded_replicas: before.recorded_replicas(),
        last_scale_time: scale_time(whole(decision.desired), before.status.as_ref(), now),
    };
    match &before.status {
        Some(old) if !before.forget && is_same(&new, old) => old.clone(),
        _ => new,
    }
}

fn is_same(new: &ScalingStatus, old: &ScalingStatus) -> bool {
    let learned_nothing_new = match (&new.learned, &old.learned) {
        (Some(new), Some(old)) => !differs(new, old),
        (new, old) => new.is_none() && old.is_none(),
    };
    learned_nothing_new
        && new.desired_replicas == old.desired_replicas
        && new.reason == old.reason
        && new.limits == old.limits
        && new.stuck_partitions == old.stuck_partitions
        && new.forgotten == old.forgotten
        && new.open_rechecks.is_some() == old.open_rechecks.is_some()
}

/// Absent while there are none.
fn open_rechecks(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
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
    // A second more or less for nodes that are there already is not news.
    let nodes = (new.provisioning_seconds, old.provisioning_seconds);
    let nodes_changed = changed(nodes.0, nodes.1) && (nodes.0 - nodes.1).abs() > 5.0;
    changed(new.pages_per_second, old.pages_per_second)
        || changed(new.pages_per_document, old.pages_per_document)
        || changed(new.startup_seconds, old.startup_seconds)
        || changed(new.longest_work_seconds, old.longest_work_seconds)
        || nodes_changed
}

fn learned(status: &LearnedStatus) -> Learned {
    Learned {
        pages_per_second: status.pages_per_second,
        pages_per_document: status.pages_per_document,
        provisioning_seconds: status.provisioning_seconds,
        startup_seconds: status.startup_seconds,
        longest_seconds: status.longest_work_seconds,
    }
}

fn learned_status(learned: &Learned) -> LearnedStatus {
    LearnedStatus {
        pages_per_second: rounded(learned.pages_per_second),
        pages_per_document: rounded(learned.pages_per_document),
        provisioning_seconds: rounded(learned.provisioning_seconds),
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

#[cfg(test)]
#[path = "scaling_tests.rs"]
mod tests;
