//! The ConfigMap with the worker's configuration.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use layra_crds::{
    ConfigError, IngestionPipeline, KNOWN_MODEL_FILE, KnownModel, OnIndexDrift, OnModelChange,
    Readers, RebuildSpec, WorkerConfig,
};
use serde_json::{Value, json};

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

/// Adds what later workers are told about the model. It is no part of the hash: workers that have
/// the model already need it no more.
pub(crate) fn tell_model(
    config_map: &mut ConfigMap,
    known: &KnownModel,
) -> Result<(), ConfigError> {
    if *known != KnownModel::default() {
        let files = config_map.data.get_or_insert_default();
        files.insert(KNOWN_MODEL_FILE.to_owned(), known.to_yaml()?);
    }
    Ok(())
}

/// Hash of the settings that a worker reads at its start. Partitions, replication factor, settings
/// and management of the topics, how collections are rebuilt, who reads them and what happens to
/// unused ones are not among them: workers do not use them. Settings at their defaults are left out, so that a field that a later version adds
/// replaces no worker.
pub(super) fn hash(pipeline: &IngestionPipeline) -> String {
    super::hash_of(&hashed_settings(pipeline))
}

/// The same for pods that read nothing from Kafka.
pub(super) fn hash_without_source(pipeline: &IngestionPipeline) -> String {
    let mut settings = hashed_settings(pipeline);
    if let Some(settings) = settings.as_object_mut() {
        settings.remove("source");
    }
    super::hash_of(&settings)
}

fn hashed_settings(pipeline: &IngestionPipeline) -> Value {
    let mut config = config(pipeline);
    config.source.kafka.partitions = 0;
    config.source.kafka.partitions_per_replica = None;
    config.source.kafka.replication_factor = 0;
    config.source.kafka.topic_config.clear();
    config.stores.milvus.on_index_drift = OnIndexDrift::default();
    config.stores.milvus.on_model_change = OnModelChange::default();
    config.stores.milvus.rebuild = RebuildSpec::default();
    config.stores.milvus.retention = None;
    config.stores.milvus.readers = Readers::default();
    config.source.kafka.manage_topics = true;
    // Settings have text keys and finite numbers only.
    let mut settings = serde_json::to_value(config).unwrap_or_default();
    remove_defaults(&mut settings, &DEFAULTS);
    settings
}

/// A configuration in which only the required settings are given. They are empty, as they never are
/// in a valid object.
static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    let secret = json!({"name": "", "key": ""});
    let minimal = json!({
        "pipeline": "",
        "source": {"kafka": {"bootstrapServers": ""}},
        "documents": {"objectStore": {
            "accessKeySecretRef": secret, "secretKeySecretRef": secret}},
        "embedding": {"model": {"family": "minilm", "uri": ""}},
        "stores": {"milvus": {"uri": ""}, "mongodb": {"uriSecretRef": secret}},
    });
    let config = serde_json::from_value::<WorkerConfig>(minimal).map(with_explicit_index);
    config.and_then(serde_json::to_value).unwrap_or_default()
});

/// Removes what equals the defaults. Lists are compared as a whole.
fn remove_defaults(settings: &mut Value, defaults: &Value) {
    let (Value::Object(settings), Value::Object(defaults)) = (settings, defaults) else {
        return;
    };
    settings.retain(|key, value| {
        let default = defaults.get(key);
        default.is_none_or(|default| {
            remove_defaults(value, default);
            value != default && *value != json!({})
        })
    });
}

fn config(pipeline: &IngestionPipeline) -> WorkerConfig {
    let spec = &pipeline.spec;
    with_explicit_index(WorkerConfig {
        pipeline: format!(
            "{}/{}",
            pipeline.namespace().unwrap_or_default(),
            pipeline.name_any()
        ),
        source: spec.source.clone(),
        documents: spec.documents.clone(),
        embedding: spec.embedding.clone(),
        stores: spec.stores.clone(),
    })
}

/// Workers of earlier versions know no presets.
fn with_explicit_index(mut config: WorkerConfig) -> WorkerConfig {
    config.stores.milvus.index = config.stores.milvus.index.written_out();
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn settings_at_their_defaults_are_not_hashed() {
        let full = serde_json::to_value(config(&fixtures::pipeline())).unwrap();
        let mut settings = full.clone();
        remove_defaults(&mut settings, &DEFAULTS);
        let secret = json!({"name": "s3", "key": "accessKey"});
        assert_eq!(
            settings,
            json!({
                "pipeline": "rag/contracts",
                "source": {"kafka": {
                    "bootstrapServers": "kafka.rag:9092", "replicationFactor": 1}},
                "documents": {"objectStore": {
                    "endpoint": "http://minio.rag:9000",
                    "accessKeySecretRef": secret,
                    "secretKeySecretRef": {"name": "s3", "key": "secretKey"}}},
                "embedding": {"model": {"uri": "s3://models/minilm"}},
                "stores": {
                    "milvus": {"uri": "http://milvus.rag:19530"},
                    "mongodb": {"uriSecretRef": {"name": "mongo", "key": "uri"}}},
            })
        );
        assert_ne!(full, settings);
    }

    /// The text of the configuration, and the workers, stay as they are.
    #[test]
    fn an_index_written_in_another_way_replaces_no_worker() {
        let before = fixtures::pipeline();
        for index in [
            json!({"preset": "Accurate"}),
            json!({"m": 32, "efConstruction": 500}),
        ] {
            let mut after = before.clone();
            after.spec.stores.milvus.index = serde_json::from_value(index).unwrap();
            assert_eq!(hash(&after), hash(&before));
            assert_eq!(build(&after).unwrap(), build(&before).unwrap());
        }
        let mut after = before.clone();
        after.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside;
        after.spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside;
        after.spec.stores.milvus.rebuild.vectors_per_second = Some(1_000);
        after.spec.stores.milvus.readers = Readers::Own;
        let retention = json!({"unusedForDays": 30, "action": "Release"});
        after.spec.stores.milvus.retention = serde_json::from_value(retention).unwrap();
        assert_eq!(hash(&after), hash(&before));
    }

    #[test]
    fn every_setting_that_differs_from_its_default_is_hashed() {
        let before = hash(&fixtures::pipeline());
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.stores.milvus.index.m = Some(16);
        assert_ne!(hash(&pipeline), before);
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.documents.render.dpi.clear();
        assert_ne!(hash(&pipeline), before);
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.source.kafka.ranges_topic = Some("own.ranges".into());
        assert_ne!(hash(&pipeline), before);
    }
}
