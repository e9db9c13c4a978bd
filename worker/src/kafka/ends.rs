//! The ends of a topic's partitions: everything that was sent until now is before them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};

use crate::kafka::client::{consumer_config, describe_error};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;

/// Longest wait for the answer to one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The end offset of each partition of the tasks' topic. It is empty if the topic does not exist.
pub(crate) async fn task_ends(settings: &Settings) -> Result<BTreeMap<i32, i64>, Failure> {
    let consumer: BaseConsumer = consumer_config(settings, None).create().map_err(|error| {
        let message = describe_error(&error);
        Failure::fatal(Stage::Intake, Reason::InvalidKafkaConfig, message)
    })?;
    let topic = settings.config.source.kafka.topic.clone();
    let reading = tokio::task::spawn_blocking(move || read(&consumer, &topic));
    let read = reading.await.unwrap_or(Err(KafkaError::Canceled));
    read.map_err(|error| {
        let message = format!("end offsets: {}", describe_error(&error));
        Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message)
    })
}

fn read(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let topics = metadata.topics().iter();
    topics
        .filter(|found| found.name() == topic)
        .flat_map(MetadataTopic::partitions)
        .map(MetadataPartition::id)
        .map(|partition| {
            let (_, end) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
            Ok((partition, end))
        })
        .collect()
}
