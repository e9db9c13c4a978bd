//! The status that the operator writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IndexStatus;
use crate::ModelReference;
use crate::QueryStatus;
use crate::RetentionStatus;

/// The observed state of the pipeline and the last scaling decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestionPipelineStatus {
    /// The `metadata.generation` that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `TopicReady`, `VectorStoreReady`, `WorkersAvailable` and `Scaling`, and `QueryReady`
    /// with `spec.query`. `Reconciling` and `Stalled` are present only while they are true (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,

    /// Number of worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Number of ready worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Label selector of the worker pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Consumer lag: tasks and page ranges that are not yet processed. A lower bound while the
    /// condition `Scaling` has the reason `PartitionsUnread`. Absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// The last scaling decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,

    /// The model that the newest worker downloaded. It stays while there are no workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,

    /// The checkpoint that all workers load: the one that the first worker found at the addresses
    /// in `embedding.model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_reference: Option<ModelReference>,

    /// What is missing on the pages that the running workers have stored. It stays while there are
    /// no workers. Absent: no page was stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PagesStatus>,

    /// The settings that tie the pipeline to the documents that it has processed. A change of one
    /// must be confirmed. Absent: no worker has run yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<ConfirmedStatus>,

    /// Number of this pipeline's collections whose index differs from the spec. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted_collection_count: Option<i64>,

    /// The first 20 collections, by name, whose index differs from the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifted_collections: Vec<DriftedCollection>,

    /// The indexes of the pipeline's collections, and their rebuild. Absent: no collection exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexStatus>,

    /// The models of the pipeline's collections, and the Job that embeds them again. Absent: unknown,
    /// or no collection exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<IndexStatus>,

    /// The first 20 collections, by name, whose vectors are of another model than the pipeline's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_model_collections: Vec<DriftedCollection>,

    /// The pods that answer questions. Absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryStatus>,

    /// The last run of `stores.milvus.retention`. Absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionStatus>,
}

/// Which part of the pages that the running workers have stored since their start cannot be found,
/// or only in part, in whole percent, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PagesStatus {
    /// Pages on which something is drawn, without text. A model that reads text finds none of them:
    /// use one that reads images.
    pub without_text_percent: u32,

    /// Pages of one colour, without text.
    pub blank_percent: u32,

    /// Pages with letters that were not drawn, because neither the document nor the worker's image
    /// has a font for them. A model that reads images does not find these words.
    pub missing_glyphs_percent: u32,
}

/// The settings that tie a pipeline to the documents that it has processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfirmedStatus {
    /// `source.kafka.consumerGroup`.
    pub consumer_group: String,

    /// `source.kafka.rangesTopic`, or its default.
    pub ranges_topic: String,

    /// `stores.milvus.collection`.
    pub collection: String,

    /// `stores.mongodb.database`.
    pub database: String,

    /// `embedding.model.family`.
    pub model_family: String,
}

/// The model files that a worker downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// SHA-256 of the names and SHA-256 sums of all files, including the adapter's. Workers with
    /// the same checksum compute the same vectors.
    pub checksum: String,

    /// Dimensions of the vectors.
    pub dimensions: u32,

    /// Total size of the files in bytes.
    pub bytes: u64,

    /// The commit that an `hf://` address was resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A scaling decision and its explanation. It is updated when the decision, its reason or what was
/// learned changes; all its numbers are from that time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Desired number of workers. In mode `Recommend` the operator does not apply it.
    pub desired_replicas: i32,

    /// Reason of the decision: `Idle`, `KeepingUp` (with arrivals), `Draining` (the backlog),
    /// `Rechecking` (finished documents), `Manual`, `Paused`, or why the backlog is unknown.
    #[serde(default)]
    pub reason: String,

    /// Explanation of the decision.
    pub message: String,

    /// Limits that changed the number: `Floor`, `MaxReplicas`, `Partitions`,
    /// `PartitionsWithWork`, `Activation`, `StoresAway`, `QuotaReached`, `PendingWorkers`,
    /// `IneffectiveScaleUp`,
    /// `DrainTargetAtRisk`, `Settling`, `MetricsMissing`, `PartitionsUnread`, `ScaleDownDelay`,
    /// `Unknown`, `Fallback`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,

    /// Observations that the decision is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<ScalingInputs>,

    /// Terms of the calculation. Absent while the backlog is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<ScalingTerms>,

    /// Measured characteristics of the workers. A restarted operator continues with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedStatus>,

    /// The last value of the annotation `ingest.layra.io/forget-learned` that the operator handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<String>,

    /// Documents whose recheck was due within 15 minutes when a worker last reported. One worker
    /// runs, or starts, for them. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_rechecks: Option<u64>,

    /// The number in `scaling.replicas` that the operator wrote, and nobody has changed since. It
    /// applies only as long as the mode stays `Manual`: the next time that the mode becomes
    /// `Manual`, the operator writes the current number of workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_replicas: Option<i32>,

    /// Partitions without progress, as `tasks/3` or `ranges/0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck_partitions: Vec<String>,

    /// Time of the last change of `desiredReplicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
}

/// Observations that a scaling decision is based on. An absent value is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingInputs {
    /// Documents in the backlog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<i64>,

    /// Page ranges of split documents in the backlog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<i64>,

    /// Estimated pages in the backlog: documents count with the average number of pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<f64>,

    /// Minimum age of the oldest task in the backlog, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<f64>,

    /// Arriving pages per second, over the last five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving_pages_per_second: Option<f64>,

    /// Partitions of the tasks' topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,

    /// Partitions of both topics that have a backlog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions_with_work: Option<u32>,

    /// Ready workers.
    #[serde(default)]
    pub ready_workers: u32,

    /// Starting workers, and those that are not ready because a server does not respond.
    #[serde(default)]
    pub starting_workers: u32,

    /// Pending workers, which wait for a node or for a quota system.
    #[serde(default)]
    pub waiting_workers: u32,
}

/// The terms of a scaling decision, in workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingTerms {
    /// Workers needed to keep up with arrivals at the target utilization.
    pub for_arrivals: u32,

    /// Workers needed to process the backlog within the drain target.
    pub for_backlog: u32,

    /// Workers needed if they were a tenth slower. Workers above this number may be stopped.
    pub to_scale_down: u32,

    /// Minimum: `minReplicas` or the scheduled floor.
    pub floor: u32,

    /// Maximum: the lower of `maxReplicas` and the partitions.
    pub ceiling: u32,

    /// Largest number needed within the scale-down delay. Absent: the delay has not passed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,

    /// The scale-down delay, in seconds.
    pub window_seconds: i64,
}

/// Measured characteristics of the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedStatus {
    /// Pages per second of one worker while it works, without time in which it waits for servers.
    pub pages_per_second: f64,

    /// Average pages of a document.
    pub pages_per_document: f64,

    /// Seconds from a pod's creation to its placement on a node: 0 while nodes have room. Median of
    /// the last workers.
    #[serde(default)]
    pub provisioning_seconds: f64,

    /// Seconds from placement to readiness: image pull, model download and warm-up. Median of
    /// the last workers.
    pub startup_seconds: f64,

    /// Longest processing time of a recent document or page range, in seconds. It decays.
    pub longest_work_seconds: f64,
}

/// A collection whose index differs from the spec, or whose vectors are of another model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftedCollection {
    /// Name of the collection.
    pub name: String,

    /// The difference, for example `M is 16, want 32`, or both models.
    pub difference: String,
}
