//! Partitions whose work does not move. Judged by time and by what their workers get done, never by
//! one look: a worker that is busy with a long document commits nothing for a while.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    learned::Progress,
    observation::{Backlog, Partition},
};

/// Nothing is stuck before this time.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// Nor before so many times the longest piece of work.
const TIMES_THE_LONGEST: f64 = 4.0;

/// Since when partitions have not moved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stuck {
    still: BTreeMap<Partition, Still>,
}

#[derive(Clone, Copy, Debug)]
struct Still {
    next: i64,
    since: Timestamp,
}

impl Stuck {
    /// The partitions with work that have not moved for long, although a worker that has them is
    /// there: nothing was committed, and no such worker got a page done.
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
                self.still.remove(&partition);
                continue;
            }
            let next = offsets.next();
            let fresh = Still { next, since: now };
            let still = self.still.entry(partition).or_insert(fresh);
            // What nobody looked at is not stuck.
            let moves = !progress.known || progress.moving.contains(&partition);
            if moves || still.next != next {
                *still = fresh;
            } else if now.duration_since(still.since) >= patience {
                stuck.push(partition);
            }
        }
        stuck
    }

    /// Begins anew, because the clock cannot be trusted.
    pub(crate) fn forget(&mut self) {
        self.still.clear();
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

    fn progress(moving: &[Partition]) -> Progress {
        Progress {
            pages: 1.0,
            moving: moving.iter().copied().collect(),
            known: true,
        }
    }

    #[test]
    fn a_partition_that_nobody_gets_on_with_is_stuck_after_ten_minutes() {
        let mut stuck = Stuck::default();
        for second in 0..600 {
            let seen = stuck.observe(at(second), &backlog(40), &progress(&[]), 30.0);
            assert_eq!(seen, [], "second {second}");
        }
        let seen = stuck.observe(at(600), &backlog(40), &progress(&[]), 30.0);
        assert_eq!(seen, [FIRST]);
        let seen = stuck.observe(at(602), &backlog(41), &progress(&[]), 30.0);
        assert_eq!(seen, [], "it moved");
    }

    #[test]
    fn a_worker_with_a_long_document_is_not_stuck() {
        let mut stuck = Stuck::default();
        for second in 0..4000 {
            let pages = progress(&[FIRST]);
            assert_eq!(stuck.observe(at(second), &backlog(40), &pages, 30.0), []);
        }
    }

    #[test]
    fn patience_follows_from_the_longest_piece_of_work() {
        let mut stuck = Stuck::default();
        for second in [0, 600, 1999] {
            let seen = stuck.observe(at(second), &backlog(40), &progress(&[]), 500.0);
            assert_eq!(seen, [], "second {second}");
        }
        let seen = stuck.observe(at(2000), &backlog(40), &progress(&[]), 500.0);
        assert_eq!(seen, [FIRST]);
    }

    #[test]
    fn without_a_look_at_the_workers_nothing_is_stuck() {
        let mut stuck = Stuck::default();
        for second in [0, 1000, 2000] {
            let seen = stuck.observe(at(second), &backlog(40), &Progress::default(), 0.0);
            assert_eq!(seen, []);
        }
    }
}
