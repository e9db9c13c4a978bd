//! Decides how many workers a pipeline needs, and explains why.
//!
//! Pure: no I/O, no clock of its own, no Kubernetes. An [`Observation`] goes in. A [`Decision`]
//! with its explanation comes out, together with the [`Memory`] that the caller keeps for the next
//! one. The module `law` computes the required replicas. [`decide`] determines when the number may
//! change:
//!
//! * An unknown backlog changes nothing ([`Limit::Unknown`]). When it has been unknown for long
//!   enough, the spec's fallback applies ([`Limit::Fallback`]).
//! * Scale-up is immediate, and the first message starts the first worker, unless it has to wait for
//!   the spec's activation ([`Limit::Activation`]). It stops where the last scale-up did not increase
//!   the throughput (`effect`), where every worker waits for a server ([`Limit::StoresAway`]) or for
//!   a quota ([`Limit::QuotaReached`]), and where nodes fail to come (`nodes`).
//! * A worker that never comes is no capacity (`capacity`), and one that cannot work teaches
//!   nothing (`learned`).
//! * Without a backlog, one worker stays or starts while rechecks are due ([`Reason::Rechecking`]).
//! * Scale-down waits for the scale-down delay and goes to the largest number required during it
//!   (`window`), computed at nine tenths of the workers' speed. No worker is stopped while work is
//!   overdue, while other workers are shutting down, or while the workers' progress is unknown.

mod activation;
mod arrivals;
mod capacity;
mod decision;
mod effect;
mod estimate;
mod floors;
mod law;
mod learned;
mod memory;
mod nodes;
mod observation;
mod policy;
mod range_size;
mod recent;
pub mod requests;
mod schedule;
mod step;
mod stuck;
mod unknown;
mod unmeasured;
mod window;

use std::collections::BTreeSet;

use jiff::SignedDuration;

use capacity::patience_for_nodes;
use estimate::{Estimate, partition_count, scale_down_delay};
use law::{Fleet, Goal, RequiredReplicas};
use learned::Progress;
use step::{BacklogProgress, Bounds, Step, Work};

pub use activation::Activation;
pub use arrivals::EndOffsets;
pub use decision::{Decision, Inputs, Limit, Reason, Terms};
pub use floors::{Floor, floor_now};
pub use learned::Learned;
pub use memory::Memory;
pub use observation::{
    Backlog, Counts, Observation, Partition, PartitionOffsets, Phase, QUOTA, Times, Topic, Worker,
};
pub use policy::{Fallback, Policy};
pub use schedule::{ScheduleError, Window, window};
pub use unknown::UnknownBacklog;

/// A rebalance that takes longer than this no longer makes the backlog unknown.
const LONGEST_REBALANCE: SignedDuration = SignedDuration::from_secs(60);
/// The law plans for this part of the drain target, so that a small error does not miss the target.
const DRAIN_TARGET_FACTOR: f64 = 0.9;
/// Before workers are stopped, the others must suffice at this part of their speed.
const REDUCED_SPEED_FACTOR: f64 = 0.9;

/// Decides how many workers there should be. Pass the returned memory to the next decision.
#[must_use]
pub fn decide(
    observation: &Observation,
    policy: &Policy,
    mut memory: Memory,
) -> (Decision, Memory) {
    let clock = memory.watch_clock(observation.at);
    let workers = &observation.workers;
    if observation.terminating > 0 {
        memory.learner.ignore_placements(workers);
    }
    let progress = memory
        .learner
        .observe(observation.at, memory.seconds_since_last, workers);
    memory.rechecks.observe(workers);
    let unmeasured = memory.unmeasured.observe(observation.at, workers);
    memory.range_size.observe(workers);
    let backlog = clock.and_then(|()| known_backlog(observation, policy, &mut memory));
    let mut decision = match backlog {
        Ok(backlog) => {
            memory.unknown_since = None;
            follow(observation, backlog, &progress, policy, &mut memory)
        }
        Err(cause) => hold(observation, cause, policy, &mut memory),
    };
    decision.unmeasured = unmeasured;
    decision.waiting_for = waiting_for(&observation.workers);
    decision.outage_seconds = if decision.limits.contains(&Limit::StoresAway) {
        let since = *memory.outage_since.get_or_insert(observation.at);
        capacity::age(observation.at, since)
    } else {
        memory.outage_since = None;
        0.0
    };
    (decision, memory)
}

/// The servers that workers wait for with all of their work.
fn waiting_for(workers: &[Worker]) -> Vec<String> {
    let names: BTreeSet<&String> = workers
        .iter()
        .filter(|worker| worker.waits())
        .flat_map(Worker::waiting_for)
        .collect();
    names.into_iter().cloned().collect()
}

/// The backlog, unless the observed offsets are meaningless at this moment.
fn known_backlog<'a>(
    observation: &'a Observation,
    policy: &Policy,
    memory: &mut Memory,
) -> Result<&'a Backlog, UnknownBacklog> {
    let now = observation.at;
    let backlog = observation.backlog.as_ref().map_err(Clone::clone)?;
    if let Err(recreated) = memory.arrivals.record(now, backlog, policy.drain_target) {
        memory.stuck.forget();
        return Err(UnknownBacklog::TopicRecreated {
            topic: recreated.topic,
        });
    }
    // If the partition has records, the group restarts from its log start as soon as it reads.
    let ahead = backlog
        .partitions()
        .find(|(_, offsets)| offsets.is_committed_past_end() && offsets.end > offsets.log_start);
    if let Some((partition, offsets)) = ahead {
        return Err(UnknownBacklog::CommittedAheadOfEnd {
            partition,
            committed: offsets.next(),
            end: offsets.end,
        });
    }
    if !backlog.rebalancing || observation.current == 0 {
        memory.rebalancing_since = None;
        return Ok(backlog);
    }
    let since = *memory.rebalancing_since.get_or_insert(now);
    if now.duration_since(since) > LONGEST_REBALANCE {
        return Ok(backlog);
    }
    Err(UnknownBacklog::GroupRebalancing)
}

/// The backlog is unknown: the number of workers is held, and after the fallback's delay it is at
/// least the fallback. One worker starts for records that the group can only find by reading.
fn hold(
    observation: &Observation,
    cause: UnknownBacklog,
    policy: &Policy,
    memory: &mut Memory,
) -> Decision {
    let now = observation.at;
    let learned = memory.learner.learned();
    let partitions = observation.backlog.as_ref().ok().map(partition_count);
    let bounds = Bounds::of(policy, partitions);
    let delay = scale_down_delay(policy, learned);
    let since = *memory.unknown_since.get_or_insert(now);
    let fallback = policy
        .fallback
        .filter(|fallback| now.duration_since(since) >= fallback.after);

    let least = match (fallback, &cause) {
        (Some(fallback), _) => fallback.replicas,
        (None, UnknownBacklog::CommittedAheadOfEnd { .. }) => 1,
        (None, _) => 0,
    };
    let desired = bounds.clamp(observation.current.max(least));
    // A rebalance is short and often follows a scale-down: it does not restart the delay.
    if cause != UnknownBacklog::GroupRebalancing {
        memory.window.record(now, desired, delay);
    }
    let limit = if fallback.is_some() {
        Limit::Fallback
    } else {
        Limit::Unknown
    };
    Decision {
        desired,
        message: decision::message_for_unknown(&cause, desired, limit),
        reason: Reason::Unknown(cause),
        limits: vec![limit],
        inputs: Inputs::of_workers(&observation.workers),
        terms: None,
        learned,
        is_learned: memory.learner.knows_speed(),
        stuck: Vec::new(),
        waiting_for: Vec::new(),
        outage_seconds: 0.0,
        unmeasured: 0,
        open_rechecks: memory.rechecks.open(),
    }
}

/// The backlog is known: estimate the work and the workers' speed, compute the required replicas,
/// and move towards them as far as the policy allows.
fn follow(
    observation: &Observation,
    backlog: &Backlog,
    progress: &Progress,
    policy: &Policy,
    memory: &mut Memory,
) -> Decision {
    let estimate = Estimate::of(observation, backlog, progress, policy, memory);
    memory.pending.observe(
        observation.at,
        &observation.workers,
        patience_for_nodes(&estimate.learned),
        policy.max_pending.get(),
    );
    let required = required_replicas(&estimate, policy);
    let work = if backlog.lag() > 0 {
        Work::Backlog
    } else if memory.rechecks.open() > 0 {
        Work::Rechecks
    } else {
        Work::None
    };
    let step = Step {
        observation,
        bounds: Bounds::of(policy, Some(estimate.demand.partitions)),
        delay: estimate.scale_down_delay,
        required: required.at_full_speed,
        required_at_reduced_speed: required.at_reduced_speed,
        work,
        replacements: estimate.replacements,
        // The first message waits for the activation; rechecks do not.
        activation: policy.activation.filter(|_| memory.rechecks.open() == 0),
        queue: estimate.queue(backlog),
        overdue: estimate.is_overdue(),
        partitions_with_work: estimate.demand.partitions_with_work,
        progress: match work {
            Work::Backlog if estimate.stores_away => BacklogProgress::StoresAway,
            Work::Backlog if estimate.available > 0 && !progress.known => BacklogProgress::Unknown,
            _ => BacklogProgress::Known,
        },
        unread: backlog.unread.len(),
    };
    let (desired, limits, terms) = step.decide(memory);

    let inputs = estimate.inputs(&observation.workers, backlog);
    let learned = estimate.learned;
    Decision {
        desired,
        reason: step.reason(),
        message: decision::message(
            &inputs,
            &terms,
            &learned,
            (desired, &limits),
            memory.rechecks.open(),
            policy.drain_target.as_secs_f64(),
        ),
        limits,
        inputs,
        terms: Some(terms),
        learned,
        is_learned: memory.learner.knows_speed(),
        stuck: estimate.stuck,
        waiting_for: Vec::new(),
        outage_seconds: 0.0,
        unmeasured: 0,
        open_rechecks: memory.rechecks.open(),
    }
}

/// Required replicas at the workers' speed, and at the lower speed that a scale-down must suffice
/// at.
struct Required {
    at_full_speed: RequiredReplicas,
    at_reduced_speed: RequiredReplicas,
}

fn required_replicas(estimate: &Estimate, policy: &Policy) -> Required {
    let goal = Goal {
        drain_target: planned_drain_target(policy).as_secs_f64(),
        utilization: policy.utilization,
    };
    let fleet = &estimate.fleet;
    let slower = Fleet {
        pages_per_second: fleet.pages_per_second * REDUCED_SPEED_FACTOR,
        ..fleet.clone()
    };
    Required {
        at_full_speed: law::required_replicas(&estimate.demand, fleet, goal),
        at_reduced_speed: law::required_replicas(&estimate.demand, &slower, goal),
    }
}

fn planned_drain_target(policy: &Policy) -> SignedDuration {
    scaled(policy.drain_target, DRAIN_TARGET_FACTOR)
}

fn scaled(duration: SignedDuration, factor: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
}

#[cfg(test)]
mod tests;
