//! This operator's own policy: the very code that runs in a cluster, fed with what the operator
//! would see every two seconds: offsets, pods and what the workers count.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use layra_autoscaler::{
    Backlog, Counts, Learned, Memory, Observation, Partition, PartitionOffsets, Phase, Policy,
    Topic, Worker, decide,
};

use super::{
    scaler::{Scaler, Wish},
    world::{State, Worker as Pod, World},
};

/// Seconds between two looks.
const INTERVAL: u32 = 2;

/// The core with its memory.
pub(super) struct Layra {
    policy: Policy,
    memory: Memory,
}

impl Layra {
    /// Begins with what was learned earlier, if anything.
    pub(super) fn new(policy: Policy, learned: Option<Learned>) -> Self {
        let memory = Memory::new(learned, &policy);
        Self { policy, memory }
    }
}

impl Scaler for Layra {
    fn name(&self) -> &'static str {
        "layra"
    }

    fn look(&mut self, world: &World) -> Option<Wish> {
        if !world.now.is_multiple_of(INTERVAL) {
            return None;
        }
        let observation = observe(world);
        let (decision, memory) = decide(&observation, &self.policy, self.memory.clone());
        self.memory = memory;
        Some(Wish {
            workers: decision.desired,
            why: Some(decision.message),
        })
    }
}

/// What the operator would see.
fn observe(world: &World) -> Observation {
    let (tasks, ranges) = world.queues.offsets();
    let offsets = |(committed, end)| PartitionOffsets {
        log_start: 0,
        end,
        committed: Some(committed),
    };
    let leaves = |pod: &&Pod| pod.state == State::Leaving;
    Observation {
        at: at(world.now),
        current: world.asked,
        backlog: Ok(Backlog {
            tasks: tasks.into_iter().map(offsets).collect(),
            ranges: ranges.into_iter().map(offsets).collect(),
            rebalancing: world.group.is_rebalancing(world.now),
        }),
        workers: world
            .workers
            .iter()
            .filter(|pod| !leaves(pod))
            .map(|pod| worker(pod, world))
            .collect(),
        leaving: world.leaving(),
    }
}

fn worker(pod: &Pod, world: &World) -> Worker {
    let phase = match pod.state {
        State::Waiting { since } => Phase::Waiting { since: at(since) },
        State::Starting { since } => Phase::Starting { since: at(since) },
        State::Ready | State::Leaving => Phase::Ready {
            started_in: Some(f64::from(world.startup_seconds())),
        },
    };
    let is_ready = matches!(phase, Phase::Ready { .. });
    Worker {
        name: format!("worker-{}", pod.id),
        phase,
        counts: is_ready.then(|| Counts {
            pages: pod.counts.pages,
            documents: pod.counts.documents,
            busy_seconds: pod.counts.busy_seconds,
            longest_seconds: pod.counts.longest_seconds,
            in_flight: pod.in_flight(),
            partitions: partitions(pod.id, world),
        }),
    }
}

fn partitions(worker: u64, world: &World) -> BTreeSet<Partition> {
    let tasks = usize::try_from(world.partitions()).unwrap_or(usize::MAX);
    let partition = |index: usize| {
        let (topic, number) = if index < tasks {
            (Topic::Tasks, index)
        } else {
            (Topic::Ranges, index - tasks)
        };
        Partition {
            topic,
            number: u32::try_from(number).unwrap_or(u32::MAX),
        }
    };
    world.group.of(worker).map(partition).collect()
}

fn at(second: u32) -> Timestamp {
    // Any day will do; the first seconds of the epoch leave no room for the time before.
    let day = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24);
    day + SignedDuration::from_secs(second.into())
}
