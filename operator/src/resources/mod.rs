//! The Kubernetes objects of a pipeline, built from its spec. Pure: nothing is read or written.

mod config_map;
mod deployment;
mod difference;
mod disruption_budget;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Resource, ResourceExt};
use layra_crds::{ConfigError, IngestionPipeline, IngestionPipelineSpec, SecretKind};
use sha2::{Digest, Sha256};

pub(crate) use difference::is_applied;

/// Hash of the worker's configuration, on the pods: another configuration rolls them.
pub(crate) const CONFIG_HASH: &str = "ingest.layra.io/config-hash";
/// Hash of the mounted Secrets, on the pods: a rotated secret rolls them.
pub(crate) const SECRETS_HASH: &str = "ingest.layra.io/secrets-hash";
/// Hash of the object as the operator applied it last.
pub(crate) const APPLIED_HASH: &str = "ingest.layra.io/applied-hash";

/// Annotation by which Kubernetes chooses the pods that go first; the lowest number does.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Label with the pipeline's name, on all its objects and pods.
pub(crate) const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Selects the objects that the operator makes.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by=layra-operator";
/// Selects the worker pods of all pipelines.
pub(crate) const WORKER_PODS: &str = "app.kubernetes.io/name=layra-worker";

/// Name of the container that fetches the model before the worker starts.
pub(crate) const FETCH_MODEL: &str = "fetch-model";
/// Name of the worker's container.
pub(crate) const WORKER: &str = "worker";

/// Port of the workers' metrics and probes.
pub(crate) const METRICS_PORT: i32 = 9090;

/// What the objects depend on beside the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// The image of workers whose spec names none.
    pub(crate) default_image: &'a str,
    /// Hash of the mounted Secrets' data.
    pub(crate) secrets_hash: &'a str,
    /// How many workers there should be.
    pub(crate) replicas: i32,
    /// Seconds that a worker has to leave, unless the spec says something else.
    pub(crate) grace_seconds: u32,
}

/// The kinds of objects that a pipeline owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Deployment,
    Service,
    PodDisruptionBudget,
}

/// All objects of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    /// The worker's configuration.
    pub(crate) config_map: ConfigMap,
    /// The workers.
    pub(crate) deployment: Deployment,
    /// Finds the workers' metrics.
    pub(crate) service: Service,
    /// Lets a drained node take one worker at a time.
    pub(crate) disruption_budget: PodDisruptionBudget,
}

/// Builds all objects of a pipeline.
pub(crate) fn build(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
) -> Result<Workload, ConfigError> {
    let config_hash = config_map::hash(pipeline);
    Ok(Workload {
        deployment: deployment::build(pipeline, inputs, &config_hash),
        service: service::build(pipeline),
        disruption_budget: disruption_budget::build(pipeline),
        config_map: config_map::build(pipeline)?,
    })
}

/// The name of each of the pipeline's objects.
pub(crate) fn object_name(pipeline: &str) -> String {
    format!("{pipeline}-worker")
}

/// The Secrets that a pipeline names.
pub(crate) fn secrets(spec: &IngestionPipelineSpec) -> Vec<(SecretKind, &str)> {
    let stores = &spec.stores;
    [
        (
            SecretKind::Kafka,
            spec.source.kafka.auth_secret_ref.as_ref(),
        ),
        (
            SecretKind::ObjectStore,
            Some(&spec.documents.object_store.secret_ref),
        ),
        (SecretKind::Milvus, stores.milvus.secret_ref.as_ref()),
        (SecretKind::Mongodb, Some(&stores.mongodb.secret_ref)),
        (
            SecretKind::Redis,
            stores.redis.as_ref().map(|redis| &redis.secret_ref),
        ),
        (SecretKind::Model, spec.embedding.model.secret_ref.as_ref()),
    ]
    .into_iter()
    .filter_map(|(kind, reference)| Some((kind, reference?.name.as_str())))
    .collect()
}

/// Selects the pipeline's worker pods, as text.
pub(crate) fn selector_text(pipeline: &str) -> String {
    let pairs: Vec<String> = selector_labels(pipeline)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// A short hash of anything that can be written as JSON.
pub(crate) fn hash_of(value: &impl serde::Serialize) -> String {
    // Strings, numbers, lists and maps with text keys: nothing here can fail to serialise.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(text)
        .iter()
        .take(8)
        .fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"))
}

fn selector_labels(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "app.kubernetes.io/name".to_owned(),
            "layra-worker".to_owned(),
        ),
        (INSTANCE_LABEL.to_owned(), pipeline.to_owned()),
    ])
}

fn selector(pipeline: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector_labels(pipeline)),
        ..LabelSelector::default()
    }
}

fn labels(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = selector_labels(pipeline);
    labels.insert(
        "app.kubernetes.io/component".to_owned(),
        "worker".to_owned(),
    );
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "layra-operator".to_owned(),
    );
    labels.insert("app.kubernetes.io/part-of".to_owned(), "layra".to_owned());
    labels
}

fn metadata(pipeline: &IngestionPipeline) -> ObjectMeta {
    let name = pipeline.name_any();
    ObjectMeta {
        name: Some(object_name(&name)),
        namespace: pipeline.namespace(),
        labels: Some(labels(&name)),
        owner_references: pipeline.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
