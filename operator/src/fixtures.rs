//! Objects for tests.

use layra_crds::{IngestionPipeline, IngestionPipelineSpec};
use serde_json::{Value, json};

use crate::reconcile::WorkerPod;

/// A short, valid pipeline, as the API server would return it.
pub(crate) fn pipeline() -> IngestionPipeline {
    let spec: IngestionPipelineSpec = serde_json::from_value(json!({
        "source": {"kafka": {"bootstrapServers": "kafka.rag:9092", "replicationFactor": 1}},
        "documents": {"objectStore": {
            "endpoint": "http://minio.rag:9000",
            "accessKeySecretRef": {"name": "s3"},
            "secretKeySecretRef": {"name": "s3"}}},
        "embedding": {"model": {"family": "minilm", "uri": "s3://models/minilm"}},
        "stores": {
            "milvus": {"uri": "http://milvus.rag:19530"},
            "mongodb": {"uriSecretRef": {"name": "mongo"}}},
    }))
    .expect("the fixture is a valid spec");
    let mut pipeline = IngestionPipeline::new("contracts", spec);
    pipeline.metadata.namespace = Some("rag".to_owned());
    pipeline.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
    pipeline.metadata.generation = Some(1);
    pipeline
}

/// A worker pod from Kubernetes' JSON, interpreted at a time in November 2026.
pub(crate) fn pod(body: Value) -> WorkerPod {
    let pod = serde_json::from_value(body).expect("the fixture is a valid pod");
    let now = "2026-11-25T10:10:00Z".parse().expect("a valid time");
    WorkerPod::read(&pod, now)
}
