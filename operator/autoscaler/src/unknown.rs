//! Why the backlog of a pipeline is unknown: each cause with its stable word and its sentence.

use std::fmt;

use super::observation::{Partition, Topic};

/// Why the backlog is unknown. Its `Display` is a sentence without the final period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownBacklog {
    /// A topic has fewer partitions, or an earlier end offset, than at the last observation.
    TopicRecreated {
        /// The topic.
        topic: Topic,
    },
    /// The group's committed offset is past the end of a partition that has records.
    CommittedAheadOfEnd {
        /// The partition.
        partition: Partition,
        /// The group's committed offset.
        committed: i64,
        /// The partition's end offset.
        end: i64,
    },
    /// Partitions are being reassigned, so no worker makes progress on them.
    GroupRebalancing,
    /// The clock was set back, so ages and rates are meaningless.
    ClockStep,
    /// The caller could not read the offsets.
    OffsetsNotRead {
        /// The caller's `CamelCase` word, for example `KafkaUnreachable`.
        reason: &'static str,
        /// The caller's sentence.
        message: String,
    },
}

impl UnknownBacklog {
    /// The stable `CamelCase` word for conditions and the status.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TopicRecreated { .. } => "TopicRecreated",
            Self::CommittedAheadOfEnd { .. } => "CommittedAheadOfEnd",
            Self::GroupRebalancing => "GroupRebalancing",
            Self::ClockStep => "ClockStep",
            Self::OffsetsNotRead { reason, .. } => reason,
        }
    }
}

impl fmt::Display for UnknownBacklog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TopicRecreated { topic } => {
                write!(f, "The {topic} topic was recreated or truncated")
            }
            Self::CommittedAheadOfEnd {
                partition,
                committed,
                end,
            } => write!(
                f,
                "Committed offset {committed} is past the end offset {end} of partition {} of the {} topic: the topic was recreated or truncated",
                partition.number, partition.topic
            ),
            Self::GroupRebalancing => f.write_str("The consumer group is rebalancing"),
            Self::ClockStep => f.write_str("The system clock was set back"),
            Self::OffsetsNotRead { message, .. } => f.write_str(message.trim_end_matches('.')),
        }
    }
}
