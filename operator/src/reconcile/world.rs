//! What a reconcile has seen. Plain data: `observe` fills it, `plan` reads it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
    policy::v1::PodDisruptionBudget,
};
use layra_autoscaler::{Backlog, Counts};
use layra_crds::SecretKind;

use super::pods::WorkerPod;
use crate::{
    kafka::{Connection, TopicState},
    milvus::IndexReport,
    resources::Kind,
};

/// Everything that a plan depends on, beside the pipeline itself and the clock.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The pipeline's objects as they are.
    pub(crate) live: Live,
    /// The worker pods.
    pub(crate) pods: Vec<WorkerPod>,
    /// The Secrets that the pipeline names.
    pub(crate) secrets: Vec<SecretSeen>,
    /// Hash of all Secrets' data; `None` unless all could be read.
    pub(crate) secrets_hash: Option<String>,
    /// How to reach Kafka.
    pub(crate) kafka: Result<Connection, Problem>,
    /// The topics, at most half a minute old.
    pub(crate) topics: Result<Topics, Problem>,
    /// The offsets.
    pub(crate) backlog: Result<Backlog, Problem>,
    /// What the workers counted, by pod; without those that do not answer.
    pub(crate) counts: BTreeMap<String, Counts>,
    /// What became of earlier writes.
    pub(crate) past_writes: PastWrites,
    /// The last comparison of the collections' indexes, at most some minutes old.
    pub(crate) indexes: Result<IndexReport, Problem>,
}

/// The pipeline's objects as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(crate) config_map: Option<Arc<ConfigMap>>,
    pub(crate) deployment: Option<Arc<Deployment>>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) disruption_budget: Option<Arc<PodDisruptionBudget>>,
}

/// The topics of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topics {
    /// Brokers that are alive.
    pub(crate) brokers: usize,
    /// The topic with the tasks.
    pub(crate) tasks: TopicState,
    /// The topic with the ranges of documents that were split.
    pub(crate) ranges: TopicState,
    /// The topic for failed tasks.
    pub(crate) dead_letters: TopicState,
}

impl World {
    /// A world in which nothing was seen yet, for tests to fill in.
    #[cfg(test)]
    pub(crate) fn unseen() -> Self {
        let unknown = || Problem::new("KafkaUnreachable", "no answer");
        Self {
            live: Live::default(),
            pods: Vec::new(),
            secrets: Vec::new(),
            secrets_hash: None,
            kafka: Err(unknown()),
            topics: Err(unknown()),
            backlog: Err(unknown()),
            counts: BTreeMap::new(),
            past_writes: PastWrites::default(),
            indexes: Ok(IndexReport::default()),
        }
    }

    /// Messages that are not done.
    pub(crate) fn lag(&self) -> Option<i64> {
        self.backlog.as_ref().ok().map(Backlog::lag)
    }
}

impl Topics {
    /// The number of partitions of the topic with the tasks.
    pub(crate) fn partitions(&self) -> Option<i32> {
        match self.tasks {
            TopicState::Present { partitions } => Some(partitions),
            TopicState::Absent => None,
        }
    }
}

/// What became of earlier writes, for as long as it matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct PastWrites {
    /// The last change to a topic that Kafka refused.
    pub(crate) topic_failure: Option<TopicFailure>,
    /// Objects that were applied lately and are still not as they should be.
    pub(crate) applied: Vec<Applied>,
    /// The last dry run of the Deployment.
    pub(crate) dry_run: Option<DryRunResult>,
}

/// The API server's answer to a dry run of the Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DryRunResult {
    /// Hash of the pod template.
    pub(crate) template: String,
    /// When it answered.
    pub(crate) at: Timestamp,
    /// Its message if it refused the Deployment.
    pub(crate) refusal: Option<String>,
}

/// A change to a topic that Kafka refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicFailure {
    /// The topic.
    pub(crate) topic: String,
    /// When.
    pub(crate) at: Timestamp,
    /// What Kafka said.
    pub(crate) message: String,
}

/// An object that was applied lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// What was applied, and onto what.
    pub(crate) write: Write,
    /// When.
    pub(crate) at: Timestamp,
}

/// A write of an object. The same one a second time changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The object's kind.
    pub(crate) kind: Kind,
    /// Hash of what is applied.
    pub(crate) hash: String,
    /// Hash of what was there, `None` if nothing was.
    pub(crate) onto: Option<String>,
}

/// A Secret that the pipeline names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretSeen {
    /// What it is for.
    pub(crate) kind: SecretKind,
    /// Its name.
    pub(crate) name: String,
    /// Whether it can be used.
    pub(crate) problem: Option<Problem>,
}

/// Why something is not as it should be: a stable word for machines, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `CamelCase`, part of the API.
    pub(crate) reason: &'static str,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl Problem {
    /// A problem.
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
