//! The operator's access to Kafka: reads topics and offsets, creates and extends topics. One reader
//! for each cluster serves all its pipelines in batches and asks only for their topics. It never
//! joins a consumer group, never commits, and never reads a message.

mod admin;
mod backlog;
mod clients;
mod cluster;
mod connection;
mod past;
mod reader;
mod subscriptions;
mod topic_changes;
mod topic_settings;

use layra_autoscaler::Backlog;

pub(crate) use clients::KafkaClients;
pub(crate) use connection::Connection;
pub(crate) use subscriptions::Subscriber;
pub(crate) use topic_settings::TopicSettings;

/// The topics and the consumer group that a pipeline asks about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// The topic with the tasks.
    pub(crate) topic: String,
    /// The topic with the page ranges of documents that were split.
    pub(crate) ranges_topic: String,
    pub(crate) dead_letter_topic: String,
    pub(crate) consumer_group: String,
}

impl Question {
    fn topics(&self) -> [&str; 3] {
        [&self.topic, &self.ranges_topic, &self.dead_letter_topic]
    }
}

/// The answer of a cluster to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Number of brokers that are alive.
    pub(crate) brokers: usize,
    pub(crate) topic: TopicState,
    pub(crate) ranges_topic: TopicState,
    pub(crate) dead_letter_topic: TopicState,
    /// The settings of these three, at most some minutes old; `None`: not read yet.
    pub(crate) settings: [Option<TopicSettings>; 3],
    /// The offsets of tasks and page ranges, or why they are unknown.
    pub(crate) backlog: Result<Backlog, KafkaError>,
}

/// Whether a topic exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicState {
    Absent,
    Present { partitions: i32 },
}

/// A change of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicAction {
    Create {
        topic: String,
        partitions: i32,
        replication_factor: i32,
        /// Settings that differ from the brokers' defaults.
        config: Vec<(String, String)>,
    },
    AddPartitions {
        topic: String,
        /// The new total.
        partitions: i32,
    },
}

impl TopicAction {
    pub(crate) fn topic(&self) -> &str {
        match self {
            Self::Create { topic, .. } | Self::AddPartitions { topic, .. } => topic,
        }
    }

    /// The partitions of the topic after the change.
    pub(crate) fn partitions(&self) -> i32 {
        match self {
            Self::Create { partitions, .. } | Self::AddPartitions { partitions, .. } => *partitions,
        }
    }
}

/// Why a request to Kafka failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KafkaError {
    /// The client cannot be created with the settings from the spec and the Secret.
    #[error("the Kafka client cannot be created: {0}")]
    Settings(String),
    /// No answer, or a network error.
    #[error("{0}")]
    Unreachable(String),
    /// The cluster does not allow the user to do this.
    #[error("{0}")]
    Unauthorized(String),
    /// The cluster answered with an error.
    #[error("{0}")]
    Refused(String),
}
