//! The number of workers.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number of workers, and how the operator chooses it.
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
    validation = Rule::new("!has(self.replicas) || self.mode != 'Manual' || self.replicas <= self.maxReplicas")
        .message("scaling.replicas and `kubectl scale` must not exceed scaling.maxReplicas. Raise maxReplicas, at most to the number of partitions, or use fewer replicas"),
    validation = Rule::new("!has(self.activation) || self.activation.seconds < self.drainTargetSeconds")
        .message("scaling.activation.seconds must be less than scaling.drainTargetSeconds: a document that waits longer for the first worker misses the target"),
    // On updates only: a value set by `kubectl scale` may stay when the mode returns to Auto.
    validation = Rule::new("!has(self.replicas) || self.mode == 'Manual' || (has(oldSelf.replicas) && oldSelf.replicas == self.replicas)")
        .message("scaling.replicas and `kubectl scale` need scaling.mode: Manual; in other modes the operator decides")
)]
pub struct ScalingSpec {
    /// `Auto`: the operator scales the workers with the backlog. `Recommend`: it reports its
    /// decision in `status.scaling` and does not scale. `Manual`: `replicas` applies; `kubectl
    /// scale` and external autoscalers set it through the scale subresource. Default: `Auto`.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Number of workers in mode `Manual`, at most `maxReplicas`. In other modes it is ignored and
    /// cannot be changed. Default: the number of workers when the mode became `Manual`, for a new
    /// pipeline `minReplicas`; the operator writes it here, so that an external autoscaler can read
    /// it, and writes it again the next time unless it was changed in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,

    /// Smallest number of workers. With 0, all workers stop while there is no backlog. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub min_replicas: i32,

    /// Largest number of workers. Default: 4.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1))]
    pub max_replicas: i32,

    /// Drain target: seconds within which a document should be searchable after its task was sent.
    /// The operator runs enough workers to process the backlog within this time, including the time
    /// that they take to start. Default: 600.
    #[serde(default = "default_drain_target")]
    #[schemars(range(min = 5, max = 86_400))]
    pub drain_target_seconds: u32,

    /// Percentage of the workers' capacity that steady arrivals may use if a worker takes as long
    /// to start as the drain target. The rest is reserve for arrivals during a start. The shorter
    /// the start compared with the drain target, the smaller the reserve. Default: 80.
    #[serde(default = "default_target_utilization")]
    #[schemars(range(min = 10, max = 100))]
    pub target_utilization_percent: u32,

    /// What a pipeline without workers waits for before it starts the first one, so that a single
    /// message that is no document does not start a GPU. Absent: the first message starts a worker
    /// at once. It does not apply while rechecks of finished documents are due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationSpec>,

    /// Seconds for which fewer workers must have been sufficient before the operator scales down.
    /// Default: the observed time until a new worker is ready, at least 30 and at most 240. Keeping
    /// an idle worker longer costs more than starting one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_delay_seconds: Option<u32>,

    /// Largest number of pending workers after nodes have failed to come, which is when a worker
    /// has waited for one for ten minutes or twice the usual time. It doubles with each node that
    /// comes. Until then all workers that the backlog requires are requested at once, so that nodes
    /// are provisioned at the same time. Default: 2.
    #[serde(default = "default_max_pending")]
    #[schemars(range(min = 1))]
    pub max_pending_workers: u32,

    /// Minimum number of workers while the backlog is unknown for a long time. Absent: the number
    /// of workers stays the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackSpec>,

    /// Scheduled minimum numbers of workers, for known peaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub floors: Vec<FloorSpec>,
}

/// What a pipeline without workers waits for: a backlog of some messages, or the age of the oldest
/// one, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActivationSpec {
    /// Number of messages.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub backlog: u32,

    /// Seconds that a message has waited. They are part of `drainTargetSeconds`. After a restart of
    /// the operator they count from the start.
    #[schemars(range(min = 1, max = 86_400))]
    pub seconds: u32,
}

/// Minimum number of workers while the backlog is unknown for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FallbackSpec {
    /// Seconds for which the backlog must have been unknown. Default: 600.
    #[serde(default = "default_fallback_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub after_seconds: u32,

    /// Minimum number of workers from then on, until the backlog is known again. It never causes a
    /// scale-down.
    #[schemars(range(min = 0))]
    pub replicas: i32,
}

/// A scheduled minimum number of workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FloorSpec {
    /// Cron schedule of the start: minute, hour, day of month, month, day of week, for example
    /// `30 7 * * MON-FRI`. Allow for the time that workers take to start.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub start: String,

    /// Cron schedule of the end.
    #[schemars(regex(pattern = r"^\S+(\s+\S+){4}$"))]
    pub end: String,

    /// IANA time zone of `start` and `end`. Default: `UTC`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1))]
    pub time_zone: String,

    /// Minimum number of workers between `start` and `end`.
    #[schemars(range(min = 1))]
    pub min_replicas: i32,
}

/// Who chooses the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// The operator, by the backlog.
    #[default]
    Auto,
    /// The current number stays; the operator only reports its decision.
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
            activation: None,
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

fn default_fallback_seconds() -> u32 {
    600
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}
