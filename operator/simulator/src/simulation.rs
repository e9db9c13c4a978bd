//! One policy on one trace: the world goes on second by second, the policy looks when it looks,
//! and what came of it is counted.

use serde::Serialize;

use super::{
    scaler::Scaler,
    trace::Trace,
    world::{Setup, World},
};

/// After the last arrival the simulation goes on for so long, the same for every policy: what a
/// policy does when there is nothing more to do costs, too.
pub(super) const AFTERWARDS: u32 = 3600;

/// What came of a policy.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Its name.
    pub(super) policy: &'static str,
    /// The figures.
    pub(super) figures: Figures,
    /// Each change of the number of workers.
    pub(super) changes: Vec<Change>,
    /// Each second.
    pub(super) timeline: Vec<Moment>,
}

/// What is compared. All of it for the whole simulated time, which is the same for each policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// A GPU is held from the moment a pod is placed on a node until it has left, start-up included.
    pub(super) gpu_seconds: u64,
    /// Seconds in which the oldest document that is not done has waited for longer than
    /// `drainTargetSeconds`.
    pub(super) seconds_over_target: u64,
    /// Times that the number of workers asked for changed.
    pub(super) rescales: u64,
    /// The most documents that had arrived and were not done.
    pub(super) max_lag_documents: u64,
    /// When the last document was done; `None`: some never were.
    pub(super) drained_at_second: Option<u32>,
    /// Documents that were not done at the end.
    pub(super) unfinished_documents: u64,
    /// From arrival to done, on average; what is not done has waited until the end.
    pub(super) mean_wait_seconds: f64,
    /// For 95 of 100 documents it took no longer.
    pub(super) p95_wait_seconds: u32,
    /// The most GPUs held at the same time.
    pub(super) peak_gpus: u32,
    /// Part of the GPU-seconds in which there was work.
    pub(super) gpu_utilization: f64,
    /// Changes of the consumer group's membership.
    pub(super) rebalances: u32,
    /// Simulated seconds.
    pub(super) seconds: u32,
}

/// The number of workers asked for changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) second: u32,
    pub(super) workers: u32,
    /// Why, where the policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// A second, for the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Documents that are not done.
    pub(super) lag: u32,
    pub(super) asked: u32,
    pub(super) ready: u32,
    /// For so long the oldest of them has waited, seconds.
    pub(super) oldest_wait: u32,
}

/// Runs one policy from the trace's start until an hour after its end.
pub(super) fn run(
    trace: &Trace,
    setup: &Setup,
    drain_target: u32,
    scaler: &mut dyn Scaler,
) -> Outcome {
    let mut world = World::new(trace, setup.clone());
    let mut figures = Figures::default();
    let mut changes = Vec::new();
    let mut timeline = Vec::new();
    let end = trace.ends + AFTERWARDS;
    while world.now < end {
        let second = world.now;
        world.begin();
        if let Some(wish) = scaler.look(&world)
            && wish.workers != world.asked
        {
            world.asked = wish.workers;
            changes.push(Change {
                second,
                workers: wish.workers,
                why: wish.why,
            });
        }
        world.finish();
        let moment = moment(&world, second);
        timeline.push(moment);
        figures.gpu_seconds += u64::from(world.held);
        figures.peak_gpus = figures.peak_gpus.max(world.held);
        figures.seconds_over_target += u64::from(moment.oldest_wait > drain_target);
        figures.max_lag_documents = figures.max_lag_documents.max(moment.lag.into());
        if world.queues.is_drained() && figures.drained_at_second.is_none() {
            figures.drained_at_second = Some(world.now);
        }
    }
    let waits = world.queues.waits(end);
    let sum: u64 = waits.iter().copied().map(u64::from).sum();
    figures.rescales = changes.len() as u64;
    figures.unfinished_documents = world.queues.unfinished() as u64;
    figures.mean_wait_seconds = sum as f64 / waits.len().max(1) as f64;
    figures.p95_wait_seconds = percentile(&waits, 95);
    figures.gpu_utilization = world.busy_seconds / (figures.gpu_seconds.max(1) as f64);
    figures.rebalances = world.group.rebalances;
    figures.seconds = end;
    Outcome {
        policy: scaler.name(),
        figures,
        changes,
        timeline,
    }
}

fn moment(world: &World, second: u32) -> Moment {
    Moment {
        lag: u32::try_from(world.queues.unfinished()).unwrap_or(u32::MAX),
        asked: world.asked,
        ready: world.ready(),
        oldest_wait: world.queues.oldest_wait(second),
    }
}

/// The smallest value that `percent` of the ascending values do not exceed.
fn percentile(ascending: &[u32], percent: usize) -> u32 {
    let rank = (ascending.len() * percent).div_ceil(100);
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod tests;
