//! The root object.
// The columns of `kubectl get` are attributes with the same keys.
#![allow(clippy::duplicated_attributes)]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    DocumentsSpec, EmbeddingSpec, IngestionPipelineStatus, QuerySpec, ScalingSpec, SourceSpec,
    StoresSpec, WorkerSpec,
};

/// Names of pods, Services and labels have at most 63 characters. Those of the workers consist of the
/// pipeline's name, `-worker` and short suffixes.
pub const LONGEST_PIPELINE_NAME: usize = 52;

/// An `IngestionPipeline` reads document tasks from a Kafka topic, renders and embeds every page,
/// and stores page images in an object store, documents in MongoDB and vectors in Milvus. The
/// operator creates the topics, the workers and their configuration, and scales the workers with
/// the backlog.
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
    doc = "Ingests documents from Kafka into searchable page vectors: topic, workers, index and scaling in one object.",
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
    printcolumn(
        name = "Drifted",
        type_ = "integer",
        json_path = ".status.index.drifted"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.embedding.model.family"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Index",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"VectorStoreReady\")].reason"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.source.kafka.partitionsPerReplica) || self.scaling.maxReplicas <= self.source.kafka.partitions")
        .message("scaling.maxReplicas must not exceed source.kafka.partitions: a partition is assigned to one worker at a time, so further workers would be idle. Raise partitions or lower maxReplicas"),
    validation = Rule::new("!has(self.source.kafka.partitionsPerReplica) || self.scaling.maxReplicas * self.source.kafka.partitionsPerReplica <= 10000")
        .message("scaling.maxReplicas times source.kafka.partitionsPerReplica must not exceed 10000 partitions. Lower one of them"),
    validation = Rule::new("self.stores.milvus.onModelChange != 'ReembedBeside' || self.embedding.model.family != 'minilm' || (has(self.documents.pageTexts) && self.documents.pageTexts == 'Keep')")
        .message("stores.milvus.onModelChange: ReembedBeside embeds the kept texts if the model reads text. Set documents.pageTexts: Keep, or use Refuse")
)]
pub struct IngestionPipelineSpec {
    /// The Kafka topic with the document tasks.
    pub source: SourceSpec,

    /// Where the original documents are stored, and how their pages are rendered.
    pub documents: DocumentsSpec,

    /// The model that embeds pages as vectors.
    pub embedding: EmbeddingSpec,

    /// The databases that receive the results.
    pub stores: StoresSpec,

    /// The worker pods.
    #[serde(default)]
    pub worker: WorkerSpec,

    /// The number of workers, and how the operator chooses it.
    #[serde(default)]
    pub scaling: ScalingSpec,

    /// The pods that answer questions. Absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QuerySpec>,

    /// Pauses reconciliation: while true, the operator changes nothing and only updates the status.
    /// Running workers continue. Default: false.
    #[serde(default)]
    pub paused: bool,
}
