//! Looks for a document's message in the topics of the pipeline, without joining its group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::whereabouts::Queued;
use crate::document::sent::from_millis;
use crate::document::task::{self, Message, Task};
use crate::document::{Origin, Sent};
use crate::kafka::client::{consumer_config, describe_error};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;

/// Longest wait for the answer to one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Partitions that have sent nothing for this long were not read to their ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages before the committed offset whose documents show how fast their partition is.
const RECENT: i64 = 100;

/// The pipeline's topics of tasks and of page ranges.
#[derive(Clone)]
pub(super) struct Queues {
    consumer: Arc<BaseConsumer>,
    topics: [String; 2],
}

/// The part of a partition that is read: offsets from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    partition: i32,
    start: i64,
    end: i64,
}

impl Queues {
    /// Creates a client, which connects in the background.
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        let consumer = consumer_config(settings, None)
            // The end of a partition may hold transaction markers, which are no messages.
            .set("enable.partition.eof", "true")
            // The whole backlog is read.
            .set("queued.min.messages", "10000")
            .create()
            .map_err(|error| {
                let message = describe_error(&error);
                Failure::fatal(Stage::Intake, Reason::InvalidKafkaConfig, message)
            })?;
        let kafka = &settings.config.source.kafka;
        Ok(Self {
            consumer: Arc::new(consumer),
            topics: [kafka.topic.clone(), kafka.ranges_topic()],
        })
    }

    /// The first message about a document that the group has not committed.
    pub(super) async fn find(&self, file_id: &str) -> Result<Option<Queued>, Failure> {
        let (this, file_id) = (self.clone(), file_id.to_owned());
        reading(move || this.find_message(&file_id)).await
    }

    /// The documents of the last messages of a partition that the group has committed.
    pub(super) async fn recent_documents(&self, partition: i32) -> Result<Vec<String>, Failure> {
        let this = self.clone();
        reading(move || this.read_recent(partition)).await
    }

    fn find_message(&self, file_id: &str) -> Result<Option<Queued>, String> {
        for (topic, is_range) in self.topics.iter().zip([false, true]) {
            let parts = self.parts(topic).map_err(|error| describe_error(&error))?;
            let mut before: HashMap<i32, u64> = HashMap::new();
            let mut found = None;
            self.read(topic, &parts, |message| {
                let before = before.entry(message.partition()).or_default();
                if task_of(message).is_some_and(|task| task.file.file_id == file_id) {
                    found = Some(queued(message, *before, is_range));
                    return false;
                }
                *before += 1;
                true
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn read_recent(&self, partition: i32) -> Result<Vec<String>, String> {
        let [topic, _] = &self.topics;
        let parts = self.parts(topic).map_err(|error| describe_error(&error))?;
        let parts = parts.into_iter().filter(|part| part.partition == partition);
        let mut committed = Vec::new();
        for part in parts {
            let first = self.consumer.fetch_watermarks(topic, partition, TIMEOUT);
            let (first, _) = first.map_err(|error| describe_error(&error))?;
            committed.push(Part {
                partition,
                start: first.max(part.start - RECENT),
                end: part.start,
            });
        }
        let mut files = Vec::new();
        self.read(topic, &committed, |message| {
            files.extend(task_of(message).map(|task| task.file.file_id));
            true
        })?;
        Ok(files)
    }

    /// What the group has not committed.
    fn parts(&self, topic: &str) -> Result<Vec<Part>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let described = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = described.into_iter().flat_map(MetadataTopic::partitions);
        let mut list = TopicPartitionList::new();
        for partition in partitions.map(MetadataPartition::id) {
            list.add_partition(topic, partition);
        }
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let committed = self.consumer.committed_offsets(list, TIMEOUT)?;
        let elements = committed.elements();
        let parts = elements.iter().map(|element| {
            let partition = element.partition();
            let (first, end) = self.consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
            let start = match element.offset() {
                Offset::Offset(offset) => offset.max(first),
                _ => first,
            };
            Ok(Part {
                partition,
                start,
                end,
            })
        });
        parts.collect()
    }

    /// Reads parts of a topic until `each` returns whether to go on.
    fn read(
        &self,
        topic: &str,
        parts: &[Part],
        mut each: impl FnMut(&BorrowedMessage<'_>) -> bool,
    ) -> Result<(), String> {
        let not_empty = parts.iter().filter(|part| part.start < part.end);
        let mut ends: HashMap<i32, i64> = HashMap::new();
        let mut assignment = TopicPartitionList::new();
        for part in not_empty {
            ends.insert(part.partition, part.end);
            let start = Offset::Offset(part.start);
            assignment
                .add_partition_offset(topic, part.partition, start)
                .map_err(|error| describe_error(&error))?;
        }
        let assigned = self.consumer.assign(&assignment);
        assigned.map_err(|error| describe_error(&error))?;
        let mut last_message = Instant::now();
        let mut problem = None;
        while !ends.is_empty() {
            if last_message.elapsed() > IDLE_TIMEOUT {
                let partitions = ends.len();
                let why = problem.unwrap_or_else(|| "no message for 10 s".to_owned());
                return Err(format!(
                    "topic {topic}: {partitions} partitions were not read to their ends: {why}"
                ));
            }
            match self.consumer.poll(Duration::from_millis(200)) {
                None => {}
                Some(Ok(message)) => {
                    last_message = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    let end = ends.get(&partition).copied();
                    let Some(end) = end.filter(|_| message.topic() == topic) else {
                        continue;
                    };
                    if offset < end && !each(&message) {
                        return Ok(());
                    }
                    if offset + 1 >= end {
                        ends.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.remove(&partition);
                }
                // The library recovers from some, and otherwise sends nothing more.
                Some(Err(error)) => problem = Some(describe_error(&error)),
            }
        }
        Ok(())
    }
}

async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.unwrap_or_else(|error| Err(error.to_string()));
    let unavailable =
        |message| Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message);
    read.map_err(unavailable)
}

/// The task that a message holds. A page range holds the task of its document.
fn task_of(message: &BorrowedMessage<'_>) -> Option<Task> {
    match task::parse(message.payload()?) {
        Ok(Message::Task(task)) => Some(task),
        _ => None,
    }
}

fn queued(message: &BorrowedMessage<'_>, before: u64, is_range: bool) -> Queued {
    let position = Origin {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
    };
    let sent_at = message.timestamp().to_millis().map(from_millis);
    let message = message.detach();
    // A header that is not valid makes the message a dead letter, soon.
    let at = sent_at.unwrap_or_else(|| from_millis(0));
    let request = Sent::of_message(message.headers(), &position, at);
    Queued {
        request: request.map_or_else(|_| position.to_string(), |sent| sent.origin),
        position,
        before,
        is_range,
        sent_at,
    }
}
