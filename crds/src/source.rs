//! The Kafka side of a pipeline.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::source_format::{S3EventSpec, SourceFormat};
use crate::{KafkaClientSpec, SecretRef};

/// The largest number of partitions of a topic.
const MOST_PARTITIONS: i32 = 10_000;

/// The source of the document tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceSpec {
    /// The Kafka topic, with one JSON task per document, and its consumer group.
    pub kafka: KafkaSource,
}

/// A Kafka topic with one JSON task per document, and its consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.deadLetterTopic) || self.deadLetterTopic != self.topic")
        .message("source.kafka.deadLetterTopic must differ from source.kafka.topic: a failed task would be consumed in an endless loop"),
    validation = Rule::new("!has(self.foreignMessages) || !has(self.foreignMessages.topic) || self.foreignMessages.topic != self.topic")
        .message("source.kafka.foreignMessages.topic must differ from source.kafka.topic: a forwarded message would be consumed in an endless loop"),
    validation = Rule::new("!has(self.deadLetterTopic) || self.deadLetterTopic != self.topic + '.ranges' || has(self.rangesTopic)")
        .message("source.kafka.deadLetterTopic must not be source.kafka.topic followed by `.ranges`: the workers read page ranges from that topic. Use another name"),
    validation = Rule::new("!has(self.foreignMessages) || !has(self.foreignMessages.topic) || self.foreignMessages.topic != self.topic + '.ranges' || has(self.rangesTopic)")
        .message("source.kafka.foreignMessages.topic must not be source.kafka.topic followed by `.ranges`: the workers read page ranges from that topic. Use another name"),
    validation = Rule::new("!has(self.foreignMessages) || !has(self.foreignMessages.topic) || self.foreignMessages.topic != (has(self.deadLetterTopic) ? self.deadLetterTopic : self.topic + '.dlq')")
        .message("source.kafka.foreignMessages.topic must differ from the dead-letter topic: a redrive would send the forwarded messages back. Use another name"),
    validation = Rule::new("!has(self.topicConfig) || !('cleanup.policy' in self.topicConfig) || !self.topicConfig['cleanup.policy'].contains('compact')")
        .message("source.kafka.topicConfig must not compact the topics: Kafka would delete a task when a later one has the same key. Remove `compact` from cleanup.policy"),
    validation = Rule::new("!(self.topic in ['.', '..']) && !(has(self.rangesTopic) && self.rangesTopic in ['.', '..']) && !(has(self.deadLetterTopic) && self.deadLetterTopic in ['.', '..']) && !(has(self.foreignMessages) && has(self.foreignMessages.topic) && self.foreignMessages.topic in ['.', '..'])")
        .message("source.kafka: topic, rangesTopic, deadLetterTopic and foreignMessages.topic must not be `.` or `..`, which Kafka refuses. Use another name"),
    validation = Rule::new("!has(self.rangesTopic) || (self.rangesTopic != self.topic && self.rangesTopic != (has(self.deadLetterTopic) ? self.deadLetterTopic : self.topic + '.dlq') && (!has(self.foreignMessages) || !has(self.foreignMessages.topic) || self.rangesTopic != self.foreignMessages.topic))")
        .message("source.kafka.rangesTopic must differ from the topic of the tasks, the dead-letter topic and foreignMessages.topic: their messages are no page ranges"),
    validation = Rule::new("!has(self.s3Event) || (has(self.format) && self.format == 'S3Event')")
        .message("source.kafka.s3Event needs source.kafka.format: S3Event. LAYRA's tasks name their knowledge bases themselves")
)]
pub struct KafkaSource {
    /// Comma-separated list of brokers, `host:port`. Workers and operator must reach them.
    #[schemars(length(min = 1))]
    pub bootstrap_servers: String,

    /// What the messages are. `Layra`: tasks, one for each document. `S3Event`: the notifications
    /// that MinIO and Amazon S3 send when an object of `documents.objectStore.bucket` is written or
    /// removed. The workers then bring the knowledge bases to what the bucket holds, and never
    /// delete an object that they have not written. Immutable. Default: `Layra`.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("source.kafka.format cannot be changed: the messages in the topic have one format. Create another IngestionPipeline")
    )]
    pub format: SourceFormat,

    /// How the objects of the bucket become documents, with `format: S3Event`. Absent: the first
    /// folder of a key names the knowledge base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3_event: Option<S3EventSpec>,

    /// Name of the topic. It is created if it does not exist. Immutable, because a pipeline's
    /// committed offsets belong to its topic. Default: `task_generation`, as in LAYRA.
    #[serde(default = "default_topic")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("source.kafka.topic cannot be changed: create another IngestionPipeline for another topic"),
        validation = Rule::new("self.size() <= 242")
            .message("source.kafka.topic must have at most 242 characters: the names of its other topics consist of it and a suffix such as `.ranges`, and Kafka allows 249. Use a shorter name")
    )]
    pub topic: String,

    /// The workers' consumer group. Default: `task_consumer_group`, as in LAYRA.
    #[serde(default = "default_group")]
    #[schemars(length(min = 1, max = 249))]
    pub consumer_group: String,

    /// Number of partitions of the topic, which is also the maximum number of workers. The operator
    /// adds partitions if the topic has fewer. A number below the topic's is refused with the
    /// condition reason `PartitionsDecreaseRefused`, because Kafka cannot remove partitions.
    /// Default: 10.
    #[serde(default = "default_partitions")]
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: i32,

    /// Whether the operator creates the topics and adds partitions. False, for topics that somebody
    /// else owns: it changes nothing in Kafka, and `TopicReady` shows what is missing
    /// (`TopicMissing`) or different (`PartitionsDiffer`). Default: true.
    #[serde(default = "default_manage_topics")]
    pub manage_topics: bool,

    /// Partitions for each worker of `scaling.maxReplicas`: a raised `maxReplicas` raises the number
    /// of partitions, to their product if that is more than `partitions`. Several for each worker
    /// spread long documents better. Partitions are never removed, and more than the product are
    /// fine. Absent: `partitions` alone counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub partitions_per_replica: Option<i32>,

    /// Replication factor of the topics that the operator creates. It needs at least as many
    /// brokers. Default: 3.
    #[serde(default = "default_replication_factor")]
    #[schemars(range(min = 1, max = 100))]
    pub replication_factor: i32,

    /// Settings of the topics that the operator creates, for example `retention.ms` or
    /// `max.message.bytes`. Topics that exist keep theirs. The dead-letter topic gets all but the
    /// retention: dead letters are kept until they are redriven or deleted. Default: a retention of
    /// 30 days, and from three replicas on `min.insync.replicas` of the majority.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "topic_config_schema")]
    pub topic_config: BTreeMap<String, String>,

    /// The dead-letter topic. It receives tasks that cannot be processed, unchanged, with the
    /// reason in the headers. It is created if it does not exist. Default: the topic's name
    /// followed by `.dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub dead_letter_topic: Option<String>,

    /// The topic for the page ranges of split documents. It is created if it does not exist, and no
    /// other pipeline may read it. Default: the topic's name followed by `.ranges`. A second
    /// pipeline that reads the same topic with another consumer group needs a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub ranges_topic: Option<String>,

    /// Handling of messages that are not document tasks: JSON objects with a `type` key.
    #[serde(default)]
    pub foreign_messages: ForeignMessages,

    /// Session timeout of the consumer group, in seconds: the partitions of a crashed worker are
    /// reassigned after it. A worker that shuts down leaves the group at once. Default: 30.
    #[serde(default = "default_session_timeout")]
    #[schemars(range(min = 6, max = 1800))]
    pub session_timeout_seconds: u32,

    /// The Secret with the credentials and certificates of the connection. Absent: no
    /// authentication and no encryption. Its keys have fixed names, like those of a
    /// `kubernetes.io/tls` Secret. `username` and `password`: SASL. `sasl.mechanism`: `PLAIN` (the
    /// default), `SCRAM-SHA-256` or `SCRAM-SHA-512`. `ca.crt`: the CA certificates of the brokers,
    /// for TLS. `tls.crt` and `tls.key`: the client certificate and its unencrypted key, for mutual
    /// TLS. `security.protocol`: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`; it follows
    /// from the other keys and is needed only for TLS with the system's CA certificates.
    /// Certificates and keys are in PEM format. An empty value counts as absent, and trailing line
    /// breaks are ignored. A Secret with an unused, missing or misspelt key (such as `ca.pem`) is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,

    /// How many messages a worker reads ahead of each partition and keeps until their turn, at most
    /// 32 MiB of a topic. Knowledge bases take turns: a single file of one does not wait for the many
    /// files of another that were sent before it, as far as they are read ahead. With 1, documents
    /// are processed nearly in the order of their partitions. Default: 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub read_ahead_tasks: Option<u32>,

    /// Settings of the workers' Kafka clients. Others, such as heartbeats, records of a poll and
    /// acknowledgements, are chosen by the workers.
    #[serde(default, skip_serializing_if = "KafkaClientSpec::is_default")]
    pub client: KafkaClientSpec,
}

impl KafkaSource {
    /// The number of partitions that the topics of tasks and page ranges should have.
    #[must_use]
    pub fn wanted_partitions(&self, max_replicas: i32) -> i32 {
        let for_replicas = self.partitions_per_replica.map_or(0, |each| {
            each.saturating_mul(max_replicas).min(MOST_PARTITIONS)
        });
        self.partitions.max(for_replicas)
    }

    /// Messages that a worker reads ahead of each partition: the number in the spec or the default.
    #[must_use]
    pub fn read_ahead_tasks(&self) -> u32 {
        self.read_ahead_tasks.unwrap_or(500)
    }

    /// The dead-letter topic: the one in the spec or the default.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        self.dead_letter_topic
            .clone()
            .unwrap_or_else(|| format!("{}.dlq", self.topic))
    }

    /// The topic for the page ranges of split documents: the one in the spec or the default.
    #[must_use]
    pub fn ranges_topic(&self) -> String {
        self.ranges_topic
            .clone()
            .unwrap_or_else(|| format!("{}.ranges", self.topic))
    }
}

/// Handling of messages that are not document tasks. LAYRA sends workflow tasks, which have a
/// `type` key, to the same topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("(has(self.action) && self.action == 'Forward') == has(self.topic)")
        .message("source.kafka.foreignMessages.topic is required with action: Forward and must be absent otherwise")
)]
pub struct ForeignMessages {
    /// `Skip` commits the messages and leaves them to LAYRA's own consumer group. `Forward` copies
    /// them, with key and headers, to `topic`. Default: `Skip`.
    #[serde(default)]
    pub action: ForeignMessageAction,

    /// The topic to which messages are forwarded. It must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic: Option<String>,
}

/// Handling of a message that is not a document task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForeignMessageAction {
    /// Commit it without processing it.
    #[default]
    Skip,
    /// Copy it to another topic, then commit it.
    Forward,
}

/// Bounded, because a rule reads it.
fn topic_config_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

fn default_topic() -> String {
    "task_generation".to_owned()
}

fn default_group() -> String {
    "task_consumer_group".to_owned()
}

fn default_partitions() -> i32 {
    10
}

fn default_manage_topics() -> bool {
    true
}

fn default_replication_factor() -> i32 {
    3
}

fn default_session_timeout() -> u32 {
    30
}
