//! The worker pods.

use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::util::intstr::IntOrString,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PodTemplate;

/// The worker pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSpec {
    /// Image of `layra-worker`. Default: the worker image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub image: Option<String>,

    /// When the kubelet pulls the image: `Always`, `IfNotPresent` or `Never`. Default:
    /// `IfNotPresent`.
    #[serde(default = "default_pull_policy")]
    #[schemars(regex(pattern = r"^(Always|IfNotPresent|Never)$"))]
    pub image_pull_policy: String,

    /// GPUs of each worker. Absent: workers compute on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,

    /// CPU and memory of each worker. Default: requests of 1 CPU and 1Gi, memory limited to 4Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Seconds that a worker may drain before it is killed: it finishes its documents, commits and
    /// leaves the group. Another worker processes unfinished documents again. Default: twice the
    /// longest processing time seen of a document or page range, at least 120. A new default takes
    /// effect when there are no workers, or when they are replaced for another reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 86_400))]
    pub termination_grace_period_seconds: Option<u32>,

    /// How workers are replaced by others with a new configuration or image.
    #[serde(default)]
    pub rollout: RolloutSpec,

    /// Additions to the pods, for example tolerations, labels, volumes or `hostUsers: false`. The
    /// fields of `worker` itself cannot be set here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// GPUs of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuSpec {
    /// Name of the GPU's extended resource. Default: `nvidia.com/gpu`.
    #[serde(default = "default_gpu_resource")]
    #[schemars(length(min = 1))]
    pub resource: String,

    /// Number of GPUs. Default: 1.
    #[serde(default = "default_gpu_count")]
    #[schemars(range(min = 1, max = 16))]
    pub count: u32,
}

/// How workers are replaced by others with a new configuration or image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Largest number of workers, or percentage of all, that are replaced or evicted at the same
    /// time. A rollout never starts more workers than before. Default: 1.
    #[serde(default = "default_max_unavailable")]
    // The pattern applies to text and the minimum to numbers. A schema without a type would count as
    // nullable.
    #[schemars(extend(
        "nullable" = false, "minimum" = 1, "pattern" = "^(100|[1-9][0-9]?)%$"
    ))]
    pub max_unavailable: IntOrString,

    /// When workers get the image of an upgraded operator, if `image` is absent. `WhenReplaced`:
    /// when no worker is ready, or when the workers are replaced for another reason. `AtOnce`: in a
    /// rollout right after the upgrade. Default: `WhenReplaced`.
    #[serde(default)]
    pub on_upgrade: OnUpgrade,
}

/// When workers get the image of an upgraded operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUpgrade {
    /// When no worker is ready, or when the workers are replaced for another reason.
    #[default]
    WhenReplaced,
    /// In a rollout right after the upgrade.
    AtOnce,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            max_unavailable: default_max_unavailable(),
            on_upgrade: OnUpgrade::default(),
        }
    }
}

impl Default for WorkerSpec {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: default_pull_policy(),
            gpu: None,
            resources: None,
            termination_grace_period_seconds: None,
            rollout: RolloutSpec::default(),
            pod_template: None,
        }
    }
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(1)
}

fn default_pull_policy() -> String {
    "IfNotPresent".to_owned()
}

fn default_gpu_resource() -> String {
    "nvidia.com/gpu".to_owned()
}

fn default_gpu_count() -> u32 {
    1
}
