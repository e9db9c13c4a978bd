//! The client of one cluster.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    Answer, Connection, KafkaError, PartitionOffsets, Question, TopicAction, TopicState,
    group_offsets, total_lag,
};

/// For each of the reads of an [`Cluster::ask`].
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// For a change, the controller's work included.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// The client of one cluster.
pub(super) struct Cluster {
    consumer: BaseConsumer<LastFailure>,
}

impl Cluster {
    /// Makes the client. Nothing is sent yet.
    pub(super) fn new(connection: &Connection) -> Result<Self, KafkaError> {
        let mut config = connection.client_config();
        // The end offsets below are asked for with this level.
        config
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        let consumer = config
            .create_with_context(LastFailure::default())
            .map_err(|error| KafkaError::Settings(error.to_string()))?;
        Ok(Self { consumer })
    }

    /// Reads topics and offsets. Blocks.
    pub(super) fn ask(&self, question: &Question) -> Result<Answer, KafkaError> {
        self.serve_events();
        let (brokers, topic) = self.topic(&question.topic)?;
        let (_, dead_letter_topic) = self.topic(&question.dead_letter_topic)?;
        let (_, ranges_topic) = self.topic(&question.ranges_topic)?;
        let group = &question.consumer_group;
        let lag = match topic {
            TopicState::Absent => Err(KafkaError::Refused(format!(
                "topic {} does not exist",
                question.topic
            ))),
            TopicState::Present { .. } => self.lag(&question.topic, topic, group),
        };
        // A range is on its way before its task counts as done: read in this order, the backlog
        // is never taken to be empty in between.
        let lag = lag.and_then(|tasks| {
            let ranges = self.lag(&question.ranges_topic, ranges_topic, group)?;
            Ok(tasks + ranges)
        });
        Ok(Answer {
            brokers,
            topic,
            ranges_topic,
            dead_letter_topic,
            lag,
        })
    }

    /// The topic, and how many brokers are alive.
    fn topic(&self, name: &str) -> Result<(usize, TopicState), KafkaError> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(name), READ_TIMEOUT)
            .map_err(|error| self.unreachable(&error))?;
        self.consumer.context().forget();
        let brokers = metadata.brokers().len();
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
            return Ok((brokers, TopicState::Absent));
        };
        match topic.error() {
            None => {
                let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                Ok((brokers, TopicState::Present { partitions }))
            }
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {
                Ok((brokers, TopicState::Absent))
            }
            Some(code) => {
                let words = in_words(code.into());
                Err(KafkaError::Refused(format!("topic {name}: {words}")))
            }
        }
    }

    /// What the group has still to do of a topic; nothing of one that does not exist.
    fn lag(&self, topic: &str, state: TopicState, group: &str) -> Result<i64, KafkaError> {
        let TopicState::Present { partitions } = state else {
            return Ok(0);
        };
        self.offsets(topic, partitions, group)
            .map(|offsets| total_lag(&offsets))
    }

    /// The offsets of every partition, all of them or an error.
    fn offsets(
        &self,
        topic: &str,
        partitions: i32,
        group: &str,
    ) -> Result<Vec<PartitionOffsets>, KafkaError> {
        let starts = self.list_offsets(topic, partitions, Offset::Beginning)?;
        let committed = group_offsets::committed(
            self.consumer.client(),
            group,
            topic,
            partitions,
            READ_TIMEOUT,
        )
        .map_err(|error| self.unreachable(&error))?;
        // The ends are read last: work that is committed meanwhile is never counted as negative.
        let ends = self.list_offsets(topic, partitions, Offset::End)?;
        Ok(starts
            .into_iter()
            .zip(committed)
            .zip(ends)
            .map(|((log_start, committed), end)| PartitionOffsets {
                log_start,
                end,
                committed,
            })
            .collect())
    }

    /// Asks every leader once for all its partitions.
    ///
    /// librdkafka (2.12, `rd_kafka_offsets_for_times`) sends the number in the list's offset field
    /// as the timestamp of a `ListOffsets` request, and its configured `isolation.level` with it.
    /// The timestamps -2 and -1, which are also the values of `Beginning` and `End`, stand for the
    /// log's start and, at `read_committed`, for the last stable offset. `fetch_watermarks` would
    /// answer the same, but with two requests for each partition.
    fn list_offsets(
        &self,
        topic: &str,
        partitions: i32,
        which: Offset,
    ) -> Result<Vec<i64>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, which)
                .map_err(|error| KafkaError::Refused(error.to_string()))?;
        }
        let answered = self
            .consumer
            .offsets_for_times(list, READ_TIMEOUT)
            .map_err(|error| self.unreachable(&error))?;
        (0..partitions)
            .map(|partition| {
                let found = answered.find_partition(topic, partition);
                match found.map(|element| (element.error(), element.offset())) {
                    Some((Ok(()), Offset::Offset(offset))) => Ok(offset),
                    Some((Err(error), _)) => Err(KafkaError::Unreachable(format!(
                        "no offset of {topic}/{partition}: {error}"
                    ))),
                    Some((Ok(()), _)) | None => Err(KafkaError::Unreachable(format!(
                        "no offset of {topic}/{partition} was returned"
                    ))),
                }
            })
            .collect()
    }

    /// Changes a topic. A client is made for it: changes are rare.
    pub(super) async fn change(
        connection: &Connection,
        action: &TopicAction,
    ) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = connection
            .client_config()
            .create()
            .map_err(|error| KafkaError::Settings(error.to_string()))?;
        let options = AdminOptions::new()
            .request_timeout(Some(CHANGE_TIMEOUT))
            .operation_timeout(Some(CHANGE_TIMEOUT));
        let results = match action {
            TopicAction::Create {
                topic,
                partitions,
                replication_factor,
                config,
            } => {
                let replication = TopicReplication::Fixed(*replication_factor);
                let mut new = NewTopic::new(topic, *partitions, replication);
                for (key, value) in config {
                    new = new.set(key, value);
                }
                admin.create_topics([&new], &options).await
            }
            TopicAction::AddPartitions { topic, partitions } => {
                let count = usize::try_from(*partitions).unwrap_or_default();
                admin
                    .create_partitions([&NewPartitions::new(topic, count)], &options)
                    .await
            }
        };
        // Closing a client waits for its threads.
        tokio::task::spawn_blocking(move || drop(admin));
        let results = results.map_err(|error| KafkaError::Unreachable(error.to_string()))?;
        match results.into_iter().next() {
            // Somebody else was faster: the next reading shows what there is.
            Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(KafkaError::Refused(in_words(code))),
            None => Err(KafkaError::Unreachable("no answer".to_owned())),
        }
    }

    /// The client collects logs and errors until somebody takes them; nothing else ever waits
    /// there.
    fn serve_events(&self) {
        const MOMENT: Duration = Duration::from_millis(2);
        for _ in 0..1000 {
            if self.consumer.poll(MOMENT).is_none() {
                break;
            }
        }
    }

    /// The error, with the reason that the client gave in the background: "timed out" alone helps
    /// nobody.
    fn unreachable(&self, error: &ClientError) -> KafkaError {
        self.serve_events();
        let reason = self.consumer.context().get();
        KafkaError::Unreachable(reason.unwrap_or_else(|| match error.rdkafka_error_code() {
            Some(code) => in_words(code),
            None => error.to_string(),
        }))
    }
}

/// Keeps the last failure that the client logged. librdkafka says there, and only there, why a
/// broker cannot be reached, and says the same only once in 30 seconds.
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
        // The next reading says it too, and the pipeline's conditions show it.
        tracing::debug!(%error, reason, "librdkafka");
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
        if facility == "FAIL" {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(essence(message));
        }
    }
}

impl ConsumerContext for LastFailure {}

/// librdkafka's words for a code, without its name in Rust.
fn in_words(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    match text.split_once(" (") {
        Some((_, words)) => words.trim_end_matches(')').to_owned(),
        None => text,
    }
}

/// A log line without its thread, its timing and its count, which would make every message a new
/// one.
fn essence(message: &str) -> String {
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
    use crate::kafka::Security;

    fn question() -> Question {
        Question {
            topic: "tasks".into(),
            ranges_topic: "tasks.ranges".into(),
            dead_letter_topic: "tasks.dlq".into(),
            consumer_group: "workers".into(),
        }
    }

    #[test]
    fn a_cluster_that_is_not_there_is_unreachable_and_says_why() {
        // Nothing listens on port 1.
        let connection = Connection {
            bootstrap_servers: "127.0.0.1:1".into(),
            security: Security::plaintext(),
        };
        let error = Cluster::new(&connection)
            .unwrap()
            .ask(&question())
            .unwrap_err();
        let KafkaError::Unreachable(message) = error else {
            panic!("{error:?}")
        };
        assert!(message.contains("refused"), "{message}");
    }

    #[test]
    fn codes_are_shown_in_words() {
        assert_eq!(
            in_words(RDKafkaErrorCode::PolicyViolation),
            "Broker: Policy violation"
        );
    }

    #[test]
    fn messages_are_stable() {
        assert_eq!(
            essence(
                "[thrd:b:9092/1]: b:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT, 3 identical error(s) suppressed)"
            ),
            "b:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"
        );
    }
}
