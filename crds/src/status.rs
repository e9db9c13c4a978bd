//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator observed and did last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestionPipelineStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, TopicReady, VectorStoreReady, WorkersAvailable, Scaling; Reconciling and Stalled
    /// only while they are true (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,

    /// Worker pods that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Worker pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Label selector of the worker pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Tasks in the topic that are not yet done. Absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// The last scaling decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,

    /// The model that the newest worker fetched. Kept while there is no worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,

    /// Collections of this pipeline whose index is not the one in the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifted_collections: Vec<DriftedCollection>,
}

/// A model as a worker fetched it, before it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// SHA-256 over the names and SHA-256 sums of all its files, adapter included: two workers
    /// with the same one compute the same vectors.
    pub checksum: String,

    /// Width of the vectors, from the checkpoint.
    pub dimensions: u32,

    /// Size of all its files.
    pub bytes: u64,

    /// The commit that `hf://` was resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A scaling decision and its explanation. It is written when the decision or its reason changes;
/// the numbers are those of that moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Workers asked for; in mode `Recommend`, those that would be.
    pub desired_replicas: i32,

    /// What decided, in one word: `Idle`, `KeepingUp` (with arrivals), `Draining` (the backlog),
    /// `Manual`, `Paused`, or why the backlog is unknown.
    #[serde(default)]
    pub reason: String,

    /// One sentence: why this many.
    pub message: String,

    /// What kept the number from following the work alone: `Floor`, `MaxReplicas`, `Partitions`,
    /// `PartitionsWithWork`, `PendingWorkers`, `IneffectiveScaleUp`, `DrainTargetAtRisk`,
    /// `Settling`, `MetricsMissing`, `ScaleDownDelay`, `Unknown`, `Fallback`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,

    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<ScalingInputs>,

    /// What the law made of it. Absent while the backlog is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<ScalingTerms>,

    /// What is known of the workers; a restarted operator goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedStatus>,

    /// Partitions whose work does not move, as `tasks/3` or `ranges/0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck_partitions: Vec<String>,

    /// When `desiredReplicas` changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
}

/// What a scaling decision saw. Absent: not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingInputs {
    /// Documents that are not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<i64>,

    /// Ranges of split documents that are not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<i64>,

    /// Pages of both, by the pages that a document has on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<f64>,

    /// Seconds that the oldest of them has waited, at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<f64>,

    /// Pages that arrive a second, over the last five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving_pages_per_second: Option<f64>,

    /// Partitions of the topic with the tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,

    /// Partitions with work, of both topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions_with_work: Option<u32>,

    /// Workers that work.
    #[serde(default)]
    pub ready_workers: u32,

    /// Workers that start.
    #[serde(default)]
    pub starting_workers: u32,

    /// Workers that wait for a node.
    #[serde(default)]
    pub waiting_workers: u32,
}

/// The terms of a scaling decision, in workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingTerms {
    /// To keep up with arrivals at the target utilisation.
    pub for_arrivals: u32,

    /// To get done what waits within the drain target.
    pub for_backlog: u32,

    /// The larger of the two with a tenth of the speed in hand: no worker above this is needed.
    pub to_scale_down: u32,

    /// The fewest: `minReplicas`, or the floor of this time.
    pub floor: u32,

    /// The most, by `maxReplicas` and the partitions.
    pub ceiling: u32,

    /// The most that were wanted within the scale-down delay. Absent: it has not passed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,

    /// The scale-down delay, in seconds.
    pub window_seconds: i64,
}

/// What is known of the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedStatus {
    /// Pages a second of one worker that has work.
    pub pages_per_second: f64,

    /// Pages of a document.
    pub pages_per_document: f64,

    /// Seconds from a node to the first readiness: image, model, warm-up.
    pub startup_seconds: f64,

    /// Seconds of the longest piece of work seen.
    pub longest_work_seconds: f64,
}

/// A collection whose index is not the one in the spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftedCollection {
    /// Name of the collection.
    pub name: String,

    /// What differs, for example `M is 16, want 32`.
    pub difference: String,
}
