//! The law: how many workers the work requires. Only arithmetic. Everything that limits or delays
//! a change of the number is in [`super`].
//!
//! Let `μ` be the pages per second of one worker, `λ` the pages that arrive per second, `u` the
//! part of the workers' speed that arrivals may use, `T` the drain target and `τ` the time until a
//! new worker is ready, the provisioning of a node included, in seconds. Then `n` workers are
//! enough if they
//!
//! 1. **keep up**: `e(n)·μ·u' ≥ λ`, where `u' = 1 − (1 − u)·min(1, τ/T)`. The reserve is for pages
//!    that arrive while another worker starts, and those can wait for a part of `T`. This adds no
//!    worker while the backlog is so small that the existing workers drain it within a tenth of
//!    `T − τ`; and
//! 2. **drain in time**: for every age `a`, the `W(a)` pages that have waited for `a` or longer are
//!    processed within the remaining `T − a`:
//!
//!    `μ · Σ (e(i) − e(i−1)) · max(0, h − t_i) ≥ W(a)` over the workers `i = 1..n`, `h = T − a`,
//!
//!    where `t_i`, ascending, is 0 for a worker that is ready, the rest of `τ` for one that is
//!    pending or starting, and `τ` for one that must be created. Pages that arrive while new workers
//!    start count too: `W + λ·τ` within `T + τ`.
//!
//! A partition is assigned to one worker at a time. With `p` partitions the slowest of `n` workers
//! has `⌈p/n⌉` of them, so that `n` workers are as effective as `e(n) = p / ⌈p/n⌉`: seven workers
//! on twelve partitions are no better than six. The smallest sufficient `n` is therefore always a
//! `⌈p/k⌉`, and never above `p`.
//!
//! A deadline that no new worker can meet any more (`h ≤ τ`) would require an unbounded number of
//! them. Unless the existing workers meet it, that work is due soon after new workers are ready (a
//! tenth of `T` or of `τ`, whichever is longer): late, but no later than necessary. Pages that
//! arrive meanwhile count too, since a worker with several partitions does not process the oldest
//! work first.

/// The shortest time for any work, as a part of the drain target and of the start-up time: even
/// overdue work takes some time.
const SHORTEST: f64 = 0.1;

/// Pages with the time until they are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Due {
    /// Pages, including those that are due earlier.
    pub(crate) pages: f64,
    /// Seconds from now; negative if overdue.
    pub(crate) within: f64,
}

/// The work to process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    /// `λ`: pages that arrive per second.
    pub(crate) arriving: f64,
    /// The backlog, the most urgent first.
    pub(crate) due: Vec<Due>,
    /// Partitions over which arrivals are distributed.
    pub(crate) partitions: u32,
    /// Partitions with work.
    pub(crate) partitions_with_work: u32,
}

/// The workers that process it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// `μ`: pages per second of one worker.
    pub(crate) pages_per_second: f64,
    /// Seconds until each existing worker is ready, ascending; 0 if it is. None is later than a
    /// worker that must be created.
    pub(crate) available_in: Vec<f64>,
    /// `τ`: seconds until a worker that is created now is ready.
    pub(crate) startup_seconds: f64,
}

/// The targets from the spec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    /// `T`, in seconds.
    pub(crate) drain_target: f64,
    /// `u`.
    pub(crate) utilization: f64,
}

/// How many workers the work requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequiredReplicas {
    /// To keep up with arrivals.
    pub(crate) for_arrivals: u32,
    /// To drain the backlog in time.
    pub(crate) for_backlog: u32,
    /// More workers would be required than partitions can use: the drain target will be missed.
    pub(crate) exceeds_partitions: bool,
}

impl RequiredReplicas {
    /// The larger of the two.
    pub(crate) fn workers(self) -> u32 {
        self.for_arrivals.max(self.for_backlog)
    }
}

/// The smallest sufficient number of workers.
pub(crate) fn required_replicas(demand: &Demand, fleet: &Fleet, goal: Goal) -> RequiredReplicas {
    let arrivals = for_arrivals(demand, fleet, goal);
    let backlog = for_backlog(demand, fleet, goal);
    RequiredReplicas {
        for_arrivals: arrivals.unwrap_or(demand.partitions),
        for_backlog: backlog.unwrap_or(demand.partitions_with_work),
        exceeds_partitions: arrivals.is_none() || backlog.is_none(),
    }
}

/// Whether `workers` drain the backlog in time: the first of the fleet, and new ones if it has
/// fewer.
fn drains(demand: &Demand, fleet: &Fleet, goal: Goal, workers: u32) -> bool {
    let partitions = demand.partitions_with_work;
    deadlines(demand, fleet, goal).all(|deadline| {
        workers >= deadline.fewest
            && capacity(fleet, partitions, workers, deadline.within) >= deadline.pages
    })
}

/// `e(n)`: the number of workers, each with an equal share of `partitions`, that would be as
/// effective as `workers` are with whole partitions.
pub(crate) fn effective_workers(workers: u32, partitions: u32) -> f64 {
    if workers == 0 || partitions == 0 {
        return 0.0;
    }
    f64::from(partitions) / f64::from(partitions.div_ceil(workers))
}

/// The smallest number that is as effective as `workers`.
fn fewest_as_effective(workers: u32, partitions: u32) -> u32 {
    if workers == 0 || partitions == 0 {
        return 0;
    }
    partitions.div_ceil(partitions.div_ceil(workers))
}

fn for_arrivals(demand: &Demand, fleet: &Fleet, goal: Goal) -> Option<u32> {
    if demand.arriving <= 0.0 {
        return Some(0);
    }
    let needed = demand.arriving / (fleet.pages_per_second * utilization(fleet, goal));
    let enough =
        (1..=demand.partitions).find(|n| effective_workers(*n, demand.partitions) >= needed);
    let existing = existing(fleet).min(demand.partitions);
    if can_wait(demand, fleet, goal, existing) && enough.is_none_or(|enough| enough > existing) {
        Some(existing)
    } else {
        enough
    }
}

/// Whether the backlog is so small that arrivals do not require another worker yet: the existing
/// `workers` drain it within a tenth of what a start-up leaves of the drain target.
fn can_wait(demand: &Demand, fleet: &Fleet, goal: Goal, workers: u32) -> bool {
    let waiting = demand.due.last().map_or(0.0, |due| due.pages);
    let spare = SHORTEST * (goal.drain_target - fleet.startup_seconds).max(0.0);
    waiting < spare * fleet.pages_per_second * effective_workers(workers, demand.partitions)
}

fn existing(fleet: &Fleet) -> u32 {
    u32::try_from(fleet.available_in.len()).unwrap_or(u32::MAX)
}

fn for_backlog(demand: &Demand, fleet: &Fleet, goal: Goal) -> Option<u32> {
    if demand.due.iter().all(|due| due.pages <= 0.0) {
        return Some(0);
    }
    (1..=demand.partitions_with_work).find(|n| drains(demand, fleet, goal, *n))
}

/// `u'`: the part of the speed that arrivals may use. The rest is for pages that arrive while
/// another worker starts. The shorter the start-up is compared with the drain target, the less is
/// needed, since those pages can wait.
fn utilization(fleet: &Fleet, goal: Goal) -> f64 {
    let part = (fleet.startup_seconds / goal.drain_target).min(1.0);
    1.0 - (1.0 - goal.utilization) * part
}

/// Pages and the time in which they must be processed.
struct Deadline {
    pages: f64,
    /// Seconds from now.
    within: f64,
    /// The existing workers, if they are too few: none of them may be stopped.
    fewest: u32,
}

fn deadlines<'a>(
    demand: &'a Demand,
    fleet: &'a Fleet,
    goal: Goal,
) -> impl Iterator<Item = Deadline> + 'a {
    let existing = existing(fleet);
    let target = goal.drain_target;
    let waiting = demand.due.last().map_or(0.0, |due| due.pages);
    let while_starting = Due {
        pages: waiting + demand.arriving * fleet.startup_seconds,
        within: target + fleet.startup_seconds,
    };
    let due = demand.due.iter().copied().chain([while_starting]);
    let catch_up = SHORTEST * target.max(fleet.startup_seconds);
    let partitions = demand.partitions_with_work;
    due.map(move |due| {
        let within = due.within.max(SHORTEST * target);
        let new_workers_help = within > fleet.startup_seconds + catch_up;
        let arriving = if due.within < 0.0 {
            demand.arriving
        } else {
            0.0
        };
        let pages = |within: f64| due.pages + arriving * within;
        if new_workers_help || capacity(fleet, partitions, existing, within) >= pages(within) {
            Deadline {
                pages: pages(within),
                within,
                fewest: 0,
            }
        } else {
            let later = fleet.startup_seconds + catch_up;
            Deadline {
                pages: pages(later),
                within: later,
                fewest: fewest_as_effective(existing, partitions),
            }
        }
    })
}

/// Pages that `workers` process within a number of seconds: each adds to the effective workers from
/// the moment at which it is ready.
fn capacity(fleet: &Fleet, partitions: u32, workers: u32, within: f64) -> f64 {
    let existing = fleet.available_in.iter().copied();
    let available_in = existing.chain(std::iter::repeat(fleet.startup_seconds));
    let seconds: f64 = (1..=workers)
        .zip(available_in)
        .map(|(count, available_in)| {
            let adds =
                effective_workers(count, partitions) - effective_workers(count - 1, partitions);
            adds * (within - available_in).max(0.0)
        })
        .sum();
    fleet.pages_per_second * seconds
}

#[cfg(test)]
#[path = "law_tests.rs"]
mod tests;
