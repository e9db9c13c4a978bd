//! The `IngestionPipeline` API (`ingest.layra.io/v1alpha1`) and the worker's configuration.
//!
//! The types here are the only contract between a user, the operator and a worker. They do no I/O.

mod config;
mod documents;
mod embedding;
mod kafka_security;
pub mod metric_names;
mod pipeline;
mod scaling;
mod source;
mod status;
mod stores;
mod worker;
mod worker_counts;

pub use config::{ConfigError, NotText, SecretKind, WorkerConfig, secret_text};
pub use documents::{
    DocumentsSpec, DpiRule, ImageFormat, ObjectStoreSpec, RenderSpec, ResolutionMode,
};
pub use embedding::{EmbeddingSpec, ModelFamily, ModelSpec, Precision};
pub use kafka_security::{KafkaSecurity, KafkaSecurityError, refused_setting};
pub use pipeline::{IngestionPipeline, IngestionPipelineSpec};
pub use scaling::{FallbackSpec, FloorSpec, ScalingMode, ScalingSpec};
pub use source::{ForeignMessageAction, ForeignMessages, KafkaSource, SourceSpec};
pub use status::{
    DriftedCollection, IngestionPipelineStatus, LearnedStatus, ModelStatus, ScalingInputs,
    ScalingStatus, ScalingTerms,
};
pub use stores::{
    COLLECTION_PLACEHOLDER, IndexSpec, IndexType, MetricType, MilvusSpec, MongodbSpec, RedisSpec,
    SearchSpec, StoresSpec,
};
pub use worker::{GpuSpec, PodOverrides, WorkerSpec};
pub use worker_counts::{AssignedPartition, WORKER_COUNTS_PATH, WORKER_HTTP_PORT, WorkerCounts};

use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CustomResourceDefinition as YAML, as `layra-operator crd` prints it.
pub fn crd_yaml() -> Result<String, ConfigError> {
    Ok(serde_yaml_ng::to_string(&IngestionPipeline::crd())?)
}

/// The API group of every object defined here.
pub const API_GROUP: &str = "ingest.layra.io";

/// A Secret of the pipeline's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
