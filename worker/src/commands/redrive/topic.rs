//! Reads the dead-letter topic, message by message.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::kafka::client::{client_config, describe_error};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;

/// Partitions that have sent nothing for this long were not read to their ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the metadata of a topic.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between the consumer and the rest. They are at most 1 MiB long by default.
const READ_AHEAD: usize = 8;

/// The messages that the dead-letter topic holds now, read on a thread of their own.
pub(super) struct Letters {
    messages: mpsc::Receiver<OwnedMessage>,
    reading: tokio::task::JoinHandle<Result<BTreeMap<i32, String>, Failure>>,
}

impl Letters {
    pub(super) fn read(settings: &Settings) -> Self {
        let (sender, messages) = mpsc::channel(READ_AHEAD);
        let settings = settings.clone();
        let reading = tokio::task::spawn_blocking(move || read_letters(&settings, &sender));
        Self { messages, reading }
    }

    pub(super) async fn next(&mut self) -> Option<OwnedMessage> {
        self.messages.recv().await
    }

    /// The partitions that were not read to their ends, and why.
    pub(super) async fn ended(self) -> Result<BTreeMap<i32, String>, Failure> {
        let ended = self.reading.await;
        ended.map_err(|error| Failure::fatal(Stage::DeadLetter, Reason::KafkaUnavailable, error))?
    }
}

/// Reads every message that the dead-letter topic holds now. Returns the partitions that were not
/// read to their ends, and why.
fn read_letters(
    settings: &Settings,
    letters: &mpsc::Sender<OwnedMessage>,
) -> Result<BTreeMap<i32, String>, Failure> {
    let kafka = &settings.config.source.kafka;
    let topic = kafka.dead_letter_topic();
    let unavailable = |error: KafkaError| {
        let message = format!("topic {topic}: {}", describe_error(&error));
        Failure::fatal(Stage::DeadLetter, Reason::KafkaUnavailable, message)
    };
    let consumer: BaseConsumer = client_config(settings)
        // The library needs a group. Nothing is committed.
        .set("group.id", format!("{}.redrive", kafka.consumer_group))
        .set("enable.auto.commit", "false")
        // The end of a partition may hold transaction markers, which are no messages.
        .set("enable.partition.eof", "true")
        .create()
        .map_err(unavailable)?;
    let metadata = consumer
        .fetch_metadata(Some(&topic), REQUEST_TIMEOUT)
        .map_err(unavailable)?;
    let mut unread = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    for partition in partitions.map(rdkafka::metadata::MetadataPartition::id) {
        match consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT) {
            Ok((start, end)) if start < end => {
                ends.insert(partition, end);
                assignment
                    .add_partition_offset(&topic, partition, Offset::Offset(start))
                    .map_err(unavailable)?;
            }
            Ok(_) => {}
            Err(error) => {
                unread.insert(partition, describe_error(&error));
            }
        }
    }
    consumer.assign(&assignment).map_err(unavailable)?;
    let mut last_message = Instant::now();
    let mut problem = None;
    while !ends.is_empty() && last_message.elapsed() < IDLE_TIMEOUT {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                // Without a receiver nobody needs the rest.
                if was_there(&message, &mut ends)
                    && letters.blocking_send(message.detach()).is_err()
                {
                    return Ok(unread);
                }
                last_message = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ends.remove(&partition);
            }
            // The library recovers from some, and otherwise sends nothing more.
            Some(Err(error)) => problem = Some(describe_error(&error)),
        }
    }
    let idle = format!("no message for {} s", IDLE_TIMEOUT.as_secs());
    let why = problem.map_or(idle.clone(), |problem| format!("{idle}: {problem}"));
    unread.extend(ends.into_keys().map(|partition| (partition, why.clone())));
    Ok(unread)
}

/// Whether a message was there when the command began. Notes a partition's last one.
fn was_there(message: &BorrowedMessage<'_>, ends: &mut HashMap<i32, i64>) -> bool {
    let (partition, offset) = (message.partition(), message.offset());
    let Some(end) = ends.get(&partition).copied() else {
        return false;
    };
    if offset + 1 >= end {
        ends.remove(&partition);
    }
    offset < end
}
