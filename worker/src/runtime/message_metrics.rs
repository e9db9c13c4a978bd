//! Metrics of the partitions and of the messages that were read from them.

use std::sync::{MutexGuard, PoisonError};

use layra_crds::ProcessedAhead;

use crate::runtime::metrics::Metrics;

impl Metrics {
    /// Records how many messages are in progress, and how many wait for their turn.
    pub(crate) fn set_messages(&self, in_progress: usize, waiting: usize) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.documents_in_flight.set(number(in_progress));
        self.read_ahead.set(number(waiting));
    }

    /// The number of messages in progress.
    pub(crate) fn in_progress(&self) -> i64 {
        self.documents_in_flight.get()
    }

    /// Records all partitions of a topic that are assigned to this worker.
    pub(crate) fn set_assigned(&self, topic: &str, partitions: Vec<i32>) {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        assigned.insert(topic.to_owned(), partitions);
        self.partition_assigned.reset();
        for (topic, partitions) in assigned.iter() {
            for partition in partitions {
                let labels = &[topic.as_str(), &partition.to_string()];
                self.partition_assigned.with_label_values(labels).set(1);
            }
        }
        let count = assigned.values().map(Vec::len).sum::<usize>();
        self.partitions_assigned
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Records how many messages of each partition were processed before earlier ones.
    pub(crate) fn set_processed_ahead(&self, ahead: Vec<((String, i32), u64)>) {
        let ahead = ahead
            .into_iter()
            .map(|((topic, partition), messages)| ProcessedAhead {
                topic,
                partition,
                messages,
            });
        *self.processed_ahead() = ahead.collect();
    }

    pub(super) fn processed_ahead(&self) -> MutexGuard<'_, Vec<ProcessedAhead>> {
        let ahead = &self.processed_ahead;
        ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
