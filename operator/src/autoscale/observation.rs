//! What a decision is made from: offsets, workers and what the workers count. Plain data, in the
//! units of the law: pages, seconds, workers. Whatever is not known is absent, never zero.

use std::collections::BTreeSet;

use jiff::Timestamp;

/// One look at a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observation {
    /// When it was made.
    pub(crate) at: Timestamp,
    /// Workers asked for at present.
    pub(crate) current: u32,
    /// The offsets, or why they are not known.
    pub(crate) backlog: Result<Backlog, Blind>,
    /// The workers that exist; those that are leaving are not among them.
    pub(crate) workers: Vec<Worker>,
    /// Workers that were told to stop and are still there.
    pub(crate) leaving: u32,
}

/// Why something is not known: a stable word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blind {
    /// `CamelCase`.
    pub(crate) reason: &'static str,
    /// What is not known, and why.
    pub(crate) message: String,
}

/// The offsets of a pipeline's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// The topic with the tasks, by partition.
    pub(crate) tasks: Vec<PartitionOffsets>,
    /// The topic with the ranges of documents that were split, by partition.
    pub(crate) ranges: Vec<PartitionOffsets>,
    /// The group is handing partitions over at this moment.
    pub(crate) rebalancing: bool,
}

impl Backlog {
    /// Every partition that workers read.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (Partition, PartitionOffsets)> {
        let tasks = self.tasks.iter().enumerate();
        let ranges = self.ranges.iter().enumerate();
        tasks
            .map(|(number, offsets)| (Partition::of(Topic::Tasks, number), *offsets))
            .chain(ranges.map(|(number, offsets)| (Partition::of(Topic::Ranges, number), *offsets)))
    }

    /// Messages that are not done.
    pub(crate) fn lag(&self) -> i64 {
        self.partitions().map(|(_, offsets)| offsets.lag()).sum()
    }
}

/// One of the two topics that workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Topic {
    /// A message is a document.
    Tasks,
    /// A message is a range of pages.
    Ranges,
}

/// A partition that workers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition {
    /// Of which topic.
    pub(crate) topic: Topic,
    /// Its number.
    pub(crate) number: u32,
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
pub(crate) struct PartitionOffsets {
    /// The first record that retention has left.
    pub(crate) log_start: i64,
    /// The end for a reader of committed records (the last stable offset): the records of an open
    /// transaction are not yet work.
    pub(crate) end: i64,
    /// Where the group goes on. `None`: it has not committed yet.
    pub(crate) committed: Option<i64>,
}

impl PartitionOffsets {
    /// The offset of the next record to be done. Without a commit the workers begin at the log's
    /// start; records that retention has deleted are not work.
    pub(crate) fn next(self) -> i64 {
        self.committed.unwrap_or(self.log_start).max(self.log_start)
    }

    /// Records that the group has still to do.
    pub(crate) fn lag(self) -> i64 {
        (self.end - self.next()).max(0)
    }

    /// The group stands behind the end: the topic was made anew, or lost records. The group begins
    /// at the log's start as soon as a worker reads.
    pub(crate) fn is_ahead(self) -> bool {
        self.committed.is_some_and(|committed| committed > self.end)
    }
}

/// A worker pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Worker {
    /// The pod's name.
    pub(crate) name: String,
    /// How far it is.
    pub(crate) phase: Phase,
    /// What it counted. `None`: it could not be read.
    pub(crate) counts: Option<Counts>,
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Phase {
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
pub(crate) struct Counts {
    /// Pages made searchable.
    pub(crate) pages: f64,
    /// Documents that ended, well or not.
    pub(crate) documents: f64,
    /// Seconds in which it had work.
    pub(crate) busy_seconds: f64,
    /// Seconds of the longest piece of work.
    pub(crate) longest_seconds: f64,
    /// Documents and ranges in work at this moment.
    pub(crate) in_flight: u32,
    /// The partitions that it has.
    pub(crate) partitions: BTreeSet<Partition>,
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
