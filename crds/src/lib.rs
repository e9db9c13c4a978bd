//! The `IngestionPipeline` API (`ingest.layra.io/v1alpha1`) and the worker's configuration.
//!
//! The types here are the contract between users, the operator and the workers. They do no I/O.

mod advice;
mod check_report;
mod collection_life;
pub mod condition_types;
mod config;
mod documents;
mod embedding;
mod index;
mod index_status;
mod kafka_client;
mod kafka_security;
mod load;
pub mod metric_names;
mod model_reference;
mod pipeline;
mod pod_template;
mod query;
mod quotas;
mod rebuild;
mod rebuild_names;
mod reindex;
mod retention_status;
mod scaling;
mod secrets;
mod source;
mod source_format;
mod status;
mod stores;
mod validation;
mod vectors;
mod worker;
mod worker_counts;

pub use advice::{Advice, Finding, Verdict};
pub use check_report::{CheckReport, FailedCheck};
pub use collection_life::{ArchiveSpec, RetentionAction, RetentionSpec};
pub use config::{ConfigError, NotText, WorkerConfig, secret_text};
pub use documents::{
    DocumentLimits, DocumentsSpec, DpiRule, ImageFormat, ObjectStoreSpec, OnBadPage, PageTexts,
    RenderSpec, SandboxPolicy,
};
pub use embedding::{EmbeddingSpec, ModelFamily, ModelSpec, Precision};
pub use index::{FoundIndex, IndexKind, IndexPreset, IndexSpec, IndexType, ResolvedIndex};
pub use index_status::{CollectionRebuild, EndedJob, IndexStatus};
pub use kafka_client::{Compression, KafkaClientSpec};
pub use kafka_security::{KafkaSecurity, KafkaSecurityError, refused_setting};
pub use load::{LoadLine, LoadProgress, LoadResult, Recall, Spread};
pub use model_reference::{
    KNOWN_MODEL_FILE, KnownModel, ModelReference, ModelReport, RESOLVE_MODEL_ANNOTATION,
};
pub use pipeline::{IngestionPipeline, IngestionPipelineSpec, LONGEST_PIPELINE_NAME};
pub use pod_template::{PodTemplate, PodTemplateMetadata};
pub use query::{
    DEFAULT_LINK_MINUTES, MODEL_SERVER_PORT, QueryCounts, QueryServiceSpec, QuerySpec, QueryStatus,
    TokensSecretRef,
};
pub use quotas::{KnowledgeBaseQuotas, LAYRA_PAGE_VECTORS, QuotaKind, QuotaUse, QuotasSpec};
pub use rebuild::{OnIndexDrift, OnModelChange, RebuildSpec, WindowSpec};
pub use rebuild_names::{is_rebuild_collection, rebuild_collection};
pub use reindex::{
    MOST_REINDEX_ENTRIES, REINDEX_PATH, ReindexEntry, ReindexPhase, ReindexProgress,
};
pub use retention_status::RetentionStatus;
pub use scaling::{ActivationSpec, FallbackSpec, FloorSpec, ScalingMode, ScalingSpec};
pub use secrets::{
    AccessKeySecretRef, CA_FILE, CaSecretRef, ReferencedKey, ReferencedSecret, SecretKeySecretRef,
    SecretKind, SecretRef, TokenSecretRef, UriSecretRef,
};
pub use source::{ForeignMessageAction, ForeignMessages, KafkaSource, SourceSpec};
pub use source_format::{KNOWLEDGE_BASE_FOLDER, S3EventSpec, SourceFormat};
pub use status::{
    ConfirmedStatus, DriftedCollection, IngestionPipelineStatus, LearnedStatus, ModelStatus,
    PagesStatus, ScalingInputs, ScalingStatus, ScalingTerms,
};
pub use stores::{
    COLLECTION_PLACEHOLDER, MetricType, MilvusSpec, MongodbSpec, RedisSpec, StoresSpec,
};
pub use validation::{
    FaultAnswer, VALIDATION_FAULTS_PATH, VALIDATION_FAULTS_VARIABLE, VALIDATION_PROXY_PORT,
    VALIDATION_SUFFIX, ValidationFault, is_of_validation, validation_suffix,
};
pub use vectors::{Readers, VectorType};
pub use worker::{GpuSpec, OnUpgrade, RolloutSpec, WorkerSpec};
pub use worker_counts::{
    AssignedPartition, MODEL_MISMATCH, MOST_NAMED, OtherModels, ProcessedAhead, WAITS_FOR_QUOTA,
    WORKER_COUNTS_PATH, WORKER_HTTP_PORT, WorkerCounts,
};

use kube::CustomResourceExt as _;

/// The CustomResourceDefinition as YAML, as `layra-operator crd` prints it.
pub fn crd_yaml() -> Result<String, ConfigError> {
    let mut definition = serde_yaml_ng::to_value(IngestionPipeline::crd())?;
    join_lines(&mut definition);
    Ok(serde_yaml_ng::to_string(&definition)?)
}

/// Descriptions come from doc comments, which wrap at 100 columns. `kubectl explain` wraps for the
/// terminal itself, so each paragraph becomes one line.
fn join_lines(value: &mut serde_yaml_ng::Value) {
    use serde_yaml_ng::Value;
    match value {
        Value::Mapping(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(text) if key.as_str() == Some("description") => {
                        let paragraphs: Vec<String> = text
                            .split("\n\n")
                            .map(|paragraph| paragraph.replace('\n', " "))
                            .collect();
                        *text = paragraphs.join("\n\n");
                    }
                    other => join_lines(other),
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(join_lines),
        _ => {}
    }
}

/// An annotation of a pipeline that asks the operator to forget what it has learned about the
/// workers, once for each new value. `status.scaling.forgotten` shows the last value that was
/// handled.
pub const FORGET_ANNOTATION: &str = "ingest.layra.io/forget-learned";

/// The API group of `IngestionPipeline`.
pub const API_GROUP: &str = "ingest.layra.io";
