//! The ConfigMap with the worker's configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use layra_crds::{ConfigError, IngestionPipeline, WorkerConfig};

/// Key in the ConfigMap, and name of the mounted file.
pub(super) const FILE: &str = "worker.yaml";

pub(super) fn build(pipeline: &IngestionPipeline) -> Result<ConfigMap, ConfigError> {
    Ok(ConfigMap {
        metadata: super::metadata(pipeline),
        data: Some(BTreeMap::from([(
            FILE.to_owned(),
            config(pipeline).to_yaml()?,
        )])),
        ..ConfigMap::default()
    })
}

/// Hash of the settings that a worker reads at its start. Partitions, replication factor and settings
/// of the topics are not among them: the operator alone uses them.
pub(super) fn hash(pipeline: &IngestionPipeline) -> String {
    let mut config = config(pipeline);
    config.source.kafka.partitions = 0;
    config.source.kafka.replication_factor = 0;
    config.source.kafka.topic_config.clear();
    super::hash_of(&config)
}

fn config(pipeline: &IngestionPipeline) -> WorkerConfig {
    let spec = &pipeline.spec;
    WorkerConfig {
        pipeline: format!(
            "{}/{}",
            pipeline.namespace().unwrap_or_default(),
            pipeline.name_any()
        ),
        source: spec.source.clone(),
        documents: spec.documents.clone(),
        embedding: spec.embedding.clone(),
        stores: spec.stores.clone(),
    }
}
