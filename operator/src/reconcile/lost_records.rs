//! Records that Kafka deleted before they were processed: the log of a partition starts after the
//! committed offset. Pure.

use std::collections::HashMap;

use layra_autoscaler::{Backlog, Partition};

use super::{plan::PipelineEvent, reason::Reason};

/// The deleted records that were already reported: for each partition the offset up to which.
#[derive(Default)]
pub(super) struct LostRecords(HashMap<Partition, i64>);

impl LostRecords {
    /// The number of records that were lost since the last call. Offsets of transactions count too,
    /// so the number is an upper bound. After a restart of the operator a loss that the workers have
    /// not passed yet is reported once more.
    pub(super) fn observe(&mut self, backlog: &Backlog) -> u64 {
        let mut lost = 0;
        let mut reported = HashMap::new();
        for (partition, offsets) in backlog.partitions() {
            let Some(committed) = offsets.committed else {
                continue;
            };
            if offsets.log_start <= committed {
                continue;
            }
            let known = self.0.get(&partition).copied().unwrap_or(committed);
            let new = offsets.log_start - known.max(committed);
            lost += u64::try_from(new).unwrap_or(0);
            reported.insert(partition, offsets.log_start);
        }
        self.0 = reported;
        lost
    }
}

/// The event for lost records.
pub(super) fn event(lost: u64, topic: &str) -> PipelineEvent {
    PipelineEvent::warning(
        Reason::RecordsLost,
        format!(
            "Kafka deleted up to {lost} records of topic {topic} or its page ranges before they were processed. Raise retention.ms and retention.bytes of the topics, and send the documents again that are not in MongoDB."
        ),
    )
}

#[cfg(test)]
mod tests {
    use layra_autoscaler::PartitionOffsets;

    use super::*;

    fn backlog(log_start: i64, committed: Option<i64>) -> Backlog {
        Backlog {
            tasks: vec![PartitionOffsets {
                log_start,
                end: 100,
                committed,
            }],
            ..Backlog::default()
        }
    }

    #[test]
    fn each_lost_record_is_counted_once() {
        let mut records = LostRecords::default();
        let mut lost = |log_start, committed| records.observe(&backlog(log_start, committed));
        assert_eq!(lost(10, Some(10)), 0, "all were processed");
        assert_eq!(lost(25, Some(10)), 15);
        assert_eq!(lost(25, Some(10)), 0, "nobody has committed since");
        assert_eq!(lost(30, Some(10)), 5, "five more");
        assert_eq!(lost(30, Some(40)), 0);
        assert_eq!(lost(60, Some(50)), 10, "the next loss");
    }

    #[test]
    fn a_group_that_never_committed_and_a_new_topic_have_lost_nothing() {
        let mut records = LostRecords::default();
        assert_eq!(records.observe(&backlog(50, None)), 0);
        assert_eq!(records.observe(&backlog(0, Some(500))), 0);
    }
}
