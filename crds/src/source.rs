//! The Kafka side of a pipeline.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SecretRef;

/// Where the document tasks come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceSpec {
    /// A Kafka topic with one JSON task per document.
    pub kafka: KafkaSource,
}

/// A Kafka topic with one JSON task per document, and the consumer group that works on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.deadLetterTopic) || self.deadLetterTopic != self.topic")
        .message("deadLetterTopic must differ from topic: a failed task would be consumed again and again"),
    validation = Rule::new("!has(self.foreignMessages) || !has(self.foreignMessages.topic) || self.foreignMessages.topic != self.topic")
        .message("foreignMessages.topic must differ from topic: a forwarded message would be consumed again and again")
)]
pub struct KafkaSource {
    /// Comma-separated list of brokers, `host:port`, as seen from the workers and the operator.
    #[schemars(length(min = 1))]
    pub bootstrap_servers: String,

    /// The topic with the tasks. Created when absent. Cannot be changed: a pipeline's offsets
    /// belong to its topic. Default: `task_generation`, LAYRA's own.
    #[serde(default = "default_topic")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("source.kafka.topic cannot be changed: create another IngestionPipeline for another topic"))]
    pub topic: String,

    /// The workers' consumer group. Default: `task_consumer_group`, LAYRA's own.
    #[serde(default = "default_group")]
    #[schemars(length(min = 1, max = 249))]
    pub consumer_group: String,

    /// Partitions of the topic, the upper bound for workers. Raised when the topic has fewer; a
    /// lower number than the topic has is refused with a condition, because Kafka cannot remove
    /// partitions. Default: 10.
    #[serde(default = "default_partitions")]
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: i32,

    /// Replicas of each partition of a topic that the operator creates. Needs as many brokers.
    /// Default: 3.
    #[serde(default = "default_replication_factor")]
    #[schemars(range(min = 1, max = 100))]
    pub replication_factor: i32,

    /// Where tasks go that cannot be processed, unchanged, with the reason in the headers. Created
    /// when absent. Default: the topic's name followed by `.dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub dead_letter_topic: Option<String>,

    /// What to do with messages that are not document tasks (a JSON object with a `type` key).
    #[serde(default)]
    pub foreign_messages: ForeignMessages,

    /// Seconds after which the group gives away the partitions of a worker that died without a
    /// word. One that leaves in order gives them away at once. Default: 30.
    #[serde(default = "default_session_timeout")]
    #[schemars(range(min = 6, max = 1800))]
    pub session_timeout_seconds: u32,

    /// Secret with the connection's security. Absent: no login, no encryption. Keys: `username`
    /// and `password` for SASL; `sasl.mechanism` (PLAIN, the default, SCRAM-SHA-256 or
    /// SCRAM-SHA-512); `ca.crt` with the brokers' authorities for TLS; `tls.crt` and `tls.key` for
    /// mutual TLS, both in PEM form, the key without a passphrase; `security.protocol` (PLAINTEXT,
    /// SSL, `SASL_PLAINTEXT`, `SASL_SSL`), which follows from the others and has to be given only
    /// for TLS with the system's authorities. An empty value counts as absent, line breaks at the
    /// end do not count. A combination that leaves a key unused or incomplete is refused, and so is
    /// a key of another name that looks meant for the connection, such as `ca.pem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,
}

impl KafkaSource {
    /// The dead-letter topic, whether named or derived.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        self.dead_letter_topic
            .clone()
            .unwrap_or_else(|| format!("{}.dlq", self.topic))
    }

    /// The pipeline's own topic for the ranges of documents that were split.
    #[must_use]
    pub fn ranges_topic(&self) -> String {
        format!("{}.ranges", self.topic)
    }
}

/// What to do with messages that are not document tasks. LAYRA sends workflow tasks, which carry a
/// `type` key, to the same topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("(has(self.action) && self.action == 'Forward') == has(self.topic)")
        .message("foreignMessages.topic is required with action Forward, and only then")
)]
pub struct ForeignMessages {
    /// `Skip`: leave them to LAYRA's own consumer, which reads the topic with another group.
    /// `Forward`: copy them, key and headers included, to `topic`. Default: `Skip`.
    #[serde(default)]
    pub action: ForeignMessageAction,

    /// The topic that foreign messages are copied to. It must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic: Option<String>,
}

/// What to do with a message that is not a document task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForeignMessageAction {
    /// Commit it and do nothing.
    #[default]
    Skip,
    /// Copy it to another topic, then commit it.
    Forward,
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

fn default_replication_factor() -> i32 {
    3
}

fn default_session_timeout() -> u32 {
    30
}
