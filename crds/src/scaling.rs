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
    // On updates only: what `kubectl scale` left behind may stay when the mode goes back to Auto.
    validation = Rule::new("!has(self.replicas) || self.mode == 'Manual' || (has(oldSelf.replicas) && oldSelf.replicas == self.replicas)")
        .message("scaling.replicas and `kubectl scale` need scaling.mode: Manual; in mode Auto the operator decides")
)]
pub struct ScalingSpec {
    /// `Auto`: the operator scales from the backlog. `Manual`: `replicas` holds, which
    /// `kubectl scale` and an external autoscaler set through the scale subresource.
    /// Default: `Auto`.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Workers in mode `Manual`; without effect in mode `Auto`, where it cannot be changed.
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

    /// Tasks waiting for one worker: there is a worker for each so many. Default: 10.
    #[serde(default = "default_target_lag")]
    #[schemars(range(min = 1))]
    pub target_lag_per_replica: i64,

    /// Seconds for which fewer workers must have been enough before workers are stopped.
    /// Default: 300.
    #[serde(default = "default_scale_down_delay")]
    #[schemars(range(min = 0, max = 86_400))]
    pub scale_down_delay_seconds: u32,
}

/// Who decides on the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// The operator, from the backlog.
    #[default]
    Auto,
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
            target_lag_per_replica: default_target_lag(),
            scale_down_delay_seconds: default_scale_down_delay(),
        }
    }
}

fn default_max_replicas() -> i32 {
    4
}

fn default_target_lag() -> i64 {
    10
}

fn default_scale_down_delay() -> u32 {
    300
}
