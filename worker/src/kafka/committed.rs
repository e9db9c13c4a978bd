//! What the consumer group has committed. Without a message in Kafka, nobody continues a document
//! that is in progress.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::client::{consumer_config, describe_error};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;

/// Longest wait for the answer to one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the committed offsets of the pipeline's group. It does not join the group.
#[derive(Clone)]
pub(crate) struct Committed {
    consumer: Arc<BaseConsumer>,
    topics: [String; 2],
}

impl Committed {
    /// Creates a client, which connects in the background.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let consumer: BaseConsumer = consumer_config(settings, None).create().map_err(|error| {
            Failure::fatal(
                Stage::Intake,
                Reason::InvalidKafkaConfig,
                describe_error(&error),
            )
        })?;
        let kafka = &settings.config.source.kafka;
        Ok(Self {
            consumer: Arc::new(consumer),
            topics: [kafka.topic.clone(), kafka.ranges_topic()],
        })
    }

    /// Whether the group has committed every task and page range that was written before `time`, in
    /// milliseconds since 1970.
    pub(crate) async fn is_everything_before(&self, time: i64) -> Result<bool, Failure> {
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Receives errors of the connection, which would pile up otherwise.
            let _ = this.consumer.poll(Duration::ZERO);
            for topic in &this.topics {
                if !this.is_topic_before(topic, time)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        let read: Result<bool, KafkaError> =
            reading.await.unwrap_or_else(|_| Err(KafkaError::Canceled));
        read.map_err(|error| {
            let message = format!("committed offsets: {}", describe_error(&error));
            Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message)
        })
    }

    /// The number of messages of the pipeline that the group has not committed.
    pub(crate) async fn lag(&self) -> Result<i64, Failure> {
        let this = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _ = this.consumer.poll(Duration::ZERO);
            let mut lag = 0;
            for topic in &this.topics {
                lag += this.lag_of(topic)?;
            }
            Ok(lag)
        });
        let read: Result<i64, KafkaError> =
            reading.await.unwrap_or_else(|_| Err(KafkaError::Canceled));
        read.map_err(|error| {
            let message = format!("committed offsets: {}", describe_error(&error));
            Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message)
        })
    }

    fn lag_of(&self, topic: &str) -> Result<i64, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let described = metadata.topics().iter().find(|found| found.name() == topic);
        let mut partitions = TopicPartitionList::new();
        for partition in described.into_iter().flat_map(MetadataTopic::partitions) {
            partitions.add_partition(topic, partition.id());
        }
        let mut lag = 0;
        for element in self
            .consumer
            .committed_offsets(partitions, TIMEOUT)?
            .elements()
        {
            let (start, end) =
                self.consumer
                    .fetch_watermarks(topic, element.partition(), TIMEOUT)?;
            lag += lag_between(element.offset(), start, end);
        }
        Ok(lag)
    }

    fn is_topic_before(&self, topic: &str, time: i64) -> Result<bool, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let described = metadata.topics().iter().find(|found| found.name() == topic);
        let mut partitions = TopicPartitionList::new();
        let mut times = TopicPartitionList::new();
        for partition in described.into_iter().flat_map(MetadataTopic::partitions) {
            partitions.add_partition(topic, partition.id());
            times.add_partition_offset(topic, partition.id(), Offset::Offset(time))?;
        }
        let committed = self.consumer.committed_offsets(partitions, TIMEOUT)?;
        let later = self.consumer.offsets_for_times(times, TIMEOUT)?;
        for element in later.elements() {
            element.error()?;
            let (start, end) =
                self.consumer
                    .fetch_watermarks(topic, element.partition(), TIMEOUT)?;
            let committed = committed.find_partition(topic, element.partition());
            let committed = committed.map_or(Offset::Invalid, |found| found.offset());
            if !is_before(committed, element.offset(), start, end) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

/// The messages of a partition that are not committed.
fn lag_between(committed: Offset, start: i64, end: i64) -> i64 {
    let committed = match committed {
        Offset::Offset(offset) => offset.max(start),
        _ => start,
    };
    (end - committed).max(0)
}

/// Whether every message before `later` is committed. `later` is the first message after the time
/// in question; without such a message it is the end of the partition.
fn is_before(committed: Offset, later: Offset, start: i64, end: i64) -> bool {
    let later = match later {
        Offset::Offset(offset) if offset >= 0 => offset,
        _ => end,
    };
    // The group begins at the first message that is kept, if it has not committed a later offset.
    let committed = match committed {
        Offset::Offset(offset) => offset.max(start),
        _ => start,
    };
    committed >= later
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_counts_messages_that_are_kept_and_not_committed() {
        assert_eq!(lag_between(Offset::Offset(7), 3, 10), 3);
        assert_eq!(lag_between(Offset::Offset(1), 3, 10), 7);
        assert_eq!(lag_between(Offset::Invalid, 3, 10), 7);
        assert_eq!(lag_between(Offset::Offset(12), 3, 10), 0);
    }

    #[test]
    fn a_message_that_is_not_committed_can_still_be_delivered() {
        let offset = Offset::Offset;
        // Messages 3 to 9 are kept, and 7 is the first one after the time.
        assert!(is_before(offset(7), offset(7), 3, 10));
        assert!(!is_before(offset(6), offset(7), 3, 10));
        // No message was written after the time.
        assert!(is_before(offset(10), Offset::End, 3, 10));
        assert!(!is_before(offset(9), Offset::End, 3, 10));
        // Kafka deleted a message that the group did not commit.
        assert!(is_before(offset(2), offset(3), 3, 10));
        // The group has committed nothing.
        assert!(!is_before(Offset::Invalid, offset(7), 3, 10));
        assert!(is_before(Offset::Invalid, offset(3), 3, 10));
        assert!(is_before(Offset::Invalid, Offset::End, 10, 10));
    }
}
