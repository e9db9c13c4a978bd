//! What a deletion is about: everything that was sent before it. No I/O.
//!
//! Clocks of different machines differ. In a partition that the deletion knows, the offset of a task
//! decides whether it was sent before. Only other requests are compared by time.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::document::{Origin, Sent};

/// The point at which a deletion was requested, among the messages of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cutoff {
    /// The message or command that the deletion came with. Redeliveries have the same origin.
    pub(crate) origin: String,
    /// The time of the message or command.
    pub(crate) at: DateTime,
    pub(crate) topic: String,
    /// For each partition that the deletion knows, the offset of the first message that is not
    /// before it.
    pub(crate) ends: BTreeMap<String, i64>,
    /// Whether the stores hold nothing of the file any more.
    #[serde(default)]
    pub(crate) done: bool,
}

impl Cutoff {
    /// A deletion by a message.
    pub(crate) fn of_message(position: &Origin, at: DateTime) -> Self {
        let end = (position.partition.to_string(), position.offset);
        Self {
            origin: position.to_string(),
            at,
            topic: position.topic.clone(),
            ends: BTreeMap::from([end]),
            done: false,
        }
    }

    /// A deletion by a command, when the partitions of the tasks' topic had these ends.
    pub(crate) fn of_command(topic: &str, ends: &BTreeMap<i32, i64>, at: DateTime) -> Self {
        let ends = ends.iter();
        Self {
            origin: format!("{topic}/delete/{}", Uuid::new_v4()),
            at,
            topic: topic.to_owned(),
            ends: ends.map(|(key, end)| (key.to_string(), *end)).collect(),
            done: false,
        }
    }

    /// A deletion of which only the time is known: an earlier version recorded it.
    pub(crate) fn at(topic: &str, at: DateTime) -> Self {
        Self {
            origin: format!("{topic}/deleted/{}", at.timestamp_millis()),
            at,
            topic: topic.to_owned(),
            ends: BTreeMap::new(),
            done: false,
        }
    }

    /// Whether a request was made before the deletion.
    pub(crate) fn covers(&self, request: &Sent) -> bool {
        let position = request.position().filter(|at| at.topic == self.topic);
        let end = position.and_then(|at| Some((at.offset, self.end(at.partition)?)));
        match end {
            Some((offset, end)) => offset < end,
            None => request.at <= self.at,
        }
    }

    fn end(&self, partition: i32) -> Option<i64> {
        self.ends.get(&partition.to_string()).copied()
    }
}

impl From<&Cutoff> for Bson {
    /// As serde would write it, without a way to fail.
    fn from(cutoff: &Cutoff) -> Self {
        let ends = cutoff.ends.iter();
        let ends: Document = ends
            .map(|(key, end)| (key.clone(), Self::Int64(*end)))
            .collect();
        Self::Document(doc! {
            "origin": &cutoff.origin, "at": cutoff.at, "topic": &cutoff.topic, "ends": ends,
            "done": cutoff.done,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(partition: i32, offset: i64) -> Origin {
        Origin {
            topic: "tasks".into(),
            partition,
            offset,
        }
    }

    fn task(partition: i32, offset: i64, ms: i64) -> Sent {
        Sent {
            origin: position(partition, offset).to_string(),
            at: time(ms),
        }
    }

    fn time(ms: i64) -> DateTime {
        DateTime::from_millis(ms)
    }

    #[test]
    fn a_command_is_compared_with_a_message_by_time() {
        let command = |ms| Sent {
            origin: "tasks/ingest/u_f/call".into(),
            at: time(ms),
        };
        let deletion = Cutoff::of_message(&position(0, 10), time(500));
        assert!(deletion.covers(&command(500)));
        assert!(!deletion.covers(&command(501)));
    }

    #[test]
    fn another_pipelines_topic_has_other_offsets() {
        let other = Sent {
            origin: "others/0/3".into(),
            at: time(501),
        };
        assert!(!Cutoff::of_message(&position(0, 10), time(500)).covers(&other));
    }

    #[test]
    fn two_commands_are_two_deletions() {
        let delete = || Cutoff::of_command("tasks", &BTreeMap::new(), time(1));
        assert_ne!(delete().origin, delete().origin);
    }

    proptest! {
        /// Whatever the clocks of the producers say, a deletion covers the tasks before it in its
        /// own partition and none after it.
        #[test]
        fn a_message_covers_what_is_before_it_in_its_partition(
            (end, offset) in (0..1_000_i64, 0..1_000_i64),
            (deleted_at, sent_at) in (any::<i64>(), any::<i64>()),
        ) {
            let deletion = Cutoff::of_message(&position(3, end), time(deleted_at));
            prop_assert_eq!(deletion.covers(&task(3, offset, sent_at)), offset < end);
            let elsewhere = deletion.covers(&task(4, offset, sent_at));
            prop_assert_eq!(elsewhere, sent_at <= deleted_at);
        }

        /// A command knows the ends of all partitions, so its order is that of Kafka alone.
        #[test]
        fn a_command_covers_what_the_topic_held(
            ends in proptest::collection::btree_map(0..8_i32, 0..100_i64, 1..8),
            (partition, offset) in (0..8_i32, 0..100_i64),
            (deleted_at, sent_at) in (any::<i64>(), any::<i64>()),
        ) {
            let deletion = Cutoff::of_command("tasks", &ends, time(deleted_at));
            let covers = deletion.covers(&task(partition, offset, sent_at));
            // A partition without an end was added later.
            let end = ends.get(&partition);
            prop_assert_eq!(covers, end.map_or(sent_at <= deleted_at, |end| offset < *end));
        }

        /// A task that is sent again is as old as its request, wherever the repetition lies.
        #[test]
        fn a_repetition_is_as_old_as_its_request(
            (end, offset, again) in (0..100_i64, 0..100_i64, 100..200_i64),
            (deleted_at, sent_at) in (0..1_000_i64, 0..1_000_i64),
        ) {
            let deletion = Cutoff::of_message(&position(3, end), time(deleted_at));
            let request = task(3, offset, sent_at);
            let headers = request.headers(None);
            let late = time(i64::MAX);
            let read = Sent::of_message(Some(&headers), &position(3, again), late).unwrap();
            prop_assert_eq!(deletion.covers(&read), deletion.covers(&request));
        }

        #[test]
        fn a_cutoff_is_read_as_it_was_written(
            ends in proptest::collection::btree_map(0..8_i32, any::<i64>(), 0..4),
            ms in 0..4_000_000_000_000_i64, done in any::<bool>(),
        ) {
            let deletion = Cutoff { done, ..Cutoff::of_command("tasks", &ends, time(ms)) };
            let stored = Bson::from(&deletion);
            let read: Cutoff = mongodb::bson::deserialize_from_bson(stored).unwrap();
            prop_assert_eq!(read, deletion);
        }
    }
}
