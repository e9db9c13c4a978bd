//! The world around a policy, in steps of a second: partitions, a consumer group, and worker pods
//! that start, work, and finish what they have begun before they leave.
//!
//! A worker takes one message at a time, from its partitions in turn. A pod gets a node at once
//! while there are GPUs, holds its GPU until it has left, and works after the time of a start. Of
//! surplus workers those leave that wait for a node, then those that start, then idle ones, then
//! the youngest.

use super::{group::Group, queues::Queues, trace::Trace};

/// What the world is like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setup {
    /// Partitions of each topic.
    pub(super) partitions: u32,
    /// Longer documents are split into ranges of so many pages.
    pub(super) range_pages: u32,
    /// Seconds from a node to work.
    pub(super) startup_seconds: u32,
    /// Pages a second of one worker.
    pub(super) pages_per_second: f64,
    /// GPUs that there are; `None`: as many as are asked for.
    pub(super) gpus: Option<u32>,
    /// For the partitions of documents.
    pub(super) seed: u64,
}

/// Everything at a moment.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The second that begins.
    pub(super) now: u32,
    /// Workers asked for.
    pub(super) asked: u32,
    /// The topics.
    pub(super) queues: Queues,
    /// The consumer group.
    pub(super) group: Group,
    /// Every pod that exists.
    pub(super) workers: Vec<Worker>,
    /// Busy seconds of all workers that ever were.
    pub(super) busy_seconds: f64,
    /// GPUs that were held in the last second.
    pub(super) held: u32,
    setup: Setup,
    store_limit: Option<f64>,
    made: u64,
}

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    /// Counts up.
    pub(super) id: u64,
    /// How far it is.
    pub(super) state: State,
    /// Pages, documents, busy seconds and the longest piece of work.
    pub(super) counts: Counts,
    /// The partition whose first message it works on, and the busy seconds at which that began.
    task: Option<(usize, f64)>,
    /// The partition that it looks at next.
    turn: usize,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No GPU is free.
    Waiting { since: u32 },
    /// It has a node.
    Starting { since: u32 },
    /// It works, and is a member of the group.
    Ready,
    /// It was told to stop, and finishes what it has begun.
    Leaving,
}

/// What a worker counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
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
            asked: 0,
            queues: Queues::new(trace, partitions, setup.range_pages, setup.seed),
            group: Group::new(partitions),
            workers: Vec::new(),
            busy_seconds: 0.0,
            held: 0,
            setup,
            store_limit: trace.store_limit,
            made: 0,
        }
    }

    /// Pods that were not told to stop.
    pub(super) fn alive(&self) -> u32 {
        self.count(|state| state != State::Leaving)
    }

    /// Pods that work.
    pub(super) fn ready(&self) -> u32 {
        self.count(|state| state == State::Ready)
    }

    /// Pods that were told to stop and are there.
    pub(super) fn leaving(&self) -> u32 {
        self.count(|state| state == State::Leaving)
    }

    /// GPUs that are held.
    pub(super) fn placed(&self) -> u32 {
        self.count(|state| !matches!(state, State::Waiting { .. }))
    }

    /// Partitions of the topic with the tasks.
    pub(super) fn partitions(&self) -> u32 {
        self.setup.partitions
    }

    /// Seconds from a node to work.
    pub(super) fn startup_seconds(&self) -> u32 {
        self.setup.startup_seconds
    }

    fn count(&self, is: impl Fn(State) -> bool) -> u32 {
        let found = self
            .workers
            .iter()
            .filter(|worker| is(worker.state))
            .count();
        u32::try_from(found).unwrap_or(u32::MAX)
    }

    /// Begins the second: what arrives is there.
    pub(super) fn begin(&mut self) {
        self.queues.arrive(self.now);
    }

    /// The rest of the second: pods follow what was asked for, and work.
    pub(super) fn finish(&mut self) {
        self.stop_surplus();
        self.make_missing();
        self.place();
        self.become_ready();
        self.held = self.placed();
        self.work();
        self.leave();
        self.now += 1;
    }

    fn stop_surplus(&mut self) {
        let surplus = self.alive().saturating_sub(self.asked);
        for _ in 0..surplus {
            let expendable = |worker: &Worker| match worker.state {
                State::Leaving => None,
                State::Waiting { .. } => Some((3, worker.id)),
                State::Starting { .. } => Some((2, worker.id)),
                State::Ready => Some((u32::from(worker.task.is_none()), worker.id)),
            };
            let candidates = self.workers.iter().enumerate();
            let chosen = candidates
                .filter_map(|(index, worker)| Some((expendable(worker)?, index)))
                .max();
            let Some((_, index)) = chosen else { return };
            if self.workers[index].state == State::Ready {
                self.workers[index].state = State::Leaving;
            } else {
                self.workers.remove(index);
            }
        }
    }

    fn make_missing(&mut self) {
        for _ in self.alive()..self.asked {
            self.made += 1;
            self.workers.push(Worker {
                id: self.made,
                state: State::Waiting { since: self.now },
                counts: Counts::default(),
                task: None,
                turn: 0,
            });
        }
    }

    fn place(&mut self) {
        let gpus = self.setup.gpus.unwrap_or(u32::MAX);
        let mut free = gpus.saturating_sub(self.placed());
        for worker in &mut self.workers {
            if free > 0 && matches!(worker.state, State::Waiting { .. }) {
                worker.state = State::Starting { since: self.now };
                free -= 1;
            }
        }
    }

    fn become_ready(&mut self) {
        let mut joined = false;
        for worker in &mut self.workers {
            if let State::Starting { since } = worker.state
                && self.now - since >= self.setup.startup_seconds
            {
                worker.state = State::Ready;
                joined = true;
            }
        }
        if joined {
            self.rebalance();
        }
    }

    fn rebalance(&mut self) {
        let is_member = |worker: &&Worker| matches!(worker.state, State::Ready | State::Leaving);
        let members: Vec<u64> = self
            .workers
            .iter()
            .filter(is_member)
            .map(|worker| worker.id)
            .collect();
        self.group.rebalance(&members, self.now);
        for worker in &mut self.workers {
            // Pages that are done of a message stay done; its next owner goes on from there.
            let lost = worker
                .task
                .is_some_and(|(partition, _)| !self.group.reads(worker.id, partition, self.now));
            if lost {
                worker.task = None;
            }
        }
    }

    fn work(&mut self) {
        let speed = self.speed();
        for worker in &mut self.workers {
            if matches!(worker.state, State::Ready | State::Leaving) {
                let busy = worker.work(&mut self.queues, &self.group, speed, self.now);
                self.busy_seconds += busy;
            }
        }
    }

    /// Pages a second of one worker, when all of them that have work share what the stores take.
    fn speed(&self) -> f64 {
        let speed = self.setup.pages_per_second;
        let Some(limit) = self.store_limit else {
            return speed;
        };
        let has_work = |worker: &&Worker| {
            worker.task.is_some() || worker.next(&self.queues, &self.group, self.now).is_some()
        };
        let busy = self.workers.iter().filter(has_work).count();
        speed.min(limit / busy.max(1) as f64)
    }

    fn leave(&mut self) {
        let before = self.workers.len();
        self.workers
            .retain(|worker| worker.state != State::Leaving || worker.task.is_some());
        if self.workers.len() < before {
            self.rebalance();
        }
    }
}

impl Worker {
    /// Documents in work.
    pub(super) fn in_flight(&self) -> u32 {
        u32::from(self.task.is_some())
    }

    /// Works for a second; returns for how much of it there was work.
    fn work(&mut self, queues: &mut Queues, group: &Group, speed: f64, now: u32) -> f64 {
        let mut left = 1.0;
        while left > 0.0 {
            if self
                .task
                .is_some_and(|(partition, _)| !queues.has_work(partition, now))
            {
                self.task = None;
            }
            if self.task.is_none() && self.state == State::Ready {
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
            // Done, or split: the next message is another partition's turn.
            if finished.is_some() || seconds == 0.0 {
                self.task = None;
            }
        }
        1.0 - left
    }

    /// Its next partition with work, in turn.
    fn next(&self, queues: &Queues, group: &Group, now: u32) -> Option<usize> {
        if self.state != State::Ready {
            return None;
        }
        let with_work = |partition: &usize| {
            group.reads(self.id, *partition, now) && queues.has_work(*partition, now)
        };
        let later = group
            .of(self.id)
            .filter(|partition| *partition >= self.turn);
        let earlier = group.of(self.id).filter(|partition| *partition < self.turn);
        later.chain(earlier).find(with_work)
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
