//! What a decision is made from: offsets, workers and what the workers count. Plain data, in the
//! units of the law: pages, seconds, workers. Whatever is not known is absent, never zero.

use std::collections::BTreeSet;

use jiff::Timestamp;

/// One look at a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When it was made.
    pub at: Timestamp,
    /// Workers asked for at present.
    pub current: u32,
    /// The offsets, or why they are not known.
    pub backlog: Result<Backlog, Blind>,
    /// The workers that exist; those that are leaving are not among them.
    pub workers: Vec<Worker>,
    /// Workers that were told to stop and are still there.
    pub leaving: u32,
}

/// Why something is not known: a stable word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// `CamelCase`.
    pub reason: &'static str,
    /// What is not known, and why.
    pub message: String,
}

/// The offsets of a pipeline's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The topic with the tasks, by partition.
    pub tasks: Vec<PartitionOffsets>,
    /// The topic with the ranges of documents that were split, by partition.
    pub ranges: Vec<PartitionOffsets>,
    /// The group is handing partitions over at this moment.
    pub rebalancing: bool,
}

impl Backlog {
    /// Every partition that workers read.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, PartitionOffsets)> {
        let tasks = self.tasks.iter().enumerate();
        let ranges = self.ranges.iter().enumerate();
        tasks
            .map(|(number, offsets)| (Partition::of(Topic::Tasks, number), *offsets))
            .chain(ranges.map(|(number, offsets)| (Partition::of(Topic::Ranges, number), *offsets)))
    }

    /// Messages that are not done.
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
    /// A message is a range of pages.
    Ranges,
}

/// A partition that workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Of which topic.
    pub topic: Topic,
    /// Its number.
    pub number: u32,
}

impl Partition {
    fn of(topic: Topic, index: usize) -> Self {
        Self {
            topic,
            number: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }
}

/// The offsets of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The first record that retention has left.
    pub log_start: i64,
    /// The end for a reader of committed records (the last stable offset): the records of an open
    /// transaction are not yet work.
    pub end: i64,
    /// Where the group goes on. `None`: it has not committed yet.
    pub committed: Option<i64>,
}

impl PartitionOffsets {
    /// The offset of the next record to be done. Without a commit the workers begin at the log's
    /// start; records that retention has deleted are not work.
    #[must_use]
    pub fn next(self) -> i64 {
        self.committed.unwrap_or(self.log_start).max(self.log_start)
    }

    /// Records that the group has still to do.
    #[must_use]
    pub fn lag(self) -> i64 {
        (self.end - self.next()).max(0)
    }

    /// The group stands behind the end: the topic was made anew, or lost records. The group begins
    /// at the log's start as soon as a worker reads.
    #[must_use]
    pub fn is_ahead(self) -> bool {
        self.committed.is_some_and(|committed| committed > self.end)
    }
}

/// A worker pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// The pod's name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// What it counted. `None`: it could not be read.
    pub counts: Option<Counts>,
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// No node has room for it.
    Waiting {
        /// Since when.
        since: Timestamp,
    },
    /// It has a node, or was made just now, and does not work yet.
    Starting {
        /// When it got its node, or was made.
        since: Timestamp,
    },
    /// It works.
    Ready {
        /// Seconds from its node to its first readiness, where that is known.
        started_in: Option<f64>,
    },
}

/// What a worker counted since it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Pages made searchable.
    pub pages: f64,
    /// Documents that ended, well or not.
    pub documents: f64,
    /// Seconds in which it had work.
    pub busy_seconds: f64,
    /// Seconds of the longest piece of work.
    pub longest_seconds: f64,
    /// Documents and ranges in work at this moment.
    pub in_flight: u32,
    /// The partitions that it has.
    pub partitions: BTreeSet<Partition>,
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
    fn counts_what_is_not_committed() {
        assert_eq!(partition(0, 40, 100).lag(), 60);
        assert_eq!(partition(0, 100, 100).lag(), 0);
    }

    #[test]
    fn counts_from_the_log_start_without_a_commit() {
        assert_eq!(partition(30, None, 100).lag(), 70);
    }

    #[test]
    fn does_not_count_what_retention_deleted() {
        assert_eq!(partition(90, 40, 100).lag(), 10);
    }

    #[test]
    fn a_commit_beyond_the_end_hides_no_other_partition() {
        let backlog = Backlog {
            tasks: vec![partition(0, 500, 100), partition(0, 90, 100)],
            ..Backlog::default()
        };
        assert_eq!(backlog.lag(), 10);
        assert!(backlog.tasks[0].is_ahead() && !backlog.tasks[1].is_ahead());
    }
}
