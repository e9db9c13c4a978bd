//! The indexes and the models of a pipeline's collections in its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The indexes, or the models, of a pipeline's collections, and the rebuild of those that differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexStatus {
    /// Number of the pipeline's collections.
    #[serde(default)]
    pub collections: i64,

    /// Number of those whose index, or model, differs from the spec.
    #[serde(default)]
    pub drifted: i64,

    /// Number of those that are being rebuilt.
    #[serde(default)]
    pub rebuilding: i64,

    /// Number of collections that were rebuilt since `startTime`, or by the last rebuild.
    #[serde(default)]
    pub done: i64,

    /// Number of collections whose rebuild failed.
    #[serde(default)]
    pub failed: i64,

    /// Estimated seconds until all are rebuilt. Absent: unknown, or nothing is being rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,

    /// What the Job `NAME-reindex`, or `NAME-reembed`, does or waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// At most 20 collections: those being rebuilt, those that failed, then the latest that are
    /// done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilds: Vec<CollectionRebuild>,

    /// When the rebuild began. Absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// The last Job that has ended, or was stopped. Absent: none since the last rebuild was
    /// complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<EndedJob>,

    /// In `models`: the checksum and `poolFactor` of the model that the collections were compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// The rebuild of one collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectionRebuild {
    /// Name of the collection.
    pub name: String,

    /// `Copying`, `Indexing`, `Verifying`, `Swapping`, `Done` or `Failed`.
    pub phase: String,

    /// Vectors in the new collection.
    #[serde(default)]
    pub copied: i64,

    /// Vectors of the collection.
    #[serde(default)]
    pub total: i64,

    /// What it waits for or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A Job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedJob {
    /// UID of the Job. Empty: it could not be created.
    pub uid: String,

    /// Hash of what it read.
    #[serde(default)]
    pub hash: String,

    /// When it ended.
    pub time: Time,

    /// Why it failed. Absent: it succeeded, or the operator stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,

    /// It may have left a collection half rebuilt, which the next Job finishes.
    #[serde(default)]
    pub unfinished: bool,

    /// Jobs that have ended since a collection was last rebuilt. The pause before the next one grows
    /// with it.
    #[serde(default)]
    pub fruitless: i64,
}
