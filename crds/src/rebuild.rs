//! What happens to collections whose index differs from the object's, or whose vectors are of another
//! model.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to collections whose index differs from the object's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnIndexDrift {
    /// They are reported.
    #[default]
    Report,
    /// Each is released, gets the new index and is loaded again. Nothing finds its pages meanwhile.
    RebuildInPlace,
    /// A copy with the new index is filled beside each and takes its place.
    RebuildBeside,
}

/// What happens to collections whose vectors are of another model than the object's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnModelChange {
    /// Their documents wait and searches are refused, until somebody embeds them again.
    #[default]
    Refuse,
    /// A copy with vectors of the object's model is filled beside each and takes its place.
    ReembedBeside,
}

/// How collections are rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebuildSpec {
    /// When collections may be rebuilt. Absent: at any time, which only `RebuildBeside` allows.
    /// Empty collections are mended outside it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowSpec>,

    /// Largest number of collections that are rebuilt at the same time. Default: 1.
    #[serde(default = "default_max_parallel")]
    #[schemars(range(min = 1, max = 16))]
    pub max_parallel: u32,

    /// Largest number of vectors that `RebuildBeside` copies per second, in all collections
    /// together. Absent: as fast as Milvus takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub vectors_per_second: Option<u32>,
}

/// A time that comes again, between two cron schedules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowSpec {
    /// Cron schedule of the start: minute, hour, day of month, month, day of week, for example
    /// `0 22 * * SAT`.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub start: String,

    /// Cron schedule of the end. Nothing is begun after it; copies are continued in the next window.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub end: String,

    /// IANA time zone of `start` and `end`. Default: `UTC`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1))]
    pub time_zone: String,
}

impl Default for RebuildSpec {
    fn default() -> Self {
        Self {
            window: None,
            max_parallel: default_max_parallel(),
            vectors_per_second: None,
        }
    }
}

fn default_max_parallel() -> u32 {
    1
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}
