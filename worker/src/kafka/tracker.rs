//! Which messages are being worked on, shared by the poll loop and the workers.
//!
//! The tracker knows nothing of Kafka's protocol. A message of a partition that was lost in the
//! meantime cannot move the mark of the partition's next assignment.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::kafka::watermark::Watermark;

/// A partition: topic and number.
pub type Place = (String, i32);

/// The messages in flight, by partition.
#[derive(Debug, Default)]
pub struct Tracker {
    state: Mutex<State>,
    /// Signalled when a ticket is given up.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partitions: HashMap<Place, Assignment>,
    next_generation: u64,
    /// By topic, messages of forgotten partitions included.
    in_flight: HashMap<String, usize>,
}

#[derive(Debug)]
struct Assignment {
    generation: u64,
    watermark: Watermark,
    committed: Option<i64>,
    in_flight: usize,
    cancel: CancellationToken,
}

/// The right and the duty to work on one message. Dropped without [`Ticket::done`], the message
/// is given back: it is not committed and will be read again.
#[derive(Debug)]
pub struct Ticket {
    tracker: Arc<Tracker>,
    place: Place,
    generation: u64,
    offset: i64,
    cancel: CancellationToken,
    done: bool,
}

impl Tracker {
    /// Begins work on a message.
    pub fn take(self: &Arc<Self>, place: Place, offset: i64) -> Ticket {
        let mut state = self.lock();
        *state.in_flight.entry(place.0.clone()).or_default() += 1;
        // Where the first message was read is where the group already stands.
        let assignment = state.assignment(&place, Some(offset));
        assignment.watermark.take(offset);
        assignment.in_flight += 1;
        Ticket {
            tracker: Arc::clone(self),
            place,
            generation: assignment.generation,
            offset,
            cancel: assignment.cancel.clone(),
            done: false,
        }
    }

    /// The consumer stands at `offset` of a partition: what lies below and was not handed out is no
    /// task.
    pub fn reached(&self, place: &Place, offset: i64) {
        let mut state = self.lock();
        state.assignment(place, None).watermark.reached(offset);
    }

    /// Messages that somebody still works on, whatever became of their partitions.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight.values().sum()
    }

    /// Those of one topic.
    pub fn in_flight_of(&self, topic: &str) -> usize {
        self.lock().in_flight.get(topic).copied().unwrap_or(0)
    }

    /// Partitions and offsets that can be committed and have not been.
    pub fn uncommitted(&self) -> Vec<(Place, i64)> {
        let state = self.lock();
        state
            .partitions
            .iter()
            .filter_map(|(place, assignment)| {
                let offset = assignment.watermark.committable()?;
                (assignment.committed < Some(offset)).then(|| (place.clone(), offset))
            })
            .collect()
    }

    /// Notes what was committed.
    pub fn committed(&self, place: &Place, offset: i64) {
        if let Some(assignment) = self.lock().partitions.get_mut(place) {
            assignment.committed = assignment.committed.max(Some(offset));
        }
    }

    /// Waits until nobody works on these partitions, `patience` at most. Then calls the rest off
    /// and waits once more as long. Returns whether all work has ended.
    pub fn wind_up(&self, partitions: &[Place], patience: Duration) -> bool {
        if self.wait_idle(partitions, patience) {
            return true;
        }
        for assignment in partitions.iter().filter_map(|p| self.lock().cancel_of(p)) {
            assignment.cancel();
        }
        self.wait_idle(partitions, patience)
    }

    /// Forgets partitions: they belong to somebody else now. Work on them is called off and its
    /// results no longer count.
    pub fn forget(&self, partitions: &[Place]) {
        let mut state = self.lock();
        for partition in partitions {
            if let Some(assignment) = state.partitions.remove(partition) {
                assignment.cancel.cancel();
            }
        }
    }

    fn wait_idle(&self, partitions: &[Place], patience: Duration) -> bool {
        let busy = |state: &mut State| {
            partitions
                .iter()
                .any(|p| state.partitions.get(p).is_some_and(|a| a.in_flight > 0))
        };
        let (guard, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), patience, busy)
            .unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        !timeout.timed_out()
    }

    fn give_up(&self, ticket: &Ticket) {
        let mut state = self.lock();
        if let Some(in_flight) = state.in_flight.get_mut(&ticket.place.0) {
            *in_flight -= 1;
        }
        if let Some(assignment) = state.partitions.get_mut(&ticket.place)
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
    /// The partition's present assignment; begun with what is committed, if it is new.
    fn assignment(&mut self, place: &Place, committed: Option<i64>) -> &mut Assignment {
        let generation = self.next_generation;
        self.next_generation += 1;
        self.partitions
            .entry(place.clone())
            .or_insert_with(|| Assignment {
                generation,
                watermark: Watermark::default(),
                committed,
                in_flight: 0,
                cancel: CancellationToken::new(),
            })
    }

    fn cancel_of(&self, place: &Place) -> Option<CancellationToken> {
        self.partitions
            .get(place)
            .map(|assignment| assignment.cancel.clone())
    }
}

impl Ticket {
    /// The message has been dealt with for good.
    pub fn done(mut self) {
        self.done = true;
    }

    /// Cancelled when the message must be left to others.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The message's partition.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The message's offset.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tracker.give_up(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        ("tasks".to_owned(), partition)
    }

    #[test]
    fn commits_what_is_done_and_nothing_twice() {
        let tracker = Arc::new(Tracker::default());
        let first = tracker.take(place(0), 10);
        let second = tracker.take(place(0), 11);
        assert_eq!(tracker.in_flight(), 2);
        assert!(tracker.uncommitted().is_empty(), "nothing is done");
        second.done();
        assert!(tracker.uncommitted().is_empty(), "the first holds it back");
        first.done();
        assert_eq!(tracker.uncommitted(), [(place(0), 12)]);
        tracker.committed(&place(0), 12);
        assert!(tracker.uncommitted().is_empty());
        assert_eq!(tracker.in_flight(), 0);
    }

    #[test]
    fn markers_of_transactions_are_committed_once_nothing_is_in_flight() {
        let tracker = Arc::new(Tracker::default());
        let ticket = tracker.take(place(0), 10);
        tracker.reached(&place(0), 12);
        assert!(tracker.uncommitted().is_empty());
        ticket.done();
        tracker.reached(&place(0), 12);
        assert_eq!(tracker.uncommitted(), [(place(0), 12)]);
        // A partition that holds nothing but markers.
        tracker.reached(&place(1), 3);
        assert!(tracker.uncommitted().contains(&(place(1), 3)));
    }

    #[test]
    fn a_message_given_back_is_never_committed() {
        let tracker = Arc::new(Tracker::default());
        drop(tracker.take(place(0), 10));
        tracker.take(place(0), 11).done();
        assert!(tracker.uncommitted().is_empty());
    }

    #[test]
    fn results_for_a_lost_partition_do_not_count_for_its_next_assignment() {
        let tracker = Arc::new(Tracker::default());
        let old = tracker.take(place(3), 10);
        tracker.forget(&[place(3)]);
        assert!(old.cancel().is_cancelled());
        let again = tracker.take(place(3), 10);
        old.done();
        assert!(
            tracker.uncommitted().is_empty(),
            "the new work on 10 goes on"
        );
        again.done();
        assert_eq!(tracker.uncommitted(), [(place(3), 11)]);
    }

    #[test]
    fn topics_are_kept_apart() {
        let tracker = Arc::new(Tracker::default());
        tracker.take(place(0), 4).done();
        let range = tracker.take(("tasks.ranges".to_owned(), 0), 9);
        assert_eq!(tracker.in_flight_of("tasks"), 0);
        assert_eq!(tracker.in_flight_of("tasks.ranges"), 1);
        assert_eq!(tracker.uncommitted(), [(place(0), 5)]);
        tracker.forget(&[place(0)]);
        assert!(!range.cancel().is_cancelled());
    }

    #[test]
    fn winding_up_waits_then_calls_off() {
        let tracker = Arc::new(Tracker::default());
        assert!(
            tracker.wind_up(&[place(0)], Duration::ZERO),
            "nothing to wait for"
        );
        let ticket = tracker.take(place(0), 1);
        let worker = std::thread::spawn(move || {
            while !ticket.cancel().is_cancelled() {
                std::thread::yield_now();
            }
        });
        assert!(tracker.wind_up(&[place(0)], Duration::from_millis(20)));
        worker.join().unwrap();
        let stubborn = tracker.take(place(1), 1);
        assert!(!tracker.wind_up(&[place(1)], Duration::from_millis(5)));
        drop(stubborn);
    }
}
