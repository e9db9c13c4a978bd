//! How many workers there should be, and why.
//!
//! Pure: no I/O, no clock of its own, no Kubernetes. An [`Observation`] goes in, a [`Decision`] with
//! its explanation comes out, beside the [`Memory`] for the next one, which the caller keeps. The
//! module `law` computes how many workers the work needs; [`decide`] says when the number may move:
//!
//! * What is unknown moves nothing ([`Limit::Unknown`]), and after a long blindness adds the workers
//!   that the object names.
//! * Up at once, the first worker on the first message; but not past what the last scale-up showed to
//!   be useless (`effect`), nor past a few workers that wait for a node.
//! * Down to the most that was wanted during the scale-down delay (`window`), with a tenth of
//!   the speed in hand, and not while work is overdue, workers are leaving, or it is not known what
//!   they get done.

mod arrivals;
mod decision;
mod effect;
mod floors;
mod law;
mod learned;
mod memory;
mod observation;
mod policy;
mod step;
mod stuck;
mod window;

use jiff::SignedDuration;

use arrivals::Waiting;
use law::{Demand, Fleet, Goal};
use learned::Progress;
use step::{Bounds, Look};

pub use decision::{Decision, Inputs, Limit, Terms};
pub use floors::{Floor, ScheduleError, floor_now};
pub use learned::Learned;
pub use memory::Memory;
pub use observation::{
    Backlog, Blind, Counts, Observation, Partition, PartitionOffsets, Phase, Topic, Worker,
};
pub use policy::{Fallback, Policy};

/// A group that hands partitions over for longer than this is looked at all the same.
const LONGEST_REBALANCE: SignedDuration = SignedDuration::from_secs(60);
/// Shortest and longest scale-down delay that follows from the time of a start.
const SHORTEST_DELAY: f64 = 30.0;
const LONGEST_DELAY: f64 = 240.0;
/// The law aims at this part of the drain target, so that a small error does not miss it.
const AIM: f64 = 0.9;
/// Part of the speed that is counted on when workers are to be stopped.
const IN_HAND: f64 = 0.9;
/// Workers are saturated with work for so many seconds.
const SATURATED_SECONDS: f64 = 20.0;

/// Decides how many workers there should be. The memory that comes back is for the next decision.
#[must_use]
pub fn decide(
    observation: &Observation,
    policy: &Policy,
    mut memory: Memory,
) -> (Decision, Memory) {
    let clock = memory.watch_clock(observation.at);
    let progress = memory.learner.observe(&observation.workers);
    let known = clock.and_then(|()| known(observation, policy, &mut memory));
    let decision = match known {
        Ok(backlog) => {
            memory.blind_since = None;
            follow(observation, backlog, &progress, policy, &mut memory)
        }
        Err(blind) => hold(observation, &blind, policy, &mut memory),
    };
    (decision, memory)
}

/// The offsets, unless they say nothing.
fn known<'a>(
    observation: &'a Observation,
    policy: &Policy,
    memory: &mut Memory,
) -> Result<&'a Backlog, Blind> {
    let now = observation.at;
    let backlog = observation.backlog.as_ref().map_err(Clone::clone)?;
    if memory
        .arrivals
        .record(now, backlog, policy.drain_target)
        .is_err()
    {
        memory.stuck.forget();
        return Err(Blind {
            reason: "TopicRecreated",
            message: "A topic was made anew or lost records".to_owned(),
        });
    }
    // With records there and a position behind them, the group begins again as soon as it reads.
    let ahead = backlog
        .partitions()
        .find(|(_, offsets)| offsets.is_ahead() && offsets.end > offsets.log_start);
    if let Some((partition, offsets)) = ahead {
        return Err(Blind {
            reason: "CommittedAheadOfEnd",
            message: format!(
                "The group stands at {} of partition {} ({:?}), which ends at {}: the topic was made anew or lost records",
                offsets.next(),
                partition.number,
                partition.topic,
                offsets.end
            ),
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
    Err(Blind {
        reason: "GroupRebalancing",
        message: "The group is handing partitions over".to_owned(),
    })
}

/// The backlog is unknown: the workers stay, and after a long blindness there are at least as many
/// as the object names. One worker starts for records that the group can only find by reading.
fn hold(
    observation: &Observation,
    blind: &Blind,
    policy: &Policy,
    memory: &mut Memory,
) -> Decision {
    let now = observation.at;
    let partitions = observation.backlog.as_ref().ok().map(partition_count);
    let bounds = Bounds::of(policy, partitions);
    let delay = delay(policy, memory.learner.learned());
    let since = *memory.blind_since.get_or_insert(now);
    let fallback = policy
        .fallback
        .filter(|fallback| now.duration_since(since) >= fallback.after);

    let least = match (fallback, blind.reason) {
        (Some(fallback), _) => fallback.replicas,
        (None, "CommittedAheadOfEnd") => 1,
        (None, _) => 0,
    };
    let desired = bounds.clamp(observation.current.max(least));
    // A rebalance is short, and often the echo of a scale-down: it begins no new delay.
    if blind.reason != "GroupRebalancing" {
        memory.window.record(now, desired, delay);
    }
    let limit = if fallback.is_some() {
        Limit::Fallback
    } else {
        Limit::Unknown
    };
    Decision {
        desired,
        reason: blind.reason,
        message: decision::blind_sentence(&blind.message, desired, limit),
        limits: vec![limit],
        inputs: count_workers(observation),
        terms: None,
        learned: memory.learner.learned(),
        is_learned: memory.learner.knows_speed(),
        stuck: Vec::new(),
    }
}

/// The backlog is known: the law says what the work needs, and the number follows where it may.
fn follow(
    observation: &Observation,
    backlog: &Backlog,
    progress: &Progress,
    policy: &Policy,
    memory: &mut Memory,
) -> Decision {
    let now = observation.at;
    let learned = memory.learner.learned();
    let delay = delay(policy, learned);
    let bounds = Bounds::of(policy, Some(partition_count(backlog)));
    let stuck = memory
        .stuck
        .observe(now, backlog, progress, learned.longest_seconds);

    let aim = scaled(policy.drain_target, AIM);
    let waiting = memory.arrivals.waiting(
        now,
        backlog,
        aim,
        |topic| match topic {
            Topic::Tasks => learned.pages_per_document,
            Topic::Ranges => policy.range_pages,
        },
        |partition| stuck.contains(&partition),
    );
    let arriving = memory.arrivals.documents_per_second(now, delay) * learned.pages_per_document;
    let with_work = partitions_with_work(backlog, &stuck);
    let demand = Demand {
        arriving,
        due: waiting.due.clone(),
        partitions: partition_count(backlog),
        partitions_with_work: with_work,
    };
    let goal = Goal {
        drain_target: aim.as_secs_f64(),
        utilization: policy.utilization,
    };
    let fleet = fleet(observation, learned);
    let slower = Fleet {
        pages_per_second: fleet.pages_per_second * IN_HAND,
        ..fleet.clone()
    };
    let mut inputs = count_workers(observation);
    let saturated = with_work >= inputs.ready
        && waiting.pages >= learned.pages_per_second * f64::from(inputs.ready) * SATURATED_SECONDS;
    if progress.known || inputs.ready == 0 {
        memory
            .effect
            .record(now, memory.passed, inputs.ready, progress.pages, saturated);
    }
    let look = Look {
        observation,
        policy,
        bounds,
        delay,
        need: law::need(&demand, &fleet, goal),
        careful: law::need(&demand, &slower, goal),
        any_work: backlog.lag() > 0,
        overdue: is_overdue(&waiting),
        useful: with_work,
        blind_workers: !progress.known && inputs.ready > 0 && backlog.lag() > 0,
    };
    let (desired, limits, terms) = look.decide(memory);

    inputs.documents = Some(backlog.tasks.iter().map(|offsets| offsets.lag()).sum());
    inputs.ranges = Some(backlog.ranges.iter().map(|offsets| offsets.lag()).sum());
    inputs.pages = Some(waiting.pages);
    inputs.oldest_seconds = Some(waiting.oldest_seconds);
    inputs.arriving = Some(arriving);
    inputs.partitions = Some(partition_count(backlog));
    inputs.partitions_with_work = Some(with_work);
    let reason = if look.need.for_arrivals > look.need.for_backlog {
        decision::KEEPING_UP
    } else if look.any_work {
        decision::DRAINING
    } else {
        decision::IDLE
    };
    Decision {
        desired,
        reason,
        message: decision::sentence(
            &inputs,
            &terms,
            &learned,
            desired,
            &limits,
            policy.drain_target.as_secs_f64(),
        ),
        limits,
        inputs,
        terms: Some(terms),
        learned,
        is_learned: memory.learner.knows_speed(),
        stuck,
    }
}

/// How long fewer workers must have been enough. An idle worker is kept for as long as another one
/// would take to start: whatever comes next, that costs at most twice what foresight would.
fn delay(policy: &Policy, learned: Learned) -> SignedDuration {
    policy.scale_down_delay.unwrap_or_else(|| {
        let seconds = learned.startup_seconds.clamp(SHORTEST_DELAY, LONGEST_DELAY);
        scaled(SignedDuration::from_secs(1), seconds)
    })
}

fn fleet(observation: &Observation, learned: Learned) -> Fleet {
    let startup = learned.startup_seconds;
    let mut available_in: Vec<f64> = observation
        .workers
        .iter()
        .filter_map(|worker| match worker.phase {
            // Nobody knows when there will be a node.
            Phase::Waiting { .. } => None,
            Phase::Ready { .. } => Some(0.0),
            Phase::Starting { since } => {
                let age = observation.at.duration_since(since).as_secs_f64().max(0.0);
                // One that is late may come at any moment.
                Some((startup - age).clamp(0.1 * startup, startup))
            }
        })
        .collect();
    available_in.sort_by(f64::total_cmp);
    Fleet {
        pages_per_second: learned.pages_per_second,
        available_in,
        startup_seconds: startup,
    }
}

fn count_workers(observation: &Observation) -> Inputs {
    let workers = &observation.workers;
    Inputs {
        ready: count(workers, |phase| matches!(phase, Phase::Ready { .. })),
        starting: count(workers, |phase| matches!(phase, Phase::Starting { .. })),
        waiting: count(workers, |phase| matches!(phase, Phase::Waiting { .. })),
        ..Inputs::default()
    }
}

fn count(workers: &[Worker], is: impl Fn(Phase) -> bool) -> u32 {
    let found = workers.iter().filter(|worker| is(worker.phase)).count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

fn partition_count(backlog: &Backlog) -> u32 {
    u32::try_from(backlog.tasks.len()).unwrap_or(u32::MAX)
}

fn partitions_with_work(backlog: &Backlog, stuck: &[Partition]) -> u32 {
    let found = backlog
        .partitions()
        .filter(|(partition, offsets)| offsets.lag() > 0 && !stuck.contains(partition))
        .count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

fn is_overdue(waiting: &Waiting) -> bool {
    waiting.due.first().is_some_and(|due| due.within <= 0.0)
}

fn scaled(duration: SignedDuration, factor: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
}

#[cfg(test)]
mod tests;
