//! The client of one cluster: reads many topics and groups at once. Every read blocks for a few
//! seconds at most.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{
    Connection, KafkaError, TopicState,
    admin::{self, ListedOffset},
    connection::not_created,
    topic_settings::{CLEANUP_POLICY, MIN_INSYNC_REPLICAS, RETENTION_MS, TopicSettings},
};

/// For each read.
const READ_TIMEOUT: Duration = Duration::from_secs(4);
/// For a read while a broker does not answer.
const SILENT_BROKER_TIMEOUT: Duration = Duration::from_secs(2);
/// For this long a broker that did not answer is expected not to.
const SILENCE: Duration = Duration::from_secs(30);

/// Topics, or partitions, in one request. librdkafka searches a list of all of them for each answer,
/// so with thousands a few more requests are faster.
const IN_ONE_REQUEST: usize = 100;

/// The client of one cluster.
pub(super) struct Cluster {
    consumer: BaseConsumer<LastFailure>,
    /// When a broker did not answer last.
    silent_since: Cell<Option<Instant>>,
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
        Ok(Self {
            consumer,
            silent_since: Cell::new(None),
        })
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
            described.extend(answer.map_err(|error| self.failure(&error))?);
        }
        self.consumer.context().forget();
        let answers = described.into_iter().map(|(name, answer)| {
            let state = match answer {
                Ok(partitions) => Ok(TopicState::Present { partitions }),
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(TopicState::Absent),
                Err(code) => {
                    let words = format!("topic {name}: {}", description(code));
                    Err(if is_denial(code) {
                        KafkaError::Unauthorized(words)
                    } else {
                        KafkaError::Refused(words)
                    })
                }
            };
            (name, state)
        });
        Ok(answers.collect())
    }

    /// The settings of the topics, as far as they may be read; none if a request fails as a whole.
    pub(super) fn topic_settings(&self, topics: &[&str]) -> HashMap<String, TopicSettings> {
        let client = self.consumer.client();
        let factors = admin::replication_factors(client, topics, READ_TIMEOUT);
        let keys = [CLEANUP_POLICY, RETENTION_MS, MIN_INSYNC_REPLICAS];
        let configurations = admin::configurations(client, topics, &keys, READ_TIMEOUT);
        let (factors, configurations) = match (factors, configurations) {
            (Ok(factors), Ok(configurations)) => (factors, configurations),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "settings of topics not read");
                return HashMap::new();
            }
        };
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
            .map_err(|error| self.failure(&error))?;
        Ok(metadata.brokers().len())
    }

    /// The first or, at `read_committed`, the end offset of every partition of these topics, or the
    /// one at a time (an offset that is the number of milliseconds since 1970). Every leader gets
    /// one request for some hundreds of them. A partition without a leader or of a topic that is
    /// gone, and those of a broker that does not answer, are unknown and leave the others as they
    /// are.
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
    ) -> Result<HashMap<String, Offsets>, KafkaError> {
        let all: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|(topic, partitions)| (0..*partitions).map(|partition| (*topic, partition)))
            .collect();
        let mut found: HashMap<String, Offsets> = topics
            .iter()
            .map(|(topic, partitions)| {
                let none = vec![
                    Err(RDKafkaErrorCode::NoOffset);
                    usize::try_from(*partitions).unwrap_or_default()
                ];
                ((*topic).to_owned(), none)
            })
            .collect();
        let mut is_answered = false;
        for partitions in all.chunks(IN_ONE_REQUEST) {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition_offset(topic, *partition, which)
                    .map_err(|error| KafkaError::Refused(error.to_string()))?;
            }
            let answers = match self.offsets_in(&list) {
                Ok(answers) => {
                    is_answered = true;
                    answers
                }
                Err(failure) if is_answered || is_of_partitions(failure.code) => {
                    let answer = |(topic, partition): &(&str, i32)| ListedOffset {
                        topic: (*topic).to_owned(),
                        partition: *partition,
                        offset: Err(failure.code),
                    };
                    partitions.iter().map(answer).collect()
                }
                // Others would wait in vain, too.
                Err(failure) => return Err(failure.error),
            };
            for answer in answers {
                let index = usize::try_from(answer.partition).unwrap_or(usize::MAX);
                let topic = found.get_mut(&answer.topic);
                if let Some(slot) = topic.and_then(|all| all.get_mut(index)) {
                    *slot = answer.offset;
                }
            }
        }
        Ok(found)
    }

    /// Whether a broker did not answer a short time ago.
    pub(super) fn has_silent_broker(&self) -> bool {
        let since = self.silent_since.get();
        since.is_some_and(|since| since.elapsed() < SILENCE)
    }

    /// One request to each leader. It fails as a whole when a broker does not answer; then, and for
    /// a while after, it is sent in the form that keeps the answers of the others.
    fn offsets_in(&self, list: &TopicPartitionList) -> Result<Vec<ListedOffset>, Failure> {
        if self.has_silent_broker() {
            return self.partial_offsets(list);
        }
        let answer = match self.consumer.offsets_for_times(list.clone(), READ_TIMEOUT) {
            Ok(answer) => answer,
            Err(error) => {
                let partial = self.partial_offsets(list);
                if partial.is_ok() {
                    self.silent_since.set(Some(Instant::now()));
                }
                // The first error says more than one of a shorter request.
                return partial.map_err(|_| self.failed(&error));
            }
        };
        let elements = answer.elements();
        let listed = elements.iter().map(|element| ListedOffset {
            topic: element.topic().to_owned(),
            partition: element.partition(),
            offset: match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) => Ok(offset),
                (Ok(()), _) => Err(RDKafkaErrorCode::NoOffset),
                (Err(error), _) => {
                    Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
                }
            },
        });
        Ok(listed.collect())
    }

    /// What the brokers that answer in time return, if any does.
    fn partial_offsets(&self, list: &TopicPartitionList) -> Result<Vec<ListedOffset>, Failure> {
        let client = self.consumer.client();
        let answers = admin::list_offsets(client, list, SILENT_BROKER_TIMEOUT)
            .map_err(|error| self.failed(&error))?;
        let is_answered = answers.iter().any(|answer| answer.offset.is_ok());
        if is_answered {
            return Ok(answers);
        }
        Err(self.failed(&ClientError::AdminOp(RDKafkaErrorCode::OperationTimedOut)))
    }

    fn failed(&self, error: &ClientError) -> Failure {
        Failure {
            code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
            error: self.failure(error),
        }
    }

    /// The committed offsets of a group, by topic and partition.
    pub(super) fn committed(
        &self,
        group: &str,
        topics: &[(&str, i32)],
    ) -> Result<HashMap<String, Vec<Option<i64>>>, KafkaError> {
        admin::committed(self.consumer.client(), group, topics, READ_TIMEOUT).map_err(|error| {
            match self.failure(&error) {
                KafkaError::Unauthorized(words) => {
                    KafkaError::Unauthorized(format!("consumer group {group}: {words}"))
                }
                other => other,
            }
        })
    }

    /// The groups that are rebalancing.
    pub(super) fn rebalancing(&self, groups: &[&str]) -> Result<HashSet<String>, KafkaError> {
        if groups.is_empty() {
            return Ok(HashSet::new());
        }
        admin::rebalancing(self.consumer.client(), groups, READ_TIMEOUT)
            .map_err(|error| self.failure(&error))
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

    /// The error in Kafka's words if it denies the operator the operation, else with the reason that
    /// the client logged in the background: "timed out" alone does not help.
    fn failure(&self, error: &ClientError) -> KafkaError {
        let code = error.rdkafka_error_code();
        if let Some(code) = code.filter(|code| is_denial(*code)) {
            return KafkaError::Unauthorized(description(code));
        }
        self.serve_events();
        let reason = self.consumer.context().get();
        KafkaError::Unreachable(reason.unwrap_or_else(|| match code {
            Some(code) => description(code),
            None => error.to_string(),
        }))
    }
}

/// A request for offsets that failed as a whole.
struct Failure {
    code: RDKafkaErrorCode,
    error: KafkaError,
}

/// Whether the failure is about the partitions of the request: no broker leads any of them. It
/// comes at once, and another request may succeed.
fn is_of_partitions(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NoEnt
            | RDKafkaErrorCode::TopicAuthorizationFailed
    )
}

/// The offset of each partition of a topic, or why it is unknown.
pub(super) type Offsets = Vec<Result<i64, RDKafkaErrorCode>>;

/// Whether a broker answered that the user may not do this.
pub(super) fn is_denial(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
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
    use layra_crds::KafkaSecurity;
    use rdkafka::mocking::MockCluster;

    use super::*;

    type Brokers = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

    fn client_of(brokers: &Brokers) -> Cluster {
        let connection = Connection {
            bootstrap_servers: brokers.bootstrap_servers(),
            security: KafkaSecurity::plaintext(),
        };
        Cluster::new(&connection).unwrap()
    }

    /// A topic with four partitions, whose leaders are broker 1, 2, 1 and 2.
    fn two_brokers() -> (Brokers, Cluster) {
        let brokers = MockCluster::new(2).unwrap();
        brokers.create_topic("tasks", 4, 1).unwrap();
        for partition in 0..4 {
            let leader = 1 + partition % 2;
            brokers
                .partition_leader("tasks", partition, Some(leader))
                .unwrap();
        }
        let cluster = client_of(&brokers);
        (brokers, cluster)
    }

    fn known(cluster: &Cluster) -> Vec<bool> {
        let offsets = cluster.offsets(&[("tasks", 4)], Offset::End).unwrap();
        offsets["tasks"].iter().map(Result::is_ok).collect()
    }

    #[test]
    fn a_partition_without_a_leader_is_unknown_and_the_others_are_read() {
        let (brokers, cluster) = two_brokers();
        assert_eq!(known(&cluster), [true; 4]);
        brokers.partition_leader("tasks", 2, None).unwrap();
        // The first client still knows the old leader, as it would for the age of its metadata.
        let cluster = client_of(&brokers);
        assert_eq!(known(&cluster), [true, true, false, true]);
    }

    #[test]
    fn the_partitions_of_a_broker_that_does_not_answer_are_unknown_and_the_others_are_read() {
        let (brokers, cluster) = two_brokers();
        assert_eq!(known(&cluster), [true; 4]);
        brokers
            .broker_round_trip_time(2, Duration::from_secs(30))
            .unwrap();
        assert_eq!(known(&cluster), [true, false, true, false]);
    }

    #[test]
    fn settings_are_unknown_after_a_request_that_failed() {
        // librdkafka's own cluster does not describe configurations.
        let (_brokers, cluster) = two_brokers();
        assert_eq!(cluster.topic_settings(&["tasks"]), HashMap::new());
    }

    #[test]
    fn a_denial_is_told_apart_from_silence() {
        assert!(is_denial(RDKafkaErrorCode::GroupAuthorizationFailed));
        assert!(!is_denial(RDKafkaErrorCode::OperationTimedOut));
    }

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
