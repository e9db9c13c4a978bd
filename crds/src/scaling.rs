//! How many workers there are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many workers there are, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("self.minReplicas <= self.maxReplicas")
        .message("scaling.minReplicas must not exceed scaling.maxReplicas"),
    validation = Rule::new("!has(self.floors) || self.floors.all(f, f.minReplicas <= self.maxReplicas)")
        .message("scaling.floors: minReplicas must not exceed scaling.maxReplicas"),
    validation = Rule::new("!has(self.fallback) || self.fallback.replicas <= self.maxReplicas")
        .message("scaling.fallback.replicas must not exceed scaling.maxReplicas"),
    // On updates only: what `kubectl scale` left behind may stay when the mode goes back to Auto.
    validation = Rule::new("!has(self.replicas) || self.mode == 'Manual' || (has(oldSelf.replicas) && oldSelf.replicas == self.replicas)")
        .message("scaling.replicas and `kubectl scale` need scaling.mode: Manual; in mode Auto the operator decides")
)]
pub struct ScalingSpec {
    /// `Auto`: the operator scales from the backlog. `Recommend`: it says in `status.scaling` what
    /// it would do, and leaves the workers as they are. `Manual`: `replicas` holds, which
    /// `kubectl scale` and an external autoscaler set through the scale subresource.
    /// Default: `Auto`.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Workers in mode `Manual`; without effect in other modes, where it cannot be changed.
    /// Default: `minReplicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,

    /// The fewest workers; 0 stops them all while there is nothing to do. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub min_replicas: i32,

    /// The most workers. Default: 4.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1))]
    pub max_replicas: i32,

    /// Seconds within which a document should be searchable after it was sent. There are enough
    /// workers to get the backlog done in this time, the time that they take to start included.
    /// Default: 600.
    #[serde(default = "default_drain_target")]
    #[schemars(range(min = 5, max = 86_400))]
    pub drain_target_seconds: u32,

    /// Percentage of the workers' speed that steady arrivals may use where a worker takes as long
    /// to start as the drain target; the rest is in hand for what comes meanwhile. The shorter a
    /// start is against the drain target, the less is held in hand. Default: 80.
    #[serde(default = "default_target_utilization")]
    #[schemars(range(min = 10, max = 100))]
    pub target_utilization_percent: u32,

    /// Seconds for which fewer workers must have been enough before workers are stopped. Default:
    /// as long as a worker was seen to take to start, at least 30 and at most 240: keeping an idle
    /// worker for longer than that costs more than starting another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_delay_seconds: Option<u32>,

    /// The most workers that may wait for a node at the same time, so that a lack of GPUs does not
    /// order more of them than are needed. Default: 2.
    #[serde(default = "default_max_pending")]
    #[schemars(range(min = 1))]
    pub max_pending_workers: u32,

    /// What to do when the backlog has been unknown for long. Absent: the workers stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackSpec>,

    /// Times at which there are at least so many workers, for known peaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub floors: Vec<FloorSpec>,
}

/// What to do when the backlog has been unknown for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FallbackSpec {
    /// Seconds for which the backlog must have been unknown. Default: 600.
    #[serde(default = "default_blind_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub after_seconds: u32,

    /// At least so many workers from then on, until the backlog is known again. Workers are never
    /// stopped because of it.
    #[schemars(range(min = 0))]
    pub replicas: i32,
}

/// A time at which there are at least so many workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FloorSpec {
    /// When it begins: minute, hour, day of month, month, day of week, for example
    /// `30 7 * * MON-FRI`. The workers take their time to start: begin early enough.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub start: String,

    /// When it ends, in the same form.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub end: String,

    /// The IANA name of the time zone of `start` and `end`. Default: `UTC`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1))]
    pub time_zone: String,

    /// The fewest workers in between.
    #[schemars(range(min = 1))]
    pub min_replicas: i32,
}

/// Who decides on the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// The operator, from the backlog.
    #[default]
    Auto,
    /// Nobody: the operator says what it would do.
    Recommend,
    /// A person or an external autoscaler, through the scale subresource.
    Manual,
}

impl Default for ScalingSpec {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            replicas: None,
            min_replicas: 0,
            max_replicas: default_max_replicas(),
            drain_target_seconds: default_drain_target(),
            target_utilization_percent: default_target_utilization(),
            scale_down_delay_seconds: None,
            max_pending_workers: default_max_pending(),
            fallback: None,
            floors: Vec::new(),
        }
    }
}

fn default_max_replicas() -> i32 {
    4
}

fn default_drain_target() -> u32 {
    600
}

fn default_target_utilization() -> u32 {
    80
}

fn default_max_pending() -> u32 {
    2
}

fn default_blind_seconds() -> u32 {
    600
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}
