//! What the operator needs of Kafka: topics, offsets, and the two topic actions. One reader for each
//! cluster serves all its pipelines, in batches, and asks only for their own topics. It never joins
//! a consumer group, never commits, and never reads a message.

mod admin;
mod board;
mod changes;
mod clients;
mod cluster;
mod connection;
mod reader;

use layra_autoscaler::Backlog;

pub(crate) use board::Asker;
pub(crate) use clients::KafkaClients;
pub(crate) use connection::Connection;

/// What a pipeline wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// The topic with the tasks.
    pub(crate) topic: String,
    /// The topic with the ranges of documents that were split.
    pub(crate) ranges_topic: String,
    /// The topic for failed tasks.
    pub(crate) dead_letter_topic: String,
    /// The workers' group.
    pub(crate) consumer_group: String,
}

impl Question {
    fn topics(&self) -> [&str; 3] {
        [&self.topic, &self.ranges_topic, &self.dead_letter_topic]
    }
}

/// What the cluster answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Brokers that are alive.
    pub(crate) brokers: usize,
    /// The topic with the tasks.
    pub(crate) topic: TopicState,
    /// The topic with the ranges.
    pub(crate) ranges_topic: TopicState,
    /// The topic for failed tasks.
    pub(crate) dead_letter_topic: TopicState,
    /// The offsets of tasks and ranges, or why they are unknown.
    pub(crate) backlog: Result<Backlog, KafkaError>,
}

/// A topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// There is none of this name.
    Absent,
    /// It exists.
    Present {
        /// Its number of partitions.
        partitions: i32,
    },
}

/// A change to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicAction {
    /// Make a topic.
    Create {
        /// Its name.
        topic: String,
        /// Its number of partitions.
        partitions: i32,
        /// Replicas of each partition.
        replication_factor: i32,
        /// Settings that differ from the brokers' defaults.
        config: Vec<(&'static str, String)>,
    },
    /// Give a topic more partitions.
    AddPartitions {
        /// Its name.
        topic: String,
        /// The new number.
        partitions: i32,
    },
}

impl TopicAction {
    /// The topic that it changes.
    pub(crate) fn topic(&self) -> &str {
        match self {
            Self::Create { topic, .. } | Self::AddPartitions { topic, .. } => topic,
        }
    }
}

/// Why Kafka did not answer, or refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KafkaError {
    /// The client cannot be made from what the user gave.
    #[error("the connection's settings are not usable: {0}")]
    Settings(String),
    /// No answer, or an error on the way.
    #[error("{0}")]
    Unreachable(String),
    /// The cluster said no.
    #[error("{0}")]
    Refused(String),
}
