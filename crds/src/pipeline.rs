//! The root object.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    DocumentsSpec, EmbeddingSpec, IngestionPipelineStatus, ScalingSpec, SourceSpec, StoresSpec,
    WorkerSpec,
};

/// An `IngestionPipeline` reads document tasks from a Kafka topic, renders and embeds every page,
/// and stores page images in an object store, documents in MongoDB and vectors in Milvus. The
/// operator makes the topic, the workers and their configuration from it, and scales the workers
/// from the backlog.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "ingest.layra.io",
    version = "v1alpha1",
    kind = "IngestionPipeline",
    plural = "ingestionpipelines",
    shortname = "ipl",
    category = "layra",
    namespaced,
    status = "IngestionPipelineStatus",
    derive = "PartialEq",
    cel,
    doc = "Documents from Kafka to searchable page vectors: topic, workers, index and scaling in one object.",
    scale(
        spec_replicas_path = ".spec.scaling.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.embedding.model.family"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    // The names of the objects that a pipeline owns are its own name and a suffix.
    validation = Rule::new("self.metadata.name.size() <= 52")
        .message("metadata.name must have at most 52 characters: the names of the workers' objects are derived from it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.scaling.maxReplicas <= self.source.kafka.partitions")
        .message("scaling.maxReplicas must not exceed source.kafka.partitions: a partition has one worker at a time, so further workers would be idle. Raise partitions or lower maxReplicas")
)]
pub struct IngestionPipelineSpec {
    /// Where the document tasks come from.
    pub source: SourceSpec,

    /// Where the originals are, and how their pages are rendered.
    pub documents: DocumentsSpec,

    /// The model that turns a page into vectors.
    pub embedding: EmbeddingSpec,

    /// Where the results go.
    pub stores: StoresSpec,

    /// The worker pods.
    #[serde(default)]
    pub worker: WorkerSpec,

    /// How many workers there are, and why.
    #[serde(default)]
    pub scaling: ScalingSpec,

    /// Stop reconciling: the operator leaves everything as it is and only reports, until this is
    /// false again. Running workers go on working.
    #[serde(default)]
    pub paused: bool,
}
