//! The worker's configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use layra_crds::{ConfigError, IngestionPipeline, WorkerConfig};

/// The file in the ConfigMap.
pub(super) const FILE: &str = "worker.yaml";

pub(super) fn build(pipeline: &IngestionPipeline) -> Result<ConfigMap, ConfigError> {
    let spec = &pipeline.spec;
    let config = WorkerConfig {
        pipeline: format!(
            "{}/{}",
            pipeline.namespace().unwrap_or_default(),
            pipeline.name_any()
        ),
        source: spec.source.clone(),
        documents: spec.documents.clone(),
        embedding: spec.embedding.clone(),
        stores: spec.stores.clone(),
    };
    Ok(ConfigMap {
        metadata: super::metadata(pipeline),
        data: Some(BTreeMap::from([(FILE.to_owned(), config.to_yaml()?)])),
        ..ConfigMap::default()
    })
}
