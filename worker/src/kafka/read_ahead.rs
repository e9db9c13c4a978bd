//! The messages that were read from Kafka and not started. The poll loop adds them; whoever
//! processes messages takes the next one, by [`Turns`].
//!
//! Nobody has claimed them: the messages of a revoked partition are dropped, and the worker that
//! gets the partition reads them again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::Message as _;
use rdkafka::message::{Headers, OwnedMessage};
use tokio::sync::Notify;

use crate::document::bucket::Bucket;
use crate::document::notification::{self, Notification};
use crate::document::task::{self, Deletion, Message, Task};
use crate::kafka::tracker::TopicPartition;
use crate::kafka::turns::{Kind, Limits, Load, Now, Owner, Turn, Turns, Waiting};

/// The memory of the messages of one topic that wait. Its partitions share it equally.
const BYTES: usize = 32 << 20;
/// What a message needs beside its own bytes.
const OVERHEAD: usize = 512;
/// A full partition is read again when less than this part of its limit waits: each time it is, the
/// client fetches many messages at once.
const LOW: (usize, usize) = (15, 16);

/// Messages that wait, shared by the poll loop and those who process them.
#[derive(Debug)]
pub(crate) struct ReadAhead<M> {
    state: Mutex<State<M>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<M> {
    turns: Turns<M>,
    is_closed: bool,
}

/// A message is in progress as long as this lives.
#[derive(Debug)]
pub(crate) struct Begun<M> {
    read_ahead: Arc<ReadAhead<M>>,
    turn: Option<Turn>,
}

impl<M> ReadAhead<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                turns: Turns::new(limits),
                is_closed: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Adds a message. After [`ReadAhead::close`] it is dropped.
    pub(crate) fn add(&self, waiting: Waiting<M>) {
        let mut state = self.lock();
        if !state.is_closed {
            state.turns.add(waiting);
            self.changed.notify_one();
        }
    }

    /// Waits for the next message that may be started. Only one task may wait.
    pub(crate) async fn next(self: &Arc<Self>, now: Now) -> (M, Begun<M>) {
        loop {
            let next = self.lock().turns.next(now);
            if let Some((message, turn)) = next {
                let begun = Begun {
                    read_ahead: Arc::clone(self),
                    turn: Some(turn),
                };
                return (message, begun);
            }
            self.changed.notified().await;
        }
    }

    /// Drops the messages of these partitions that were not started.
    pub(crate) fn revoke(&self, partitions: &[TopicPartition]) {
        let removed = self.lock().turns.remove(Some(partitions));
        // Dropped without the lock.
        drop(removed);
    }

    /// Drops all messages that were not started, and those that come later.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let removed = state.turns.remove(None);
        drop(state);
        drop(removed);
    }

    /// Number of messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().turns.len()
    }

    /// What waits of the partitions of a topic.
    pub(crate) fn loads(&self, topic: &str) -> BTreeMap<i32, Load> {
        self.lock().turns.loads(topic)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Drop for Begun<M> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.read_ahead.lock().turns.ended(turn);
            self.read_ahead.changed.notify_one();
        }
    }
}

/// Whether enough messages of a partition wait, which may be `paused` already. The topic has
/// `partitions` at this worker, and at most `tasks` may wait of each.
pub(crate) fn is_full(load: Load, tasks: usize, partitions: usize, paused: bool) -> bool {
    let reaches = |amount: usize, limit: usize| {
        let limit = if paused { limit * LOW.0 / LOW.1 } else { limit };
        amount >= limit.max(1)
    };
    reaches(load.messages, tasks) || reaches(load.bytes, BYTES / partitions.max(1))
}

/// Whose turn a message belongs to, and what it asks for. `is_range`: it is of the topic of page
/// ranges. `bucket`: the messages of the other topic are its notifications.
pub(crate) fn owner_and_kind(
    partition: &TopicPartition,
    is_range: bool,
    bucket: Option<&Bucket>,
    payload: &[u8],
) -> (Owner, Kind) {
    if let Some(bucket) = bucket.filter(|_| !is_range)
        && let Ok(Some(Notification { changes })) = notification::parse(payload)
        && let [change] = changes.as_slice()
        && let Some(knowledge_base) = bucket.knowledge_base(&change.key)
    {
        let kind = if change.says_removed() {
            Kind::Other
        } else {
            Kind::Task
        };
        return (Owner::KnowledgeBase(knowledge_base), kind);
    }
    match (task::parse(payload), is_range) {
        (Ok(Message::Task(Task { knowledge_base, .. })), is_range) => {
            let kind = if is_range { Kind::Range } else { Kind::Task };
            (Owner::KnowledgeBase(knowledge_base), kind)
        }
        (
            Ok(Message::Delete(
                Deletion::File { knowledge_base, .. } | Deletion::KnowledgeBase(knowledge_base),
            )),
            false,
        ) => (Owner::KnowledgeBase(knowledge_base), Kind::Other),
        _ => (Owner::Partition(partition.clone()), Kind::Other),
    }
}

/// The memory that a message needs.
pub(crate) fn bytes_of(message: &OwnedMessage) -> usize {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers = headers.map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len));
    let payload = message.payload().map_or(0, <[u8]>::len);
    let key = message.key().map_or(0, <[u8]>::len);
    OVERHEAD + payload + key + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::slice;
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits {
        all: 2,
        each: 1,
        ranges: 1,
    };

    fn partition(number: i32) -> TopicPartition {
        ("tasks".to_owned(), number)
    }

    fn task(message: u32, base: &str, number: i32) -> Waiting<u32> {
        Waiting {
            message,
            partition: partition(number),
            owner: Owner::KnowledgeBase(base.to_owned()),
            kind: Kind::Task,
            bytes: 1,
        }
    }

    #[tokio::test]
    async fn a_message_is_started_when_it_comes_or_when_another_has_ended() {
        let read_ahead = Arc::new(ReadAhead::new(LIMITS));
        let waits = {
            let read_ahead = Arc::clone(&read_ahead);
            tokio::spawn(async move { read_ahead.next(Now::default()).await })
        };
        tokio::task::yield_now().await;
        read_ahead.add(task(1, "a", 0));
        read_ahead.add(task(2, "a", 0));
        let (message, begun) = waits.await.unwrap();
        assert_eq!(message, 1);
        let moment = Duration::from_millis(10);
        let next = || read_ahead.next(Now::default());
        assert!(tokio::time::timeout(moment, next()).await.is_err());
        drop(begun);
        assert_eq!(next().await.0, 2);
    }

    #[test]
    fn messages_of_revoked_partitions_and_after_the_end_are_dropped() {
        let read_ahead = ReadAhead::new(LIMITS);
        read_ahead.add(task(1, "a", 0));
        read_ahead.add(task(2, "a", 1));
        read_ahead.revoke(&[partition(0)]);
        assert_eq!(
            read_ahead.loads("tasks").into_keys().collect::<Vec<_>>(),
            [1]
        );
        read_ahead.close();
        read_ahead.add(task(3, "a", 1));
        assert_eq!(read_ahead.len(), 0);
    }

    #[test]
    fn a_partition_is_read_ahead_to_a_number_and_to_its_share_of_the_memory() {
        let load = |messages, bytes| Load { messages, bytes };
        assert!(!is_full(load(499, 1), 500, 10, false));
        assert!(is_full(load(500, 1), 500, 10, false));
        assert!(is_full(load(468, 1), 500, 10, true));
        assert!(!is_full(load(467, 1), 500, 10, true));
        assert!(is_full(load(1, BYTES / 10), 500, 10, false));
        assert!(!is_full(load(1, BYTES / 10 - 1), 500, 10, false));
        // One message at least, whatever its size.
        assert!(!is_full(load(0, 0), 1, usize::MAX, true));
        assert!(is_full(load(1, 1), 1, 1, true));
        assert!(!is_full(load(0, 0), 1, 1, true));
    }

    #[test]
    fn tasks_ranges_and_deletions_belong_to_their_knowledge_base() {
        let task = br#"{"task_id": "t", "username": "u", "knowledge_db_id": "kb", "file_meta":
            {"file_id": "f", "minio_filename": "k", "original_filename": "n.pdf"}}"#;
        let deletion = br#"{"type": "delete_knowledge_base", "knowledge_db_id": "kb"}"#;
        let base = || Owner::KnowledgeBase("kb".to_owned());
        let of = |is_range, payload: &[u8]| owner_and_kind(&partition(3), is_range, None, payload);
        assert_eq!(of(false, task), (base(), Kind::Task));
        assert_eq!(of(true, task), (base(), Kind::Range));
        assert_eq!(of(false, deletion), (base(), Kind::Other));
        let place = (Owner::Partition(partition(3)), Kind::Other);
        assert_eq!(of(true, deletion), place);
        assert_eq!(of(false, br#"{"type": "workflow"}"#), place);
        assert_eq!(of(false, b"no JSON"), place);
    }

    #[test]
    fn a_notification_belongs_to_the_knowledge_base_of_its_object() {
        let bucket = Bucket::for_tests("docs");
        let record = |event: &str, key: &str| json!({"eventName": event, "s3": {"bucket": {"name": "docs"}, "object": {"key": key}}});
        let of = |is_range, records: &[serde_json::Value]| {
            let payload = json!({ "Records": records }).to_string();
            owner_and_kind(&partition(3), is_range, Some(&bucket), payload.as_bytes())
        };
        let created = record("s3:ObjectCreated:Put", "contracts/a.pdf");
        let removed = record("s3:ObjectRemoved:Delete", "contracts/b.pdf");
        let contracts = || Owner::KnowledgeBase("contracts".to_owned());
        let place = (Owner::Partition(partition(3)), Kind::Other);
        assert_eq!(
            of(false, slice::from_ref(&created)),
            (contracts(), Kind::Task)
        );
        assert_eq!(
            of(false, slice::from_ref(&removed)),
            (contracts(), Kind::Other)
        );
        // Several become messages of their own, one more time after each delivery.
        assert_eq!(of(false, &[created.clone(), removed]), place);
        assert_eq!(of(true, &[created]), place);
        // It fits no knowledge base.
        assert_eq!(of(false, &[record("s3:ObjectCreated:Put", "a.pdf")]), place);
    }
}
