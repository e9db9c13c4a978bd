//! The observed state of a pipeline. Plain data: `observe` fills it, `plan` reads it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{ConfigMap, Service},
    policy::v1::PodDisruptionBudget,
};
use layra_autoscaler::{Backlog, Counts, requests::Reading};
use layra_crds::SecretKind;

use super::{
    counts::Reports, pods::WorkerPod, reason::Reason, rebuild_job::RebuildJob,
    retention_runs::RetentionRun, rivals::Rival,
};
use crate::{
    kafka::{Connection, TopicSettings, TopicState},
    milvus::IndexReport,
    resources::{Difference, JobKind, Kind},
};

/// Everything that a plan depends on in addition to the pipeline and the time.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) live: Live,
    /// The runs of retention that have ended, the oldest first.
    pub(crate) retention_runs: Vec<RetentionRun>,
    pub(crate) pods: Vec<WorkerPod>,
    /// The pods that answer questions.
    pub(crate) query_pods: Vec<WorkerPod>,
    /// The requests in flight in them, in the last minutes.
    pub(crate) requests: Vec<Reading>,
    /// The Secrets that the pipeline names.
    pub(crate) secrets: Vec<SecretState>,
    /// Hash of what workers read of the Secrets; `None` unless all can be used.
    pub(crate) secrets_hash: Option<String>,
    pub(crate) kafka: Result<Connection, Problem>,
    /// The topics, at most 30 seconds old.
    pub(crate) topics: Result<Topics, Problem>,
    /// The settings of the topics of tasks, page ranges and dead letters, as far as they are known.
    pub(crate) topic_settings: [Option<TopicSettings>; 3],
    /// The offsets of tasks and page ranges.
    pub(crate) backlog: Result<Backlog, Problem>,
    /// The counts of the workers that answered, by pod.
    pub(crate) counts: BTreeMap<String, Counts>,
    /// What these workers report about the pipeline as a whole.
    pub(crate) reports: Reports,
    /// Earlier writes that matter to the plan.
    pub(crate) past_writes: PastWrites,
    /// The last check of the collections' indexes.
    pub(crate) indexes: Result<IndexReport, Problem>,
    /// The Job that rebuilds collections with another index.
    pub(crate) rebuild_job: Option<RebuildJob>,
    /// Why this pipeline begins no rebuild: another one has the same collections.
    pub(crate) rebuild_obstacle: Option<String>,
    /// The Job that embeds collections of another model again.
    pub(crate) reembed_job: Option<RebuildJob>,
    /// Its pods. They may be the first to fetch the model.
    pub(crate) reembed_pods: Vec<WorkerPod>,
    /// Why this pipeline embeds nothing again: another one has the same collections.
    pub(crate) reembed_obstacle: Option<String>,
    /// Older pipelines that may be in conflict with this one, the oldest first.
    pub(crate) rivals: Vec<Rival>,
    /// The pipelines of a watched namespace are not known: there may be more of those.
    pub(crate) has_unlisted_rivals: bool,
}

/// The objects of the pipeline in the watch caches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    pub(crate) config_map: Option<Arc<ConfigMap>>,
    pub(crate) deployment: Option<Arc<Deployment>>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) disruption_budget: Option<Arc<PodDisruptionBudget>>,
    pub(crate) retention: Option<Arc<CronJob>>,
    pub(crate) query: LiveQuery,
}

/// The objects of the pods that answer questions.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveQuery {
    pub(crate) deployment: Option<Arc<Deployment>>,
    pub(crate) disruption_budget: Option<Arc<PodDisruptionBudget>>,
    /// Also those of earlier names.
    pub(crate) services: Vec<Arc<Service>>,
}

/// The topics of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topics {
    /// Number of brokers that are alive.
    pub(crate) brokers: usize,
    pub(crate) tasks: TopicState,
    /// The topic with the page ranges of documents that were split.
    pub(crate) ranges: TopicState,
    pub(crate) dead_letters: TopicState,
}

impl World {
    /// A world in which nothing was observed yet, for tests to fill in.
    #[cfg(test)]
    pub(crate) fn unobserved() -> Self {
        let unknown = || Problem::new(Reason::KafkaUnreachable, "no response");
        Self {
            live: Live::default(),
            retention_runs: Vec::new(),
            pods: Vec::new(),
            query_pods: Vec::new(),
            requests: Vec::new(),
            secrets: Vec::new(),
            secrets_hash: None,
            kafka: Err(unknown()),
            topics: Err(unknown()),
            topic_settings: [None; 3],
            backlog: Err(unknown()),
            counts: BTreeMap::new(),
            reports: Reports::default(),
            past_writes: PastWrites::default(),
            indexes: Ok(IndexReport::default()),
            rebuild_job: None,
            rebuild_obstacle: None,
            reembed_job: None,
            reembed_pods: Vec::new(),
            reembed_obstacle: None,
            rivals: Vec::new(),
            has_unlisted_rivals: false,
        }
    }

    /// The live Job of this kind.
    pub(crate) fn job(&self, kind: JobKind) -> Option<&RebuildJob> {
        match kind {
            JobKind::Reindex => self.rebuild_job.as_ref(),
            JobKind::Reembed => self.reembed_job.as_ref(),
        }
    }

    /// Why no such Job begins anything.
    pub(crate) fn obstacle(&self, kind: JobKind) -> Option<&str> {
        match kind {
            JobKind::Reindex => self.rebuild_obstacle.as_deref(),
            JobKind::Reembed => self.reembed_obstacle.as_deref(),
        }
    }

    /// Messages that are not processed yet.
    pub(crate) fn lag(&self) -> Option<i64> {
        self.backlog.as_ref().ok().map(Backlog::lag)
    }
}

impl Topics {
    /// Number of partitions of the tasks topic.
    pub(crate) fn partitions(&self) -> Option<i32> {
        match self.tasks {
            TopicState::Present { partitions } => Some(partitions),
            TopicState::Absent => None,
        }
    }
}

/// Earlier writes, for as long as they matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct PastWrites {
    /// The last change of each topic, if it failed.
    pub(crate) topic_failures: Vec<TopicFailure>,
    /// Objects that were applied recently and are still outdated.
    pub(crate) applied: Vec<Applied>,
    /// The last dry run of the Deployment.
    pub(crate) dry_run: Option<DryRunResult>,
    /// The last write of each object, if it failed.
    pub(crate) refusals: Vec<Refusal>,
    /// What another writer, such as an admission webhook, made of the last write of each object.
    pub(crate) overrides: Vec<Override>,
    /// Why a Job that replaces collections could not be created, the last time.
    pub(crate) job_failure: Option<JobFailure>,
}

impl PastWrites {
    /// What another writer made of the last write of this object.
    pub(crate) fn overrides(&self, kind: Kind) -> &[Difference] {
        self.overrides
            .iter()
            .find(|other| other.kind == kind)
            .map_or(&[], |other| &other.differences)
    }
}

/// A Job that could not be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobFailure {
    pub(crate) kind: JobKind,
    /// Hash of what it would have read.
    pub(crate) hash: String,
    pub(crate) at: Timestamp,
    /// Full sentences.
    pub(crate) words: String,
}

/// An object that was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    /// Hash of the object.
    pub(crate) hash: String,
    /// Generation of the pipeline.
    pub(crate) generation: Option<i64>,
    pub(crate) at: Timestamp,
    /// Consecutive attempts that failed.
    pub(crate) attempts: u32,
    pub(crate) cause: RefusalCause,
}

/// Why an object was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RefusalCause {
    /// An object of this name belongs to something else.
    NameTaken,
    /// The API server refused the object itself, in these words.
    Refused(String),
    /// The request failed, with this error.
    Failed(String),
}

/// The fields of an object that another writer changed while it was applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Override {
    pub(crate) kind: Kind,
    pub(crate) differences: Vec<Difference>,
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

/// A change of a topic that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicFailure {
    pub(crate) topic: String,
    pub(crate) at: Timestamp,
    /// Kafka's error.
    pub(crate) message: String,
}

/// An object that was applied recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) write: Write,
    pub(crate) at: Timestamp,
}

/// A write of an object. An equal write changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) kind: Kind,
    /// Hash of the applied object.
    pub(crate) hash: String,
    /// Hash of the object before the write, `None` if there was none.
    pub(crate) onto: Option<String>,
}

/// A Secret that the pipeline names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretState {
    pub(crate) kind: SecretKind,
    pub(crate) name: String,
    /// Why it cannot be used.
    pub(crate) problem: Option<Problem>,
}

/// Something that keeps the pipeline from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: Reason,
    /// Full sentences: what is wrong and what to do.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
