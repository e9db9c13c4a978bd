//! The simulated world of a policy, in steps of a second: partitions, a consumer group, and worker
//! pods that start, process messages, and finish their current message before they terminate.
//!
//! A worker processes one message at a time, from its partitions in turn. A pod is scheduled at
//! once while there are free GPUs, holds its GPU until it has terminated, and is ready after the
//! start-up time. Surplus pods are stopped in this order: pending, starting, idle, youngest.
//!
//! Where the trace says so, nodes are provisioned for pending pods, a few at a time, and an idle
//! node is removed after ten minutes; the stores do not respond for a while; or workers crash.

use super::{
    group::Group,
    queues::Queues,
    trace::{Nodes, Outage, Trace},
};

/// Seconds after which a worker that waits for a server reports it and is not ready. Until then it
/// seems busy.
const SECONDS_TO_REPORT: u32 = 15;
/// Seconds after which a node without a pod is removed, as by the cluster autoscaler.
const IDLE_NODE: u32 = 600;

/// The parameters of the world.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setup {
    /// Partitions of each topic.
    pub(super) partitions: u32,
    /// Longer documents are split into ranges of this many pages.
    pub(super) range_pages: u32,
    /// Seconds from scheduling to readiness.
    pub(super) startup_seconds: u32,
    /// Pages per second of one worker.
    pub(super) pages_per_second: f64,
    /// The number of GPUs. `None`: unlimited.
    pub(super) gpus: Option<u32>,
    /// Determines the random partitions of documents.
    pub(super) seed: u64,
}

/// The state at one moment.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The current second.
    pub(super) now: u32,
    /// Replicas that the policy asked for.
    pub(super) desired: u32,
    /// The topics.
    pub(super) queues: Queues,
    /// The consumer group.
    pub(super) group: Group,
    /// Every pod that exists.
    pub(super) pods: Vec<Pod>,
    /// Busy seconds of all pods, including terminated ones.
    pub(super) busy_seconds: f64,
    /// GPUs that were in use in the last second.
    pub(super) gpus_in_use: u32,
    setup: Setup,
    store_limit: Option<f64>,
    outages: Vec<Outage>,
    crash_interval: Option<u32>,
    pool: Option<NodePool>,
    created: u64,
}

/// The nodes that are provisioned for pending pods.
#[derive(Clone, Debug)]
struct NodePool {
    nodes: Nodes,
    ready: u32,
    /// When each node that is being provisioned comes.
    coming: Vec<u32>,
    /// Since when a node has had no pod.
    idle_since: Option<u32>,
}

/// A worker pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    /// Ascending in the order of creation.
    pub(super) id: u64,
    pub(super) state: PodState,
    pub(super) counts: PodCounts,
    /// When it was created.
    pub(super) created: u32,
    /// When it got a GPU.
    pub(super) placed: Option<u32>,
    /// What it had counted when it last crashed: its own counters begin at zero then.
    pub(super) at_restart: Option<PodCounts>,
    /// Since when it has waited for the stores.
    waits_since: Option<u32>,
    /// The partition whose first message it processes, and its busy seconds at the start of that.
    task: Option<(usize, f64)>,
    /// The partition whose turn is next.
    turn: usize,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodState {
    /// No GPU is free.
    Pending { since: u32 },
    /// It has a node and is not ready.
    Starting { since: u32 },
    /// It processes messages as a member of the group.
    Ready,
    /// It is shutting down, and finishes its current message.
    Draining,
}

/// What a pod counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PodCounts {
    pub(super) pages: f64,
    pub(super) documents: f64,
    pub(super) busy_seconds: f64,
    pub(super) longest_seconds: f64,
}

impl World {
    pub(super) fn new(trace: &Trace, setup: Setup) -> Self {
        let partitions = usize::try_from(setup.partitions.max(1)).unwrap_or(1);
        Self {
            now: 0,
            desired: 0,
            queues: Queues::new(trace, partitions, setup.range_pages, setup.seed),
            group: Group::new(partitions),
            pods: Vec::new(),
            busy_seconds: 0.0,
            gpus_in_use: 0,
            setup,
            store_limit: trace.store_limit,
            outages: trace.outages.clone(),
            crash_interval: trace.crash_interval,
            pool: trace.nodes.map(NodePool::new),
            created: 0,
        }
    }

    /// Pods that are not draining, as in a Deployment's `status.replicas`.
    pub(super) fn replicas(&self) -> u32 {
        self.count(|state| state != PodState::Draining)
    }

    /// Pods that are ready.
    pub(super) fn ready(&self) -> u32 {
        self.count(|state| state == PodState::Ready)
    }

    /// Pods that are draining.
    pub(super) fn draining(&self) -> u32 {
        self.count(|state| state == PodState::Draining)
    }

    /// Pods that hold a GPU.
    pub(super) fn scheduled(&self) -> u32 {
        self.count(|state| !matches!(state, PodState::Pending { .. }))
    }

    /// Partitions of the tasks topic.
    pub(super) fn partitions(&self) -> u32 {
        self.setup.partitions
    }

    /// Seconds from scheduling to readiness.
    pub(super) fn startup_seconds(&self) -> u32 {
        self.setup.startup_seconds
    }

    fn count(&self, matches: impl Fn(PodState) -> bool) -> u32 {
        let found = self.pods.iter().filter(|pod| matches(pod.state)).count();
        u32::try_from(found).unwrap_or(u32::MAX)
    }

    /// The first part of a second: documents arrive. The policy decides after it.
    pub(super) fn begin(&mut self) {
        self.queues.arrive(self.now);
    }

    /// The rest of the second: pods are created or stopped as desired, and process messages.
    pub(super) fn finish(&mut self) {
        self.crash();
        self.stop_surplus();
        self.create_missing();
        self.schedule();
        self.become_ready();
        self.gpus_in_use = self.scheduled();
        self.work();
        self.terminate_drained();
        self.now += 1;
    }

    fn stop_surplus(&mut self) {
        let surplus = self.replicas().saturating_sub(self.desired);
        for _ in 0..surplus {
            let expendable = |pod: &Pod| match pod.state {
                PodState::Draining => None,
                PodState::Pending { .. } => Some((3, pod.id)),
                PodState::Starting { .. } => Some((2, pod.id)),
                PodState::Ready => Some((u32::from(pod.task.is_none()), pod.id)),
            };
            let candidates = self.pods.iter().enumerate();
            let chosen = candidates
                .filter_map(|(index, pod)| Some((expendable(pod)?, index)))
                .max();
            let Some((_, index)) = chosen else { return };
            if self.pods[index].state == PodState::Ready {
                self.pods[index].state = PodState::Draining;
            } else {
                self.pods.remove(index);
            }
        }
    }

    fn create_missing(&mut self) {
        for _ in self.replicas()..self.desired {
            self.created += 1;
            self.pods.push(Pod {
                id: self.created,
                state: PodState::Pending { since: self.now },
                counts: PodCounts::default(),
                created: self.now,
                placed: None,
                at_restart: None,
                waits_since: None,
                task: None,
                turn: 0,
            });
        }
    }

    fn schedule(&mut self) {
        let scheduled = self.scheduled();
        let pending = self.replicas() + self.draining() - scheduled;
        let nodes = self.pool.as_mut().map_or(u32::MAX, |pool| {
            pool.provision(self.now, scheduled, pending)
        });
        let gpus = self.setup.gpus.unwrap_or(u32::MAX).min(nodes);
        let mut free = gpus.saturating_sub(scheduled);
        for pod in &mut self.pods {
            if free > 0 && matches!(pod.state, PodState::Pending { .. }) {
                pod.state = PodState::Starting { since: self.now };
                pod.placed = Some(self.now);
                free -= 1;
            }
        }
    }

    fn become_ready(&mut self) {
        let mut joined = false;
        for pod in &mut self.pods {
            if let PodState::Starting { since } = pod.state
                && self.now - since >= self.setup.startup_seconds
            {
                pod.state = PodState::Ready;
                joined = true;
            }
        }
        if joined {
            self.rebalance();
        }
    }

    fn rebalance(&mut self) {
        let is_member = |pod: &&Pod| matches!(pod.state, PodState::Ready | PodState::Draining);
        let members: Vec<u64> = self
            .pods
            .iter()
            .filter(is_member)
            .map(|pod| pod.id)
            .collect();
        self.group.rebalance(&members, self.now);
        for pod in &mut self.pods {
            // Processed pages of a message stay processed; the partition's next owner resumes
            // there.
            let revoked = pod
                .task
                .is_some_and(|(partition, _)| !self.group.reads(pod.id, partition, self.now));
            if revoked {
                pod.task = None;
            }
        }
    }

    /// A ready worker crashes, another one each time.
    fn crash(&mut self) {
        let Some(interval) = self.crash_interval else {
            return;
        };
        let ready: Vec<usize> = (0..self.pods.len())
            .filter(|index| self.pods[*index].state == PodState::Ready)
            .collect();
        if self.now == 0 || !self.now.is_multiple_of(interval) || ready.is_empty() {
            return;
        }
        let turn = usize::try_from(self.now / interval).unwrap_or(0);
        let pod = &mut self.pods[ready[turn % ready.len()]];
        pod.state = PodState::Starting { since: self.now };
        pod.at_restart = Some(pod.counts);
        pod.task = None;
        self.rebalance();
    }

    /// Nobody makes progress.
    fn wait_for_stores(&mut self) {
        for pod in &mut self.pods {
            pod.task = pod.task.or_else(|| {
                let next = pod.next(&self.queues, &self.group, self.now);
                next.map(|partition| (partition, pod.counts.busy_seconds))
            });
            if pod.task.is_none() {
                continue;
            }
            let since = *pod.waits_since.get_or_insert(self.now);
            if self.now - since < SECONDS_TO_REPORT {
                pod.counts.busy_seconds += 1.0;
            }
        }
    }

    fn work(&mut self) {
        let is_now = |outage: &Outage| (outage.from..outage.until).contains(&self.now);
        if self.outages.iter().any(is_now) {
            self.wait_for_stores();
            return;
        }
        let speed = self.speed();
        for pod in &mut self.pods {
            pod.waits_since = None;
            if matches!(pod.state, PodState::Ready | PodState::Draining) {
                let busy = pod.work(&mut self.queues, &self.group, speed, self.now);
                self.busy_seconds += busy;
            }
        }
    }

    /// Pages per second of one worker, when all that have work share the stores' limit.
    fn speed(&self) -> f64 {
        let speed = self.setup.pages_per_second;
        let Some(limit) = self.store_limit else {
            return speed;
        };
        let has_work = |pod: &&Pod| {
            pod.task.is_some() || pod.next(&self.queues, &self.group, self.now).is_some()
        };
        let busy = self.pods.iter().filter(has_work).count();
        speed.min(limit / busy.max(1) as f64)
    }

    fn terminate_drained(&mut self) {
        let before = self.pods.len();
        self.pods
            .retain(|pod| pod.state != PodState::Draining || pod.task.is_some());
        if self.pods.len() < before {
            self.rebalance();
        }
    }
}

impl NodePool {
    fn new(nodes: Nodes) -> Self {
        Self {
            nodes,
            ready: 0,
            coming: Vec::new(),
            idle_since: None,
        }
    }

    /// The number of nodes. Provisions some for pending pods, and removes idle ones.
    fn provision(&mut self, now: u32, scheduled: u32, pending: u32) -> u32 {
        let before = self.coming.len();
        self.coming.retain(|at| *at > now);
        self.ready += count_of(before - self.coming.len());
        let wanted = (scheduled + pending).saturating_sub(self.ready);
        let wanted = wanted.min(self.nodes.at_a_time);
        while count_of(self.coming.len()) < wanted
            && self.ready + count_of(self.coming.len()) < self.nodes.most
        {
            self.coming.push(now + self.nodes.seconds);
        }
        if self.ready > scheduled + pending {
            let since = *self.idle_since.get_or_insert(now);
            if now - since >= IDLE_NODE {
                self.ready = scheduled + pending;
            }
        } else {
            self.idle_since = None;
        }
        self.ready
    }
}

fn count_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Pod {
    /// Since when it has reported that it waits for the stores.
    pub(super) fn reports_waiting_since(&self, now: u32) -> Option<u32> {
        let since = self.waits_since? + SECONDS_TO_REPORT;
        (now >= since).then_some(since)
    }

    /// Messages in progress.
    pub(super) fn in_flight(&self) -> u32 {
        u32::from(self.task.is_some())
    }

    /// Processes messages for a second. Returns the part of it in which there was work.
    fn work(&mut self, queues: &mut Queues, group: &Group, speed: f64, now: u32) -> f64 {
        let mut left = 1.0;
        while left > 0.0 {
            if self
                .task
                .is_some_and(|(partition, _)| !queues.has_work(partition, now))
            {
                self.task = None;
            }
            if self.task.is_none() && self.state == PodState::Ready {
                self.task = self
                    .next(queues, group, now)
                    .map(|partition| (partition, self.counts.busy_seconds));
            }
            let Some((partition, began)) = self.task else {
                break;
            };
            self.turn = partition + 1;
            let (seconds, finished) = queues.work(partition, speed, left, now);
            left -= seconds;
            self.counts.busy_seconds += seconds;
            self.counts.pages += seconds * speed;
            let longest = self.counts.busy_seconds - began;
            if let Some(finished) = finished {
                self.counts.documents += f64::from(u8::from(finished.ends_document));
                self.counts.longest_seconds = self.counts.longest_seconds.max(longest);
            }
            // The message is processed or split: it is the next partition's turn.
            if finished.is_some() || seconds == 0.0 {
                self.task = None;
            }
        }
        1.0 - left
    }

    /// Its next partition with work.
    fn next(&self, queues: &Queues, group: &Group, now: u32) -> Option<usize> {
        if self.state != PodState::Ready {
            return None;
        }
        let with_work = |partition: &usize| {
            group.reads(self.id, *partition, now) && queues.has_work(*partition, now)
        };
        let later = group
            .partitions_of(self.id)
            .filter(|partition| *partition >= self.turn);
        let earlier = group
            .partitions_of(self.id)
            .filter(|partition| *partition < self.turn);
        later.chain(earlier).find(with_work)
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
