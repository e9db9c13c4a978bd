//! What a decision is based on: offsets, workers, and what the workers count. Plain data in the
//! units of the law: pages, seconds, workers. An unknown value is absent, never zero.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::Timestamp;

use super::{arrivals::EndOffsets, unknown::UnknownBacklog};

/// What a worker [waits for](Counts::waiting_for) that starts no document because a quota of the
/// pipeline is reached. It is no server: more workers, or others, would wait too.
pub const QUOTA: &str = "quota";

/// A pipeline at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The moment.
    pub at: Timestamp,
    /// The current number of replicas.
    pub current: u32,
    /// The offsets, or why they are unknown.
    pub backlog: Result<Backlog, UnknownBacklog>,
    /// The workers, without those that are terminating.
    pub workers: Vec<Worker>,
    /// Workers that are shutting down.
    pub terminating: u32,
}

/// The offsets of a pipeline's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The tasks topic, by partition.
    pub tasks: Vec<PartitionOffsets>,
    /// The topic with the ranges of split documents, by partition.
    pub ranges: Vec<PartitionOffsets>,
    /// The consumer group is rebalancing.
    pub rebalancing: bool,
    /// Partitions whose offsets could not be read, with the error. They count as having no lag, so
    /// that the backlog is a lower bound: it may add workers, and stops none.
    pub unread: BTreeMap<Partition, String>,
    /// The end offsets at some earlier times, the oldest first. They show a process that has just
    /// started how long the backlog has waited. Empty: unknown.
    pub past: Arc<[EndOffsets]>,
}

impl Backlog {
    /// The partitions of both topics.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, PartitionOffsets)> {
        let tasks = self.tasks.iter().enumerate();
        let ranges = self.ranges.iter().enumerate();
        tasks
            .map(|(number, offsets)| (Partition::of(Topic::Tasks, number), *offsets))
            .chain(ranges.map(|(number, offsets)| (Partition::of(Topic::Ranges, number), *offsets)))
    }

    /// Messages of both topics that are not processed.
    #[must_use]
    pub fn lag(&self) -> i64 {
        self.partitions().map(|(_, offsets)| offsets.lag()).sum()
    }
}

/// One of the two topics that workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// A message is a document.
    Tasks,
    /// A message is a page range.
    Ranges,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tasks => "tasks",
            Self::Ranges => "ranges",
        })
    }
}

/// A partition that workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// The number, from 0.
    pub number: u32,
}

impl Partition {
    /// The partition at this index of a list.
    #[must_use]
    pub fn of(topic: Topic, index: usize) -> Self {
        Self {
            topic,
            number: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }
}

/// The offsets of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The first record that retention has not deleted.
    pub log_start: i64,
    /// The end for a reader of committed records (the last stable offset): the records of an open
    /// transaction are not work yet.
    pub end: i64,
    /// The committed offset of the group. `None`: it has not committed yet.
    pub committed: Option<i64>,
}

impl PartitionOffsets {
    /// The offset of the next record to process. Without a committed offset the workers start at
    /// the log start. Records that retention has deleted are not work.
    #[must_use]
    pub fn next(self) -> i64 {
        self.committed.unwrap_or(self.log_start).max(self.log_start)
    }

    /// Records that the group has not processed.
    #[must_use]
    pub fn lag(self) -> i64 {
        (self.end - self.next()).max(0)
    }

    /// Whether the committed offset is past the end: the topic was recreated or truncated. The
    /// group restarts from the log start as soon as a worker reads.
    #[must_use]
    pub fn is_committed_past_end(self) -> bool {
        self.committed.is_some_and(|committed| committed > self.end)
    }
}

/// A worker pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// The pod's name.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it reached the earlier steps of its life.
    pub times: Times,
    /// What it counted. `None`: its counts could not be read.
    pub counts: Option<Counts>,
}

impl Worker {
    /// It is ready, and as far as is known not all of its work waits for a server. Or it is not
    /// ready, since a single retry is enough for that, but some of its work progresses.
    pub(crate) fn works(&self) -> bool {
        match self.phase {
            Phase::Ready => self.waiting_for().is_empty(),
            Phase::Waiting { .. } => self
                .counts
                .as_ref()
                .is_some_and(|counts| counts.in_flight > 0 && counts.waiting_for.is_empty()),
            Phase::Pending { .. } | Phase::Starting { .. } => false,
        }
    }

    /// It has started, and cannot work because a server that it needs does not respond.
    pub(crate) fn waits(&self) -> bool {
        let has_started = matches!(self.phase, Phase::Ready | Phase::Waiting { .. });
        has_started && !self.works()
    }

    /// It waits for room in the vector store, and for no server.
    pub(crate) fn waits_for_quota(&self) -> bool {
        let waits_for = self.waiting_for();
        !waits_for.is_empty() && waits_for.iter().all(|name| name == QUOTA)
    }

    /// The servers that all of its work waits for, as far as is known.
    pub(crate) fn waiting_for(&self) -> &[String] {
        self.counts
            .as_ref()
            .map_or(&[], |counts| &counts.waiting_for)
    }
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// No node has room for it, or a quota system holds it back.
    Pending {
        /// Since when.
        since: Timestamp,
    },
    /// It was created just now or has a node, and has not been ready since its container started.
    Starting {
        /// When it was scheduled, or else created; after a restart, when it was last ready.
        since: Timestamp,
        /// Its container was restarted.
        restarted: bool,
    },
    /// It processes messages.
    Ready,
    /// It has been ready, and is not any more: something that it does is being retried.
    Waiting {
        /// Since when.
        since: Timestamp,
    },
}

/// When a worker reached the steps of its life. `None`: not yet, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Its pod was created.
    pub created: Option<Timestamp>,
    /// A node was found for it.
    pub placed: Option<Timestamp>,
    /// Its process was started. `None` after a restart too.
    pub process_started: Option<Timestamp>,
}

/// The number of workers that are ready, or work although they are not.
pub(crate) fn available(workers: &[Worker]) -> u32 {
    let is_available = |worker: &&Worker| worker.phase == Phase::Ready || worker.works();
    let found = workers.iter().filter(is_available).count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// The number of workers whose phase matches.
pub(crate) fn count(workers: &[Worker], matches: impl Fn(Phase) -> bool) -> u32 {
    let found = workers
        .iter()
        .filter(|worker| matches(worker.phase))
        .count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// What a worker counted since its container started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Pages made searchable.
    pub pages: f64,
    /// Documents that ended, successfully or not.
    pub documents: f64,
    /// Page ranges that were stored.
    pub ranges: f64,
    /// Pages of those ranges.
    pub range_pages: f64,
    /// Seconds in which it had work that did not wait for a server.
    pub busy_seconds: f64,
    /// Seconds of the longest recent document or page range.
    pub longest_seconds: f64,
    /// Of the pages made searchable: those without anything on them, without text, and with letters
    /// that were not drawn. For people.
    pub blank_pages: f64,
    /// See `blank_pages`.
    pub pages_without_text: f64,
    /// See `blank_pages`.
    pub pages_with_missing_glyphs: f64,
    /// Documents and page ranges in progress.
    pub in_flight: u32,
    /// The partitions assigned to it.
    pub partitions: BTreeSet<Partition>,
    /// Messages that it processed before others of their partition that were sent earlier.
    pub processed_ahead: BTreeMap<Partition, i64>,
    /// The servers that all of its work waits for. Empty: some of it progresses, or there is none.
    pub waiting_for: Vec<String>,
    /// Rechecks of the pipeline's documents that are due within 15 minutes. `None`: it has not
    /// counted them yet.
    pub open_rechecks: Option<u64>,
    /// Seconds from the start of its process to its first readiness. `None`: not ready yet, or it
    /// is an older worker.
    pub startup_seconds: Option<f64>,
    /// What it is retrying, with the servers' words, for people.
    pub retrying: Vec<String>,
    /// All that it is retrying waits for collections of another model to be embedded again: no server
    /// is away.
    pub waits_for_model: bool,
    /// It starts no document, because a quota of the pipeline is reached.
    pub held_by_quota: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(log_start: i64, committed: impl Into<Option<i64>>, end: i64) -> PartitionOffsets {
        PartitionOffsets {
            log_start,
            end,
            committed: committed.into(),
        }
    }

    #[test]
    fn records_past_the_committed_offset_are_lag() {
        assert_eq!(partition(0, 40, 100).lag(), 60);
        assert_eq!(partition(0, 100, 100).lag(), 0);
    }

    #[test]
    fn without_a_committed_offset_the_lag_counts_from_the_log_start() {
        assert_eq!(partition(30, None, 100).lag(), 70);
    }

    #[test]
    fn records_deleted_by_retention_are_not_lag() {
        assert_eq!(partition(90, 40, 100).lag(), 10);
    }

    #[test]
    fn a_committed_offset_past_the_end_does_not_hide_other_partitions() {
        let backlog = Backlog {
            tasks: vec![partition(0, 500, 100), partition(0, 90, 100)],
            ..Backlog::default()
        };
        assert_eq!(backlog.lag(), 10);
        assert!(
            backlog.tasks[0].is_committed_past_end() && !backlog.tasks[1].is_committed_past_end()
        );
    }
}
