//! Sends messages: dead letters, page ranges of split documents, tasks that must be repeated, and
//! foreign messages that are forwarded.
//!
//! A message counts as sent once all in-sync replicas have it. Only then may the caller commit the
//! original message.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use crate::document::headers::{ATTEMPTS, FAILURE_PREFIX as PREFIX, task_headers};
use crate::document::page_range::Range;
use crate::document::task::Task;
use crate::document::{Origin, Sent, trace_context};
use crate::kafka::client::{describe_error, producer_config};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::settings::Settings;
use crate::runtime::traces;
use crate::stores::ledger::Rejection;

/// Longest value of a header, in bytes.
const LONGEST_VALUE: usize = 1000;

/// Sends messages and waits until they are replicated.
#[derive(Clone)]
pub(crate) struct Outbox {
    producer: FutureProducer,
    topic: String,
    ranges_topic: String,
    dead_letter_topic: String,
}

/// How long a request waits for space in the queue, or for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Outbox {
    /// Creates a producer, which connects in the background.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let producer = producer_config(settings).create().map_err(|error| {
            Failure::fatal(
                Stage::DeadLetter,
                Reason::InvalidKafkaConfig,
                describe_error(&error),
            )
        })?;
        let kafka = &settings.config.source.kafka;
        Ok(Self {
            producer,
            topic: kafka.topic.clone(),
            ranges_topic: kafka.ranges_topic(),
            dead_letter_topic: kafka.dead_letter_topic(),
        })
    }

    /// Sends a dead letter: the original message, with the failure in its headers. `origin` is the
    /// position of the task. The message is this task or one of its page ranges.
    pub(crate) async fn dead_letter(
        &self,
        message: &OwnedMessage,
        origin: &Origin,
        rejection: &Rejection,
    ) -> Result<(), Failure> {
        let topic = &self.dead_letter_topic;
        let time = jiff::Timestamp::now().to_string();
        let headers = failure_headers(message, origin, rejection, &time);
        match self
            .send(topic, message.key(), message.payload(), headers.clone())
            .await
        {
            Err(error) if is_too_large(&error) => {
                // The origin headers identify the original.
                let note = "omitted: with it the message would exceed Kafka's size limit";
                let headers = add(headers, "payload", note);
                match self.send(topic, message.key(), None, headers).await {
                    Err(error) if is_too_large(&error) => {
                        let bare = without_content(message);
                        let headers = failure_headers(&bare, origin, rejection, &time);
                        let headers = add(headers, "payload", note);
                        self.send(topic, None, None, headers).await
                    }
                    sent => sent,
                }
            }
            sent => sent,
        }
        .map_err(|error| classify(topic, &error))
        // Nothing is left to leave out, and the message must not be committed without it.
        .map_err(|failure| match failure.class {
            Class::Permanent => Failure {
                class: Class::Transient,
                ..failure
            },
            _ => failure,
        })
    }

    /// Sends page ranges of a task to the pipeline's internal topic, evenly to all partitions, so
    /// that all workers get some. `message` is the task or one of its page ranges. By default librdkafka sends all messages without a key to the
    /// same partition for some milliseconds (`sticky.partitioning.linger.ms`).
    pub(crate) async fn ranges(
        &self,
        message: &OwnedMessage,
        ranges: &[Range],
    ) -> Result<(), Failure> {
        let topic = &self.ranges_topic;
        let failed = |error| classify(topic, &error);
        let partitions = self.partitions(topic).await.map_err(failed)?;
        // Documents with few ranges must not always use the same partitions.
        let first = fastrand::i32(0..partitions);
        let places = (first..partitions).chain((0..partitions).cycle());
        let sends = ranges.iter().zip(places).map(|(range, partition)| {
            self.send_record(range_record(topic, message, range).partition(partition))
        });
        futures::future::try_join_all(sends).await.map_err(failed)?;
        Ok(())
    }

    /// Sends the task of a dead letter: its own value, key and headers. Somebody asks for it now, so
    /// it is a request of its own.
    pub(crate) async fn redrive(&self, letter: &OwnedMessage) -> Result<(), Failure> {
        let headers = task_headers(letter.headers());
        self.send_own(letter.key(), letter.payload(), headers).await
    }

    /// Sends the task of a message again, with the request that it repeats. `message` is the task
    /// or one of its page ranges.
    pub(crate) async fn send_again(
        &self,
        message: &OwnedMessage,
        request: &Sent,
    ) -> Result<(), Failure> {
        let headers = request.headers(message.headers());
        self.send_own(message.key(), message.payload(), headers)
            .await
    }

    /// Sends the task of a document whose message is no longer known, with the request that it
    /// repeats.
    pub(crate) async fn send_task(&self, task: &Task, request: &Sent) -> Result<(), Failure> {
        let message = task.to_message();
        self.send_own(None, Some(&message), request.headers(None))
            .await
    }

    /// Sends the task of a new document, as LAYRA does, but with a key: librdkafka would send many
    /// tasks without one to the same partition.
    pub(crate) async fn send_new(&self, task: &Task) -> Result<(), Failure> {
        let (key, message) = (task.file.file_id.as_bytes(), task.to_message());
        self.send_own(Some(key), Some(&message), OwnedHeaders::new())
            .await
    }

    /// Sends one change of a notification, with the request that it is part of. Like MinIO's, the
    /// message has the object as its key.
    pub(crate) async fn send_change(
        &self,
        object: &str,
        value: &[u8],
        request: &Sent,
    ) -> Result<(), Failure> {
        let headers = request.headers(None);
        self.send_own(Some(object.as_bytes()), Some(value), headers)
            .await
    }

    /// Sends a message to the pipeline's own topic.
    async fn send_own(
        &self,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(), Failure> {
        self.send(&self.topic, key, payload, headers)
            .await
            .map_err(|error| classify(&self.topic, &error))
    }

    /// Copies a message to another topic, with its key and headers.
    pub(crate) async fn forward(&self, message: &OwnedMessage, topic: &str) -> Result<(), Failure> {
        let headers = message.headers().cloned().unwrap_or_default();
        self.send(topic, message.key(), message.payload(), headers)
            .await
            .map_err(|error| classify_forward(topic, &error))
    }

    async fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(), KafkaError> {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).headers(headers);
        record.key = key;
        record.payload = payload;
        self.send_record(record).await
    }

    async fn send_record(&self, record: FutureRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        let topic = record.topic;
        let send = async {
            let record = FutureRecord {
                headers: record.headers.map(trace_context::carried),
                ..record
            };
            self.producer.send(record, Timeout::After(TIMEOUT)).await
        };
        let result = traces::sending(topic, send).await;
        result.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Number of partitions that a topic has now.
    async fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let (producer, name) = (self.producer.clone(), topic.to_owned());
        let ask = move || producer.client().fetch_metadata(Some(&name), TIMEOUT);
        // The task fails only when the runtime shuts down.
        let metadata = tokio::task::spawn_blocking(ask)
            .await
            .map_err(|_| KafkaError::Canceled)??;
        let described = metadata.topics().iter().find(|found| found.name() == topic);
        let count = described.map_or(0, |found| found.partitions().len());
        match i32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownTopicOrPartition,
            )),
        }
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// A page range: the task's key, value and own headers, and the headers of the range.
fn range_record<'a>(
    topic: &'a str,
    message: &'a OwnedMessage,
    range: &Range,
) -> FutureRecord<'a, [u8], [u8]> {
    let mut record = FutureRecord::to(topic).headers(range.headers(message.headers()));
    record.key = message.key();
    record.payload = message.payload();
    record
}

/// The task's own headers and those of the failure. If the message was redriven before, its failure
/// headers are replaced and its attempts are counted on.
fn failure_headers(
    message: &OwnedMessage,
    origin: &Origin,
    rejection: &Rejection,
    time: &str,
) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    let mut attempts = 1_u32;
    for header in task_headers(message.headers()).iter() {
        if header.key == ATTEMPTS {
            let before = header
                .value
                .and_then(|value| std::str::from_utf8(value).ok());
            let before = before.and_then(|text| text.parse::<u32>().ok());
            attempts = before.unwrap_or_default().saturating_add(1);
        } else {
            headers = headers.insert(header);
        }
    }
    let class = if rejection.poison {
        Class::Poison
    } else {
        Class::Permanent
    };
    headers = add(headers, "reason", &rejection.reason);
    headers = add(headers, "class", class.as_str());
    headers = add(headers, "message", &rejection.message);
    headers = add(headers, "stage", &rejection.stage);
    headers = add(headers, "attempts", &attempts.to_string());
    headers = add(headers, "origin-topic", &origin.topic);
    headers = add(headers, "origin-partition", &origin.partition.to_string());
    headers = add(headers, "origin-offset", &origin.offset.to_string());
    add(headers, "time", time)
}

/// The message without its key, headers and payload.
fn without_content(message: &OwnedMessage) -> OwnedMessage {
    let (topic, time) = (message.topic().to_owned(), message.timestamp());
    OwnedMessage::new(
        None,
        None,
        topic,
        time,
        message.partition(),
        message.offset(),
        None,
    )
}

/// A failure header of a dead letter, for example `reason`.
pub(crate) fn failure_header<'a>(letter: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    letter
        .headers()
        .into_iter()
        .flat_map(Headers::iter)
        .find(|header| header.key.strip_prefix(PREFIX) == Some(name))
        .and_then(|header| std::str::from_utf8(header.value?).ok())
}

fn add(headers: OwnedHeaders, name: &str, text: &str) -> OwnedHeaders {
    let text = &text[..text.floor_char_boundary(LONGEST_VALUE)];
    headers.insert(Header {
        key: &format!("{PREFIX}{name}"),
        value: Some(text),
    })
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

fn classify(topic: &str, error: &KafkaError) -> Failure {
    let message = format!("topic {topic}: {error}");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::Fatal,
        ) => Failure::fatal(Stage::DeadLetter, Reason::KafkaForbidden, message),
        // The limit is a setting of the topic: no server is in trouble.
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            Failure::permanent(Stage::DeadLetter, Reason::MessageTooLarge, message)
        }
        _ => Failure::transient(Stage::DeadLetter, Reason::KafkaUnavailable, message),
    }
}

/// The topic for foreign messages belongs to others. It may be missing, or closed to the worker,
/// while all topics of the pipeline are in order.
fn classify_forward(topic: &str, error: &KafkaError) -> Failure {
    let message = format!("topic {topic}: {error}");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic,
        ) => Failure::refused(Stage::DeadLetter, Reason::TopicNotFound, message),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            Failure::refused(Stage::DeadLetter, Reason::KafkaForbidden, message)
        }
        _ => classify(topic, error),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;

    use super::*;
    use crate::runtime::failure::Cause;

    fn message(headers: OwnedHeaders) -> OwnedMessage {
        let payload = Some(b"\xffraw".to_vec());
        OwnedMessage::new(
            payload,
            None,
            "tasks.ranges".into(),
            Timestamp::now(),
            0,
            9,
            Some(headers),
        )
    }

    fn origin() -> Origin {
        Origin {
            topic: "tasks".into(),
            partition: 3,
            offset: 41,
        }
    }

    fn texts(headers: &OwnedHeaders) -> Vec<(String, String)> {
        headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                (header.key.to_owned(), value)
            })
            .collect()
    }

    #[test]
    fn headers_hold_the_failure_and_the_origin() {
        let own = OwnedHeaders::new().insert(Header {
            key: "priority",
            value: Some("1"),
        });
        let failure = Failure::permanent(Stage::Render, Reason::Encrypted, "needs a password");
        let rejection = Rejection::from(&failure);
        let range = Range {
            round: "r".into(),
            first: 0,
            count: 1,
            origin: origin(),
            at: 0,
        };
        let own = range.headers(Some(&own));
        let headers = failure_headers(&message(own), &origin(), &rejection, "2026-01-23T00:00:00Z");
        let expected = [
            ("priority", "1"),
            ("layra-error-reason", "Encrypted"),
            ("layra-error-class", "permanent"),
            ("layra-error-message", "needs a password"),
            ("layra-error-stage", "render"),
            ("layra-error-attempts", "1"),
            ("layra-error-origin-topic", "tasks"),
            ("layra-error-origin-partition", "3"),
            ("layra-error-origin-offset", "41"),
            ("layra-error-time", "2026-01-23T00:00:00Z"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(texts(&headers), expected);

        let again = failure_headers(
            &message(headers),
            &origin(),
            &rejection,
            "2026-01-24T00:00:00Z",
        );
        let again = texts(&again);
        assert_eq!(
            again.len(),
            expected.len(),
            "the old failure headers are replaced"
        );
        assert!(again.contains(&("layra-error-attempts".to_owned(), "2".to_owned())));
    }

    #[test]
    fn a_range_has_the_key_and_the_value_of_its_task() {
        let (key, value) = (b"a key".to_vec(), b"\xffraw".to_vec());
        let task = OwnedMessage::new(
            Some(value.clone()),
            Some(key.clone()),
            "tasks".into(),
            Timestamp::now(),
            3,
            41,
            None,
        );
        let range = Range {
            round: "r".into(),
            first: 0,
            count: 1,
            origin: origin(),
            at: 0,
        };
        let record = range_record("tasks.ranges", &task, &range);
        assert_eq!(record.key, Some(key.as_slice()));
        assert_eq!(record.payload, Some(value.as_slice()));
        assert_eq!(Range::from_headers(record.headers.as_ref()), Ok(range));
    }

    #[test]
    fn a_redriven_task_is_a_request_of_its_own() {
        let request = Sent {
            origin: "tasks/3/7".into(),
            at: mongodb::bson::DateTime::from_millis(500),
        };
        let failure = Failure::permanent(Stage::Render, Reason::Damaged, "x");
        let repeated = message(request.headers(None));
        let letter = failure_headers(&repeated, &origin(), &Rejection::from(&failure), "");
        let left = texts(&task_headers(Some(&letter)));
        assert_eq!(left, [("layra-error-attempts".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_message_that_is_too_large_rejects_its_document_and_ends_no_worker() {
        let error = |code| KafkaError::MessageProduction(code);
        let too_large = classify("t", &error(RDKafkaErrorCode::MessageSizeTooLarge));
        assert_eq!(too_large.class, Class::Permanent);
        assert_eq!(too_large.reason, Reason::MessageTooLarge);
        let missing = error(RDKafkaErrorCode::UnknownTopicOrPartition);
        let closed = error(RDKafkaErrorCode::TopicAuthorizationFailed);
        // The operator creates the pipeline's own topics.
        assert_eq!(classify("t", &missing).cause, Cause::Server);
        assert_eq!(classify("t", &closed).class, Class::Fatal);
        for refused in [missing, closed] {
            let failure = classify_forward("t", &refused);
            assert_eq!(failure.class, Class::Transient, "{failure}");
            assert_eq!(failure.cause, Cause::Request, "{failure}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let failure = Failure::permanent(Stage::Render, Reason::Damaged, "é".repeat(1000));
        let rejection = Rejection::from(&failure);
        let message = message(OwnedHeaders::new());
        let headers = texts(&failure_headers(&message, &origin(), &rejection, ""));
        assert_eq!(headers[2].1, "é".repeat(500));
    }
}
