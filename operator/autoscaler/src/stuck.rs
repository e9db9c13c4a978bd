//! Partitions whose work makes no progress. Judged by time and by the pages that their workers
//! process, never by a single observation: a worker that is busy with a long document commits
//! nothing for a while.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    learned::Progress,
    observation::{Backlog, Partition},
};

/// No partition is stuck before this time ...
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// ... nor before this many times the duration of the longest document or page range.
const TIMES_THE_LONGEST: f64 = 4.0;

/// Since when each partition has made no progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct StuckPartitions {
    standstills: BTreeMap<Partition, Standstill>,
}

#[derive(Clone, Copy, Debug)]
struct Standstill {
    next: i64,
    since: Timestamp,
}

impl StuckPartitions {
    /// The partitions with work that have made no progress for a long time: nothing was committed,
    /// and no worker that they are assigned to processed a page.
    pub(crate) fn observe(
        &mut self,
        now: Timestamp,
        backlog: &Backlog,
        progress: &Progress,
        longest_seconds: f64,
    ) -> Vec<Partition> {
        let patience = SHORTEST.max(
            SignedDuration::try_from_secs_f64(TIMES_THE_LONGEST * longest_seconds)
                .unwrap_or(SignedDuration::MAX),
        );
        let mut stuck = Vec::new();
        for (partition, offsets) in backlog.partitions() {
            if offsets.lag() == 0 {
                self.standstills.remove(&partition);
                continue;
            }
            let next = offsets.next();
            let restarted = Standstill { next, since: now };
            let standstill = self.standstills.entry(partition).or_insert(restarted);
            // Without the workers' counts, progress cannot be ruled out.
            let progresses = !progress.known || progress.partitions.contains(&partition);
            if progresses || standstill.next != next {
                *standstill = restarted;
            } else if now.duration_since(standstill.since) >= patience {
                stuck.push(partition);
            }
        }
        stuck
    }

    /// Starts again, because the clock cannot be trusted.
    pub(crate) fn forget(&mut self) {
        self.standstills.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PartitionOffsets, Topic};

    const FIRST: Partition = Partition {
        topic: Topic::Tasks,
        number: 0,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn backlog(committed: i64) -> Backlog {
        Backlog {
            tasks: vec![PartitionOffsets {
                log_start: 0,
                end: 100,
                committed: Some(committed),
            }],
            ..Backlog::default()
        }
    }

    fn progress(partitions: &[Partition]) -> Progress {
        Progress {
            pages: 1.0,
            partitions: partitions.iter().copied().collect(),
            known: true,
        }
    }

    #[test]
    fn a_partition_without_progress_is_stuck_after_ten_minutes() {
        let mut stuck = StuckPartitions::default();
        for second in 0..600 {
            let found = stuck.observe(at(second), &backlog(40), &progress(&[]), 30.0);
            assert_eq!(found, [], "second {second}");
        }
        let found = stuck.observe(at(600), &backlog(40), &progress(&[]), 30.0);
        assert_eq!(found, [FIRST]);
        let found = stuck.observe(at(602), &backlog(41), &progress(&[]), 30.0);
        assert_eq!(found, [], "it made progress");
    }

    #[test]
    fn a_worker_with_a_long_document_is_not_stuck() {
        let mut stuck = StuckPartitions::default();
        for second in 0..4000 {
            let pages = progress(&[FIRST]);
            assert_eq!(stuck.observe(at(second), &backlog(40), &pages, 30.0), []);
        }
    }

    #[test]
    fn patience_is_derived_from_the_longest_work() {
        let mut stuck = StuckPartitions::default();
        for second in [0, 600, 1999] {
            let found = stuck.observe(at(second), &backlog(40), &progress(&[]), 500.0);
            assert_eq!(found, [], "second {second}");
        }
        let found = stuck.observe(at(2000), &backlog(40), &progress(&[]), 500.0);
        assert_eq!(found, [FIRST]);
    }

    #[test]
    fn without_the_counts_of_workers_nothing_is_stuck() {
        let mut stuck = StuckPartitions::default();
        for second in [0, 1000, 2000] {
            let found = stuck.observe(at(second), &backlog(40), &Progress::default(), 0.0);
            assert_eq!(found, []);
        }
    }
}
