//! The operator's own policy: the same code as in a cluster. Every two seconds it gets what the
//! operator would observe: offsets, pods, and what the workers count.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use layra_autoscaler::{
    Backlog, Counts, Learned, Memory, Observation, Partition, PartitionOffsets, Phase, Policy,
    Times, Topic, Worker, decide,
};

use super::{
    scaler::{Recommendation, Scaler},
    world::{Pod, PodState, World},
};

/// Seconds between two decisions.
const INTERVAL: u32 = 2;

/// The autoscaler with its memory.
pub(super) struct Layra {
    policy: Policy,
    memory: Memory,
}

impl Layra {
    /// Starts with what was learned earlier, if anything.
    pub(super) fn new(policy: Policy, learned: Option<Learned>) -> Self {
        let memory = Memory::new(learned, &policy);
        Self { policy, memory }
    }
}

impl Scaler for Layra {
    fn name(&self) -> &'static str {
        "layra"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        if !world.now.is_multiple_of(INTERVAL) {
            return None;
        }
        let observation = observe(world);
        let (decision, memory) = decide(&observation, &self.policy, self.memory.clone());
        self.memory = memory;
        Some(Recommendation {
            workers: decision.desired,
            why: Some(decision.message),
        })
    }
}

/// What the operator would observe.
fn observe(world: &World) -> Observation {
    let (tasks, ranges) = world.queues.offsets();
    let offsets = |(committed, end)| PartitionOffsets {
        log_start: 0,
        end,
        committed: Some(committed),
    };
    let is_draining = |pod: &&Pod| pod.state == PodState::Draining;
    Observation {
        at: at(world.now),
        current: world.desired,
        backlog: Ok(Backlog {
            tasks: tasks.into_iter().map(offsets).collect(),
            ranges: ranges.into_iter().map(offsets).collect(),
            rebalancing: world.group.is_rebalancing(world.now),
            ..Backlog::default()
        }),
        workers: world
            .pods
            .iter()
            .filter(|pod| !is_draining(pod))
            .map(|pod| worker(pod, world))
            .collect(),
        terminating: world.draining(),
    }
}

fn worker(pod: &Pod, world: &World) -> Worker {
    let waits = pod.reports_waiting_since(world.now);
    let phase = match pod.state {
        PodState::Pending { since } => Phase::Pending { since: at(since) },
        PodState::Starting { since } => Phase::Starting {
            since: at(since),
            restarted: pod.at_restart.is_some(),
        },
        PodState::Ready | PodState::Draining => match waits {
            Some(since) => Phase::Waiting { since: at(since) },
            None => Phase::Ready,
        },
    };
    let has_started = matches!(phase, Phase::Ready | Phase::Waiting { .. });
    let placed = pod.placed.map(at);
    let before = pod.at_restart.unwrap_or_default();
    Worker {
        name: format!("worker-{}", pod.id),
        phase,
        times: Times {
            created: Some(at(pod.created)),
            placed,
            process_started: placed.filter(|_| pod.at_restart.is_none()),
        },
        counts: has_started.then(|| Counts {
            pages: pod.counts.pages - before.pages,
            documents: pod.counts.documents - before.documents,
            busy_seconds: pod.counts.busy_seconds - before.busy_seconds,
            longest_seconds: pod.counts.longest_seconds,
            in_flight: pod.in_flight(),
            partitions: partitions(pod.id, world),
            waiting_for: waits.map(|_| "mongodb".to_owned()).into_iter().collect(),
            open_rechecks: Some(0),
            startup_seconds: Some(world.startup_seconds().into()),
            retrying: Vec::new(),
            waits_for_model: false,
            // The simulated documents are not split, and nothing is missing on their pages.
            ..Counts::default()
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
    world.group.partitions_of(worker).map(partition).collect()
}

fn at(second: u32) -> Timestamp {
    // Any day works; the first seconds of the epoch would leave no room for earlier times.
    let day = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24);
    day + SignedDuration::from_secs(second.into())
}
