//! What retention did, in the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The last run of retention. Only its events name every collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// When the last run that the operator has seen ended.
    pub last_run_time: Time,

    /// Number of unused collections that have notice. With `dryRun`: those that would be handled.
    #[serde(default)]
    pub noticed: i64,

    /// Number of collections that the run released, archived or deleted.
    #[serde(default)]
    pub acted: i64,

    /// Number of collections that the run could not release, archive or delete.
    #[serde(default)]
    pub failed: i64,

    /// What the run did, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
