//! The client of one cluster: reads many topics and groups at once. Every read blocks for a few
//! seconds at most.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{
    Connection, KafkaError, TopicState, admin,
    connection::not_created,
    topic_settings::{CLEANUP_POLICY, RETENTION_MS, TopicSettings},
};

/// For each read.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// Topics, or partitions, in one request. librdkafka searches a list of all of them for each answer,
/// so with thousands a few more requests are faster.
const IN_ONE_REQUEST: usize = 250;

/// The client of one cluster.
pub(super) struct Cluster {
    consumer: BaseConsumer<LastFailure>,
}

impl Cluster {
    /// Creates the client. Nothing is sent yet.
    pub(super) fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let mut config = connection.client_config();
        // The isolation level of the end offsets below.
        config
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        let consumer = config
            .create_with_context(LastFailure::default())
            .map_err(|error| not_created(&error))?;
        Ok(Self { consumer })
    }

    /// The state of each topic, or its own error.
    pub(super) fn topics(
        &self,
        names: &[&str],
    ) -> Result<HashMap<String, Result<TopicState, KafkaError>>, KafkaError> {
        self.serve_events();
        let mut described = HashMap::with_capacity(names.len());
        for names in names.chunks(IN_ONE_REQUEST) {
            let answer = admin::describe_topics(self.consumer.client(), names, READ_TIMEOUT);
            described.extend(answer.map_err(|error| self.unreachable(&error))?);
        }
        self.consumer.context().forget();
        let answers = described.into_iter().map(|(name, answer)| {
            let state = match answer {
                Ok(partitions) => Ok(TopicState::Present { partitions }),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(TopicState::Absent),
                Err(code) => Err(KafkaError::Refused(format!(
                    "topic {name}: {}",
                    description(code)
                ))),
            };
            (name, state)
        });
        Ok(answers.collect())
    }

    /// The settings of the topics, as far as they may be read.
    pub(super) fn topic_settings(&self, topics: &[&str]) -> HashMap<String, TopicSettings> {
        let client = self.consumer.client();
        let factors = admin::replication_factors(client, topics, READ_TIMEOUT);
        let keys = [CLEANUP_POLICY, RETENTION_MS];
        let configurations = admin::configurations(client, topics, &keys, READ_TIMEOUT);
        if let Err(error) = &configurations {
            tracing::debug!(%error, "settings of topics not read");
        }
        let factors = factors.unwrap_or_default();
        let configurations = configurations.unwrap_or_default();
        let read = topics.iter().map(|topic| {
            let factor = factors.get(*topic).copied();
            let settings = TopicSettings::new(factor, configurations.get(*topic));
            ((*topic).to_owned(), settings)
        });
        read.collect()
    }

    /// The number of brokers that are alive. `topic` keeps the answer small and need not exist.
    pub(super) fn brokers(&self, topic: &str) -> Result<usize, KafkaError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), READ_TIMEOUT)
            .map_err(|error| self.unreachable(&error))?;
        Ok(metadata.brokers().len())
    }

    /// The first or, at `read_committed`, the end offset of every partition of these topics. Every
    /// leader gets one request for some hundreds of them. A topic has an error if one of its
    /// partitions has no answer.
    ///
    /// librdkafka (2.12, `rd_kafka_offsets_for_times`) sends the number in the list's offset field
    /// as the timestamp of a `ListOffsets` request, and its configured `isolation.level` with it.
    /// The timestamps -2 and -1, which are also the values of `Beginning` and `End`, mean the
    /// start of the log and, at `read_committed`, the last stable offset. `fetch_watermarks` would
    /// return the same, but with two requests for each partition.
    pub(super) fn offsets(
        &self,
        topics: &[(&str, i32)],
        which: Offset,
    ) -> Result<HashMap<String, Result<Vec<i64>, KafkaError>>, KafkaError> {
        let all: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|(topic, partitions)| (0..*partitions).map(|partition| (*topic, partition)))
            .collect();
        let mut answers = Vec::new();
        for partitions in all.chunks(IN_ONE_REQUEST) {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition_offset(topic, *partition, which)
                    .map_err(|error| KafkaError::Refused(error.to_string()))?;
            }
            let answer = self.consumer.offsets_for_times(list, READ_TIMEOUT);
            answers.push(answer.map_err(|error| self.unreachable(&error))?);
        }
        let mut found: HashMap<String, Result<Vec<i64>, KafkaError>> = topics
            .iter()
            .map(|(topic, partitions)| {
                let none = vec![-1; usize::try_from(*partitions).unwrap_or_default()];
                ((*topic).to_owned(), Ok(none))
            })
            .collect();
        for element in answers.iter().flat_map(TopicPartitionList::elements) {
            let Some(answer) = found.get_mut(element.topic()) else {
                continue;
            };
            let (topic, partition) = (element.topic(), element.partition());
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) => {
                    let index = usize::try_from(partition).unwrap_or(usize::MAX);
                    if let Some(slot) = answer.as_mut().ok().and_then(|all| all.get_mut(index)) {
                        *slot = offset;
                    }
                }
                (Err(error), _) => {
                    *answer = Err(KafkaError::Unreachable(format!(
                        "no offset of {topic}/{partition}: {error}"
                    )));
                }
                (Ok(()), _) => {
                    *answer = Err(KafkaError::Unreachable(format!(
                        "no offset of {topic}/{partition} in the response"
                    )));
                }
            }
        }
        for (topic, answer) in &mut found {
            if answer.as_ref().is_ok_and(|all| all.contains(&-1)) {
                *answer = Err(KafkaError::Unreachable(format!(
                    "not all offsets of {topic} are in the response"
                )));
            }
        }
        Ok(found)
    }

    /// The committed offsets of a group, by topic and partition.
    pub(super) fn committed(
        &self,
        group: &str,
        topics: &[(&str, i32)],
    ) -> Result<HashMap<String, Vec<Option<i64>>>, KafkaError> {
        admin::committed(self.consumer.client(), group, topics, READ_TIMEOUT)
            .map_err(|error| self.unreachable(&error))
    }

    /// The groups that are rebalancing.
    pub(super) fn rebalancing(&self, groups: &[&str]) -> Result<HashSet<String>, KafkaError> {
        if groups.is_empty() {
            return Ok(HashSet::new());
        }
        admin::rebalancing(self.consumer.client(), groups, READ_TIMEOUT)
            .map_err(|error| self.unreachable(&error))
    }

    /// Takes the logs and errors that the client has queued. The queue holds nothing else.
    fn serve_events(&self) {
        const MOMENT: Duration = Duration::from_millis(2);
        for _ in 0..1000 {
            if self.consumer.poll(MOMENT).is_none() {
                break;
            }
        }
    }

    /// The error with the reason that the client logged in the background: "timed out" alone does
    /// not help.
    fn unreachable(&self, error: &ClientError) -> KafkaError {
        self.serve_events();
        let reason = self.consumer.context().get();
        KafkaError::Unreachable(reason.unwrap_or_else(|| match error.rdkafka_error_code() {
            Some(code) => description(code),
            None => error.to_string(),
        }))
    }
}

/// Keeps the last failure that the client logged. Only the log has the reason why a broker cannot be
/// reached, and librdkafka logs the same reason at most once in 30 seconds.
#[derive(Default)]
struct LastFailure(Mutex<Option<String>>);

impl LastFailure {
    fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for LastFailure {
    fn error(&self, error: ClientError, reason: &str) {
        // The next read fails with it, too, and the pipeline's conditions show that.
        tracing::debug!(%error, reason, "Kafka client error");
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "Kafka client log");
        if facility == "FAIL" {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(without_variable_parts(message));
        }
    }
}

impl ConsumerContext for LastFailure {}

/// librdkafka's description of a code, without the name of its Rust variant.
pub(super) fn description(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    match text.split_once(" (") {
        Some((_, description)) => description.trim_end_matches(')').to_owned(),
        None => text,
    }
}

/// A log line without thread, timing and count: with them every message would differ from the last
/// one and be written to the status.
fn without_variable_parts(message: &str) -> String {
    let message = match message.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest,
        _ => message,
    };
    message
        .split_once(" (after ")
        .map_or(message, |(text, _)| text)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_shown_as_descriptions() {
        assert_eq!(
            description(RDKafkaErrorCode::PolicyViolation),
            "Broker: Policy violation"
        );
    }

    #[test]
    fn messages_are_stable() {
        assert_eq!(
            without_variable_parts(
                "[thrd:b:9092/1]: b:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT, 3 identical error(s) suppressed)"
            ),
            "b:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"
        );
    }
}
