//! From offsets to a backlog. Pure.

/// The offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionOffsets {
    /// The first record that retention has left.
    pub(crate) log_start: i64,
    /// The end for a reader of committed records (the last stable offset): the markers and records
    /// of an open transaction are not yet work.
    pub(crate) end: i64,
    /// Where the group goes on. `None`: it has not committed yet.
    pub(crate) committed: Option<i64>,
}

impl PartitionOffsets {
    /// Records that the group has still to do. Records that retention has deleted are not work,
    /// and neither is a committed offset beyond the end (the topic was made anew). Without a commit
    /// the workers begin at the log's start.
    pub(crate) fn lag(self) -> i64 {
        let next = self.committed.unwrap_or(self.log_start).max(self.log_start);
        (self.end - next).max(0)
    }
}

/// The backlog of a topic.
pub(crate) fn total_lag(partitions: &[PartitionOffsets]) -> i64 {
    partitions.iter().map(|partition| partition.lag()).sum()
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
        assert_eq!(
            total_lag(&[partition(0, 500, 100), partition(0, 90, 100)]),
            10
        );
    }
}
