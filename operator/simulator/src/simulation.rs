//! Runs one policy on one trace, second by second, and collects the figures.

use serde::Serialize;

use super::{
    scaler::Scaler,
    trace::Trace,
    world::{Setup, World},
};

/// Seconds that are simulated after the last arrival, the same for every policy: workers that are
/// kept without work cost, too.
pub(super) const AFTERWARDS: u32 = 3600;

/// The result of a policy.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) policy: &'static str,
    pub(super) figures: Figures,
    /// Each change of the desired replicas.
    pub(super) changes: Vec<Change>,
    /// One sample per second.
    pub(super) timeline: Vec<Sample>,
}

/// The figures of a policy over the simulated time, which is the same for every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// A pod holds a GPU from its scheduling until it has terminated, including its start-up.
    pub(super) gpu_seconds: u64,
    /// Seconds in which the oldest unprocessed document has waited for longer than
    /// `drainTargetSeconds`.
    pub(super) seconds_over_target: u64,
    /// Number of changes of the desired replicas.
    pub(super) rescales: u64,
    /// The most documents that had arrived and were not processed.
    pub(super) max_lag_documents: u64,
    /// When the last document was processed. `None`: some were not.
    pub(super) drained_at_second: Option<u32>,
    /// Documents that were not processed at the end.
    pub(super) unfinished_documents: u64,
    /// Mean time from arrival to processed; an unprocessed document has waited until the end.
    pub(super) mean_wait_seconds: f64,
    /// 95 of 100 documents took no longer.
    pub(super) p95_wait_seconds: u32,
    /// Largest number of allocated GPUs.
    pub(super) peak_gpus: u32,
    /// The part of the GPU-seconds with work.
    pub(super) gpu_utilization: f64,
    /// Changes of the consumer group's members.
    pub(super) rebalances: u32,
    /// Simulated seconds.
    pub(super) seconds: u32,
}

/// A change of the desired replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) second: u32,
    pub(super) workers: u32,
    /// The policy's explanation, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// The state at the end of a second, for the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Documents that are not processed.
    pub(super) lag: u32,
    pub(super) desired: u32,
    pub(super) ready: u32,
    /// Seconds that the oldest of them has waited.
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
        if let Some(recommendation) = scaler.recommend(&world)
            && recommendation.workers != world.desired
        {
            world.desired = recommendation.workers;
            changes.push(Change {
                second,
                workers: recommendation.workers,
                why: recommendation.why,
            });
        }
        world.finish();
        let sample = sample(&world, second);
        timeline.push(sample);
        figures.gpu_seconds += u64::from(world.gpus_in_use);
        figures.peak_gpus = figures.peak_gpus.max(world.gpus_in_use);
        figures.seconds_over_target += u64::from(sample.oldest_wait > drain_target);
        figures.max_lag_documents = figures.max_lag_documents.max(sample.lag.into());
        if world.queues.is_drained() && figures.drained_at_second.is_none() {
            figures.drained_at_second = Some(world.now);
        }
    }
    let waits = world.queues.waits(end);
    let sum: u64 = waits.iter().copied().map(u64::from).sum();
    figures.rescales = changes.len() as u64;
    figures.unfinished_documents = world.queues.unprocessed() as u64;
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

fn sample(world: &World, second: u32) -> Sample {
    Sample {
        lag: u32::try_from(world.queues.unprocessed()).unwrap_or(u32::MAX),
        desired: world.desired,
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
