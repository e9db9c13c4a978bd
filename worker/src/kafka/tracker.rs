//! Tracks messages that were read and are not settled, for the poll loop and the tasks that process
//! them. No I/O.
//!
//! A message from an earlier assignment of a partition cannot move the watermark of the current
//! one.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::watermark::Watermark;

/// Topic and number of a partition.
pub(crate) type TopicPartition = (String, i32);

/// The messages in progress, by partition.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    state: Mutex<State>,
    /// Signalled when a ticket is dropped.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partitions: HashMap<TopicPartition, Assignment>,
    next_generation: u64,
    /// Including messages of revoked partitions.
    in_flight: usize,
}

#[derive(Debug)]
struct Assignment {
    generation: u64,
    watermark: Watermark,
    committed: Option<i64>,
    in_flight: usize,
    cancel: CancellationToken,
}

/// Represents a message in progress. If it is dropped without [`Ticket::done`], the message is
/// released: it is not committed and will be redelivered.
#[derive(Debug)]
pub(crate) struct Ticket {
    tracker: Arc<Tracker>,
    partition: TopicPartition,
    generation: u64,
    offset: i64,
    cancel: CancellationToken,
    done: bool,
}

impl Tracker {
    /// Enters a received message.
    pub(crate) fn take(self: &Arc<Self>, partition: TopicPartition, offset: i64) -> Ticket {
        let mut state = self.lock();
        state.in_flight += 1;
        // The group's committed offset is where the first message was read.
        let assignment = state.assignment(&partition, Some(offset));
        assignment.watermark.take(offset);
        assignment.in_flight += 1;
        Ticket {
            tracker: Arc::clone(self),
            partition,
            generation: assignment.generation,
            offset,
            cancel: assignment.cancel.clone(),
            done: false,
        }
    }

    /// Records the consumer's position in a partition. An offset below that was not entered is not
    /// a message.
    pub(crate) fn reached(&self, partition: &TopicPartition, offset: i64) {
        let mut state = self.lock();
        state.assignment(partition, None).watermark.reached(offset);
    }

    /// Number of messages that are not settled, including messages of revoked partitions.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// Partitions and offsets that can be committed and are not yet.
    pub(crate) fn uncommitted(&self) -> Vec<(TopicPartition, i64)> {
        let state = self.lock();
        state
            .partitions
            .iter()
            .filter_map(|(partition, assignment)| {
                let offset = assignment.watermark.committable()?;
                (assignment.committed < Some(offset)).then(|| (partition.clone(), offset))
            })
            .collect()
    }

    /// The partitions of which messages were processed before earlier ones, and their number.
    pub(crate) fn processed_ahead(&self) -> Vec<(TopicPartition, u64)> {
        let state = self.lock();
        let ahead = state.partitions.iter().map(|(partition, assignment)| {
            (partition.clone(), assignment.watermark.processed_ahead())
        });
        ahead.filter(|(_, messages)| *messages > 0).collect()
    }

    /// Records a committed offset.
    pub(crate) fn committed(&self, partition: &TopicPartition, offset: i64) {
        if let Some(assignment) = self.lock().partitions.get_mut(partition) {
            assignment.committed = assignment.committed.max(Some(offset));
        }
    }

    /// Waits at most `timeout` until no message of these partitions is in progress. Then cancels
    /// the remaining work and waits again as long. Returns whether all work has ended.
    pub(crate) fn drain(&self, partitions: &[TopicPartition], timeout: Duration) -> bool {
        if self.wait_idle(partitions, timeout) {
            return true;
        }
        for assignment in partitions.iter().filter_map(|p| self.lock().cancel_of(p)) {
            assignment.cancel();
        }
        self.wait_idle(partitions, timeout)
    }

    /// Forgets revoked partitions. Work on them is cancelled, and its results no longer count.
    pub(crate) fn forget(&self, partitions: &[TopicPartition]) {
        let mut state = self.lock();
        for partition in partitions {
            if let Some(assignment) = state.partitions.remove(partition) {
                assignment.cancel.cancel();
            }
        }
    }

    fn wait_idle(&self, partitions: &[TopicPartition], timeout: Duration) -> bool {
        let busy = |state: &mut State| {
            partitions
                .iter()
                .any(|p| state.partitions.get(p).is_some_and(|a| a.in_flight > 0))
        };
        let (guard, result) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, busy)
            .unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        !result.timed_out()
    }

    fn release(&self, ticket: &Ticket) {
        let mut state = self.lock();
        state.in_flight -= 1;
        if let Some(assignment) = state.partitions.get_mut(&ticket.partition)
            && assignment.generation == ticket.generation
        {
            assignment.in_flight -= 1;
            if ticket.done {
                assignment.watermark.done(ticket.offset);
            }
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The current assignment of a partition. A new one starts with the `committed` offset.
    fn assignment(
        &mut self,
        partition: &TopicPartition,
        committed: Option<i64>,
    ) -> &mut Assignment {
        let generation = self.next_generation;
        self.next_generation += 1;
        self.partitions
            .entry(partition.clone())
            .or_insert_with(|| Assignment {
                generation,
                watermark: Watermark::default(),
                committed,
                in_flight: 0,
                cancel: CancellationToken::new(),
            })
    }

    fn cancel_of(&self, partition: &TopicPartition) -> Option<CancellationToken> {
        self.partitions
            .get(partition)
            .map(|assignment| assignment.cancel.clone())
    }
}

impl Ticket {
    /// Marks the message as settled: its offset may be committed.
    pub(crate) fn done(mut self) {
        self.done = true;
    }

    /// Cancelled when the work must stop, because the partition was revoked.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }
    pub(crate) fn partition(&self) -> &TopicPartition {
        &self.partition
    }
    pub(crate) fn offset(&self) -> i64 {
        self.offset
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tracker.release(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(partition: i32) -> TopicPartition {
        ("tasks".to_owned(), partition)
    }

    #[test]
    fn processed_messages_are_committed_once() {
        let tracker = Arc::new(Tracker::default());
        let first = tracker.take(partition(0), 10);
        let second = tracker.take(partition(0), 11);
        assert_eq!(tracker.in_flight(), 2);
        assert!(tracker.uncommitted().is_empty(), "no message is settled");
        second.done();
        assert!(tracker.uncommitted().is_empty(), "the first holds it back");
        assert_eq!(tracker.processed_ahead(), [(partition(0), 1)]);
        first.done();
        assert_eq!(tracker.uncommitted(), [(partition(0), 12)]);
        tracker.committed(&partition(0), 12);
        assert!(tracker.uncommitted().is_empty());
        assert_eq!(tracker.in_flight(), 0);
    }

    #[test]
    fn transaction_markers_are_committed_once_no_message_is_in_progress() {
        let tracker = Arc::new(Tracker::default());
        let ticket = tracker.take(partition(0), 10);
        tracker.reached(&partition(0), 12);
        assert!(tracker.uncommitted().is_empty());
        ticket.done();
        tracker.reached(&partition(0), 12);
        assert_eq!(tracker.uncommitted(), [(partition(0), 12)]);
        // A partition with nothing but markers.
        tracker.reached(&partition(1), 3);
        assert!(tracker.uncommitted().contains(&(partition(1), 3)));
    }

    #[test]
    fn a_released_message_is_never_committed() {
        let tracker = Arc::new(Tracker::default());
        drop(tracker.take(partition(0), 10));
        tracker.take(partition(0), 11).done();
        assert!(tracker.uncommitted().is_empty());
    }

    #[test]
    fn results_from_a_revoked_partition_do_not_count_for_its_next_assignment() {
        let tracker = Arc::new(Tracker::default());
        let old = tracker.take(partition(3), 10);
        tracker.forget(&[partition(3)]);
        assert!(old.cancel().is_cancelled());
        let again = tracker.take(partition(3), 10);
        old.done();
        assert!(
            tracker.uncommitted().is_empty(),
            "offset 10 is in progress again"
        );
        again.done();
        assert_eq!(tracker.uncommitted(), [(partition(3), 11)]);
    }

    #[test]
    fn topics_are_independent() {
        let tracker = Arc::new(Tracker::default());
        tracker.take(partition(0), 4).done();
        let range = tracker.take(("tasks.ranges".to_owned(), 0), 9);
        assert_eq!(tracker.in_flight(), 1);
        assert_eq!(tracker.uncommitted(), [(partition(0), 5)]);
        tracker.forget(&[partition(0)]);
        assert!(!range.cancel().is_cancelled());
    }

    #[test]
    fn draining_waits_and_then_cancels() {
        let tracker = Arc::new(Tracker::default());
        assert!(
            tracker.drain(&[partition(0)], Duration::ZERO),
            "nothing to wait for"
        );
        let ticket = tracker.take(partition(0), 1);
        let worker = std::thread::spawn(move || {
            while !ticket.cancel().is_cancelled() {
                std::thread::yield_now();
            }
        });
        assert!(tracker.drain(&[partition(0)], Duration::from_millis(20)));
        worker.join().unwrap();
        let stubborn = tracker.take(partition(1), 1);
        assert!(!tracker.drain(&[partition(1)], Duration::from_millis(5)));
        drop(stubborn);
    }
}
