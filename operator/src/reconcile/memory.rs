//! What the operator remembers of a pipeline between two reconciles. Losing it, with the process,
//! costs a few reads and keeps workers a little longer; nothing else depends on it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use layra_autoscaler::Counts;

use super::world::{Applied, Problem, TopicFailure, Topics};
use crate::{
    milvus::IndexReport,
};

/// What is remembered of one pipeline.
#[derive(Default)]
pub(crate) struct Memory {
    /// The object that this is about; another one of the same name starts anew.
    pub(crate) uid: Option<String>,
    /// What the autoscaler remembers; made with the first decision.
    pub(crate) autoscaler: Option<layra_autoscaler::Memory>,
    /// What the workers counted when they were asked last.
    pub(crate) counts: Option<(Timestamp, BTreeMap<String, Counts>)>,
    /// The topics as they were seen last.
    pub(crate) topics: Option<(Timestamp, Topics)>,
    /// The last change to a topic that Kafka refused.
    pub(crate) topic_failure: Option<TopicFailure>,
    /// Objects that were applied lately and are still not as they should be.
    pub(crate) applied: Vec<Applied>,
    /// The last comparison of indexes.
    pub(crate) indexes: Option<IndexCheck>,
    /// When the status was written last.
    pub(crate) reported: Option<Timestamp>,
    /// Reconciles that failed in a row.
    pub(crate) failures: u32,
}

/// A comparison of indexes.
pub(crate) struct IndexCheck {
    /// When.
    pub(crate) at: Timestamp,
    /// The generation of the spec that it was made for.
    pub(crate) generation: Option<i64>,
    /// What it found.
    pub(crate) result: Result<IndexReport, Problem>,
}
