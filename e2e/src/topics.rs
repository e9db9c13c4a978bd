//! Kafka topics, read without joining a consumer group.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Timeout of a request to Kafka.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Kafka's client wants a group's name even from a reader that joins none.
const NO_GROUP: &str = "e2e-reader";

/// A message of a topic.
#[derive(Clone, Debug)]
pub struct Record {
    /// The partition that it was in.
    pub partition: i32,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Its value.
    pub value: String,
    /// Names and values of its headers.
    pub headers: Vec<(String, String)>,
}

impl Record {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn read(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            partition: message.partition(),
            key: message.key().map(text),
            value: text(message.payload().unwrap_or_default()),
            headers: headers
                .map(|header| {
                    (
                        header.key.to_owned(),
                        text(header.value.unwrap_or_default()),
                    )
                })
                .collect(),
        }
    }
}

/// The partitions of a topic; empty when the topic does not exist.
pub fn partitions(servers: &str, topic: &str) -> Result<Vec<i32>> {
    partitions_of(&reader(servers, NO_GROUP)?, topic)
}

/// All records of a topic.
pub fn records(servers: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer = reader(servers, NO_GROUP)?;
    let mut assignment = TopicPartitionList::new();
    let mut expected = 0;
    for partition in existing_partitions(&consumer, topic)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        expected += high - low;
    }
    consumer.assign(&assignment)?;
    (0..expected)
        .map(|_| {
            let message = consumer.poll(REQUEST_TIMEOUT);
            let message =
                message.with_context(|| format!("no record of {topic} within 10 s"))??;
            Ok(Record::read(&message))
        })
        .collect()
}

/// Records of these topics that the group has not committed.
pub fn lag(servers: &str, group: &str, topics: &[String]) -> Result<i64> {
    let consumer = reader(servers, group)?;
    let mut lag = 0;
    for topic in topics {
        let mut list = TopicPartitionList::new();
        for partition in existing_partitions(&consumer, topic)? {
            list.add_partition(topic, partition);
        }
        let committed = consumer.committed_offsets(list, REQUEST_TIMEOUT)?;
        for element in committed.elements() {
            let partition = element.partition();
            let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
            let next = match element.offset() {
                Offset::Offset(offset) => offset.max(low),
                _ => low,
            };
            lag += high - next;
        }
    }
    Ok(lag)
}

fn existing_partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let partitions = partitions_of(consumer, topic)?;
    ensure!(!partitions.is_empty(), "there is no topic {topic}");
    Ok(partitions)
}

fn partitions_of(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    // A request for one topic could create it.
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT)?;
    let mut topics = metadata.topics().iter();
    let found = topics.find(|candidate| candidate.name() == topic);
    let partitions = found.into_iter().flat_map(MetadataTopic::partitions);
    Ok(partitions.map(MetadataPartition::id).collect())
}

/// A client that never joins the group.
fn reader(servers: &str, group: &str) -> Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("log_level", "0")
        .create()?)
}
