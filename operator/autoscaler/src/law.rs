//! The law: how many workers the work needs. Arithmetic alone; everything that holds a number back
//! or keeps it from moving is in [`super`].
//!
//! With `μ` the pages a second of one worker, `λ` the pages that arrive a second, `u` the part of
//! the workers' speed that arrivals may use, `T` the drain target and `τ` the seconds that a worker
//! takes to start, `n` workers are enough when they
//!
//! 1. **keep up**: `e(n)·μ·u' ≥ λ`, where `u' = 1 − (1 − u)·min(1, τ/T)`: the reserve is for what comes
//!    while another worker starts, and what comes can wait for a part of `T`. While so little waits
//!    that the workers there are get it done within a tenth of `T − τ`, this adds none; and
//! 2. **drain in time**: for every age `a`, the `W(a)` pages that have waited for `a` or longer are
//!    done within the `T − a` that are left:
//!
//!    `μ · Σ (e(i) − e(i−1)) · max(0, h − t_i) ≥ W(a)` over the workers `i = 1..n`, `h = T − a`,
//!
//!    where `t_i`, ascending, is 0 for a worker that works, what is left of `τ` for one that
//!    starts, and `τ` for one that is still to be made. Pages that arrive while new workers start
//!    count too: `W + λ·τ` within `T + τ`.
//!
//! A partition has one worker at a time. Over `p` partitions the slowest of `n` workers has
//! `⌈p/n⌉` of them, so that `n` workers are worth `e(n) = p / ⌈p/n⌉`: seven workers on twelve
//! partitions are worth no more than six. The smallest `n` that is enough is therefore always a step
//! `⌈p/k⌉`, and never above `p`.
//!
//! A deadline that no new worker can meet any more (`h ≤ τ`) would ask for any number of them.
//! Unless the workers that there are meet it, that work is due soon after new workers work (a tenth
//! of `T` or of `τ`, whichever is longer): late, but no later than it has to be. What arrives
//! meanwhile counts too, since a worker with several partitions does not do the oldest work first.

/// Shortest time that work is given, as a part of the drain target and of a start: what is overdue
/// cannot be done in no time.
const SHORTEST: f64 = 0.1;

/// Pages that must be done within a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Due {
    /// Pages, those that are due earlier included.
    pub(crate) pages: f64,
    /// Seconds from now; below zero when it is too late.
    pub(crate) within: f64,
}

/// The work.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    /// `λ`: pages that arrive a second.
    pub(crate) arriving: f64,
    /// What waits, the most urgent first.
    pub(crate) due: Vec<Due>,
    /// Partitions that arrivals spread over.
    pub(crate) partitions: u32,
    /// Partitions with work.
    pub(crate) partitions_with_work: u32,
}

/// What can do it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fleet {
    /// `μ`: pages a second of one worker.
    pub(crate) pages_per_second: f64,
    /// Seconds until each of the workers that exist works, ascending; 0 for those that do. None is
    /// later than one that is still to be made.
    pub(crate) available_in: Vec<f64>,
    /// `τ`: seconds until a worker that is asked for now works.
    pub(crate) startup_seconds: f64,
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    /// `T`, in seconds.
    pub(crate) drain_target: f64,
    /// `u`.
    pub(crate) utilization: f64,
}

/// How many workers are needed, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// To keep up with arrivals.
    pub(crate) for_arrivals: u32,
    /// To get done what waits.
    pub(crate) for_backlog: u32,
    /// More of them would be needed if more partitions had work: the drain target is missed.
    pub(crate) out_of_reach: bool,
}

impl Need {
    /// The larger of the two.
    pub(crate) fn workers(self) -> u32 {
        self.for_arrivals.max(self.for_backlog)
    }
}

/// The smallest number of workers that is enough.
pub(crate) fn need(demand: &Demand, fleet: &Fleet, goal: Goal) -> Need {
    let arrivals = for_arrivals(demand, fleet, goal);
    let backlog = for_backlog(demand, fleet, goal);
    Need {
        for_arrivals: arrivals.unwrap_or(demand.partitions),
        for_backlog: backlog.unwrap_or(demand.partitions_with_work),
        out_of_reach: arrivals.is_none() || backlog.is_none(),
    }
}

/// Whether the first `workers` of the fleet, new ones added if there are fewer, get everything that
/// waits done in time.
fn drains(demand: &Demand, fleet: &Fleet, goal: Goal, workers: u32) -> bool {
    let partitions = demand.partitions_with_work;
    deadlines(demand, fleet, goal).all(|deadline| {
        workers >= deadline.fewest
            && capacity(fleet, partitions, workers, deadline.within) >= deadline.pages
    })
}

/// `e(n)`: what `workers` are worth when the slowest of them has the most of `partitions`.
pub(crate) fn worth(workers: u32, partitions: u32) -> f64 {
    if workers == 0 || partitions == 0 {
        return 0.0;
    }
    f64::from(partitions) / f64::from(partitions.div_ceil(workers))
}

/// The smallest number that is worth as much as `workers`.
fn step(workers: u32, partitions: u32) -> u32 {
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
    let enough = (1..=demand.partitions).find(|n| worth(*n, demand.partitions) >= needed);
    let existing = existing(fleet).min(demand.partitions);
    if can_wait(demand, fleet, goal, existing) && enough.is_none_or(|enough| enough > existing) {
        Some(existing)
    } else {
        enough
    }
}

/// Whether what waits is so little that arrivals are no reason for another worker yet: the `workers`
/// that there are get it done within a tenth of the time that a start leaves of the drain target.
fn can_wait(demand: &Demand, fleet: &Fleet, goal: Goal, workers: u32) -> bool {
    let waiting = demand.due.last().map_or(0.0, |due| due.pages);
    let spare = SHORTEST * (goal.drain_target - fleet.startup_seconds).max(0.0);
    waiting < spare * fleet.pages_per_second * worth(workers, demand.partitions)
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

/// The part of the speed that arrivals may use. The rest is for what comes while another worker
/// starts: the shorter a start is against the drain target, the less of it is needed, since what
/// comes meanwhile can wait.
fn utilization(fleet: &Fleet, goal: Goal) -> f64 {
    let part = (fleet.startup_seconds / goal.drain_target).min(1.0);
    1.0 - (1.0 - goal.utilization) * part
}

/// Pages and the time that they are given.
struct Deadline {
    pages: f64,
    /// Seconds from now.
    within: f64,
    /// The workers that there are, if they are too few: none of them can be spared.
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
                fewest: step(existing, partitions),
            }
        }
    })
}

/// Pages that `workers` get done within so many seconds: each adds what it is worth from the moment
/// at which it works.
fn capacity(fleet: &Fleet, partitions: u32, workers: u32, within: f64) -> f64 {
    let existing = fleet.available_in.iter().copied();
    let available_in = existing.chain(std::iter::repeat(fleet.startup_seconds));
    let seconds: f64 = (1..=workers)
        .zip(available_in)
        .map(|(count, available_in)| {
            let adds = worth(count, partitions) - worth(count - 1, partitions);
            adds * (within - available_in).max(0.0)
        })
        .sum();
    fleet.pages_per_second * seconds
}

#[cfg(test)]
#[path = "law_tests.rs"]
mod tests;
