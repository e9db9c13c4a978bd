//! Which of the messages that were read ahead is started next: knowledge bases take turns, so that
//! one with many files does not hold up another one's single file. No I/O, no clock.
//!
//! The next message is of the knowledge base that has the fewest in progress, and among several of
//! the one whose last turn is longest ago. The messages of a knowledge base keep their order, its
//! tasks and its page ranges each for themselves. A message of no knowledge base keeps its place in
//! its partition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::kafka::tracker::TopicPartition;

/// A message that was read and not started.
#[derive(Clone, Debug)]
pub(crate) struct Waiting<M> {
    pub(crate) message: M,
    pub(crate) partition: TopicPartition,
    pub(crate) owner: Owner,
    pub(crate) kind: Kind,
    /// The memory that it needs.
    pub(crate) bytes: usize,
}

/// Whose turn a message belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    KnowledgeBase(String),
    /// The message names no knowledge base, or is not valid. The ledger has no entry for it, and
    /// would not know it if it were delivered again: it is started after every earlier message of
    /// its partition.
    Partition(TopicPartition),
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A document, which needs room in the pipeline.
    Task,
    /// A part of a document that was begun.
    Range,
    /// Anything else, for example a deletion.
    Other,
}

/// How many messages are in progress at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) all: usize,
    /// Of one owner.
    pub(crate) each: usize,
    pub(crate) ranges: usize,
}

/// What counts for the next turn at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// A quota of the pipeline is reached: no task is started.
    pub(crate) held: bool,
    /// Messages in progress that wait for such a quota. Others may be started in their place.
    pub(crate) waiting: usize,
}

/// What waits of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The turn of a message in progress. It must be given back with [`Turns::ended`].
#[derive(Debug)]
pub(crate) struct Turn {
    owner: Owner,
    is_range: bool,
}

/// The messages that wait, and how many of each owner are in progress.
#[derive(Debug)]
pub(crate) struct Turns<M> {
    limits: Limits,
    lanes: BTreeMap<(Owner, bool), Lane<M>>,
    owners: BTreeMap<Owner, Share>,
    partitions: BTreeMap<TopicPartition, Partition>,
    ranges_in_progress: usize,
    /// Counts messages, in the order in which they were read.
    read: u64,
    /// Counts turns.
    turn: u64,
}

/// The messages of one owner, page ranges apart from others.
#[derive(Debug)]
struct Lane<M> {
    messages: VecDeque<(u64, Waiting<M>)>,
    last_turn: u64,
}

/// An owner that has messages here.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    waiting: usize,
    in_progress: usize,
    last_turn: u64,
}

#[derive(Debug, Default)]
struct Partition {
    messages: BTreeSet<u64>,
    bytes: usize,
}

impl<M> Turns<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            owners: BTreeMap::new(),
            partitions: BTreeMap::new(),
            ranges_in_progress: 0,
            read: 0,
            turn: 0,
        }
    }

    /// Adds a message that was read after all others of its partition.
    pub(crate) fn add(&mut self, waiting: Waiting<M>) {
        self.read += 1;
        let partition = self.partitions.entry(waiting.partition.clone());
        let partition = partition.or_default();
        partition.messages.insert(self.read);
        partition.bytes += waiting.bytes;
        let share = self.owners.entry(waiting.owner.clone());
        // Whoever comes later comes after those that wait.
        let share = share.or_insert(Share {
            last_turn: self.turn,
            ..Share::default()
        });
        share.waiting += 1;
        let lane = (waiting.owner.clone(), waiting.kind == Kind::Range);
        let lane = self.lanes.entry(lane).or_insert_with(|| Lane {
            messages: VecDeque::new(),
            last_turn: self.turn,
        });
        lane.messages.push_back((self.read, waiting));
    }

    /// Takes the message that is started next. `None`: none waits, or none may be started now.
    pub(crate) fn next(&mut self, now: Now) -> Option<(M, Turn)> {
        let in_progress: usize = self.owners.values().map(|share| share.in_progress).sum();
        if in_progress >= self.limits.all + now.waiting {
            return None;
        }
        let candidates = self.lanes.iter().filter_map(|(key, lane)| {
            let share = self.owners.get(&key.0).copied().unwrap_or_default();
            let is_full = share.in_progress >= self.limits.each + now.waiting
                || (key.1 && self.ranges_in_progress >= self.limits.ranges);
            let index = self.first_of(&key.0, lane, now).filter(|_| !is_full)?;
            let order = (share.in_progress, share.last_turn, lane.last_turn);
            Some((order, key, index))
        });
        let (_, key, index) = candidates.min()?;
        let (owner, is_range) = key.clone();
        let lane = self.lanes.get_mut(&(owner.clone(), is_range))?;
        let (number, waiting) = lane.messages.remove(index)?;
        self.turn += 1;
        lane.last_turn = self.turn;
        if lane.messages.is_empty() {
            self.lanes.remove(&(owner.clone(), is_range));
        }
        let share = self.owners.entry(owner.clone()).or_default();
        share.last_turn = self.turn;
        share.in_progress += 1;
        self.ranges_in_progress += usize::from(is_range);
        self.left(number, &waiting);
        Some((waiting.message, Turn { owner, is_range }))
    }

    /// The place in a lane of the message that may be started first.
    fn first_of(&self, owner: &Owner, lane: &Lane<M>, now: Now) -> Option<usize> {
        if let Owner::Partition(partition) = owner {
            let (number, _) = lane.messages.front()?;
            let first = self.partitions.get(partition)?.messages.first();
            return (first == Some(number)).then_some(0);
        }
        let may_start = |(_, waiting): &(u64, Waiting<M>)| !now.held || waiting.kind != Kind::Task;
        lane.messages.iter().position(may_start)
    }

    /// Gives back the turn of a message that is not in progress any more.
    pub(crate) fn ended(&mut self, turn: Turn) {
        let Turn { owner, is_range } = turn;
        self.ranges_in_progress -= usize::from(is_range);
        if let Some(share) = self.owners.get_mut(&owner) {
            share.in_progress -= 1;
        }
        self.forget_if_gone(&owner);
    }

    /// Removes the messages of these partitions, of all with `None`.
    pub(crate) fn remove(&mut self, partitions: Option<&[TopicPartition]>) -> Vec<M> {
        let is_meant =
            |partition: &TopicPartition| partitions.is_none_or(|meant| meant.contains(partition));
        let mut removed = Vec::new();
        let lanes = std::mem::take(&mut self.lanes);
        for (key, mut lane) in lanes {
            for (number, waiting) in std::mem::take(&mut lane.messages) {
                if is_meant(&waiting.partition) {
                    self.left(number, &waiting);
                    removed.push(waiting.message);
                } else {
                    lane.messages.push_back((number, waiting));
                }
            }
            if !lane.messages.is_empty() {
                self.lanes.insert(key, lane);
            }
        }
        removed
    }

    /// Number of messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.owners.values().map(|share| share.waiting).sum()
    }

    /// What waits of the partitions of a topic.
    pub(crate) fn loads(&self, topic: &str) -> BTreeMap<i32, Load> {
        let of_topic = self.partitions.iter().filter(|(key, _)| key.0 == topic);
        let loads = of_topic.map(|(key, partition)| {
            let load = Load {
                messages: partition.messages.len(),
                bytes: partition.bytes,
            };
            (key.1, load)
        });
        loads.collect()
    }

    /// Records that a message does not wait any more.
    fn left(&mut self, number: u64, waiting: &Waiting<M>) {
        if let Some(share) = self.owners.get_mut(&waiting.owner) {
            share.waiting -= 1;
        }
        self.forget_if_gone(&waiting.owner);
        if let Some(partition) = self.partitions.get_mut(&waiting.partition) {
            partition.messages.remove(&number);
            partition.bytes -= waiting.bytes;
            if partition.messages.is_empty() {
                self.partitions.remove(&waiting.partition);
            }
        }
    }

    fn forget_if_gone(&mut self, owner: &Owner) {
        let share = self.owners.get(owner);
        if share.is_some_and(|share| share.waiting + share.in_progress == 0) {
            self.owners.remove(owner);
        }
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
