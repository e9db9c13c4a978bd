//! The Kubernetes objects of a pipeline, built from its spec. Pure: nothing is read or written.

mod config_map;
mod deployment;
mod difference;
mod disruption_budget;
mod maintenance;
mod ownership;
mod pod_template;
mod query;
mod reindex;
mod retention;
mod service;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::CronJob,
        core::v1::{ConfigMap, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Resource, ResourceExt};
use layra_crds::{ConfigError, IngestionPipeline};
use sha2::{Digest, Sha256};

pub(crate) use config_map::tell_model;
pub(crate) use difference::{Difference, differences, is_applied, with_differences};
pub(crate) use ownership::is_foreign;
pub(crate) use pod_template::PodTemplateError;
pub(crate) use query::{
    MODEL_CHECKSUM, QUERY, QUERY_NAME, Query, QueryInputs, query, query_name, query_service_name,
};
pub(crate) use reindex::{JobKind, hash_of_job, only_finishes, rebuild_job};
pub(crate) use retention::{RETENTION, retention_cron_job, retention_name, suspended_retention};

/// Hash of the worker's configuration, on the pods: a changed configuration rolls them.
pub(crate) const CONFIG_HASH: &str = "ingest.layra.io/config-hash";
/// Hash of the mounted Secrets' values, on the pods: a rotated Secret rolls them.
pub(crate) const SECRETS_HASH: &str = "ingest.layra.io/secrets-hash";
/// Hash of the object as the operator last applied it.
pub(crate) const APPLIED_HASH: &str = "ingest.layra.io/applied-hash";

/// On the Deployment, not on its pods: its image is the operator's default. The value is that image as
/// the operator wants it; a policy may have written another one into the pods.
pub(crate) const DEFAULT_IMAGE: &str = "ingest.layra.io/default-image";
/// The value that earlier versions wrote.
const UNNAMED: &str = "true";

/// Annotation by which Kubernetes chooses the pods to delete first: those with the lowest number.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Label with the pipeline's name, on all its objects and pods.
pub(crate) const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Selects the objects that the operator creates.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by=layra-operator";
/// Label that distinguishes the workers' pods from those of commands.
pub(crate) const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Value of [`NAME_LABEL`]: a worker.
pub(crate) const WORKER_NAME: &str = "layra-worker";
/// Value of [`NAME_LABEL`]: a command that runs beside the workers.
pub(crate) const MAINTENANCE_NAME: &str = "layra-maintenance";
/// Label with the command that a pod runs.
pub(crate) const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Selects the pods of all pipelines.
pub(crate) const PODS: &str =
    "app.kubernetes.io/name in (layra-worker,layra-maintenance,layra-query)";

/// Name of the init container that downloads the model.
pub(crate) const FETCH_MODEL: &str = "fetch-model";
/// Name of the worker's container.
pub(crate) const WORKER: &str = "worker";

/// What the objects depend on in addition to the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// Worker image, unless the spec sets one.
    pub(crate) default_image: &'a str,
    /// Hash of the mounted Secrets' values.
    pub(crate) secrets_hash: &'a str,
    /// Desired number of workers.
    pub(crate) replicas: i32,
    /// Termination grace period of a worker in seconds, unless the spec sets one.
    pub(crate) grace_seconds: u32,
}

/// The kinds of objects that a pipeline owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Deployment,
    Service,
    PodDisruptionBudget,
    CronJob,
    QueryDeployment,
    QueryService,
    QueryDisruptionBudget,
}

impl Kind {
    /// Whether it is an object of the pods that answer questions.
    pub(crate) fn is_query(self) -> bool {
        matches!(
            self,
            Self::QueryDeployment | Self::QueryService | Self::QueryDisruptionBudget
        )
    }

    /// Kubernetes' word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Deployment | Self::QueryDeployment => "Deployment",
            Self::Service | Self::QueryService => "Service",
            Self::PodDisruptionBudget | Self::QueryDisruptionBudget => "PodDisruptionBudget",
            Self::CronJob => "CronJob",
        }
    }
}

/// All objects of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    /// The worker's configuration.
    pub(crate) config_map: ConfigMap,
    /// The workers. It must not be applied while there is a `template_error`.
    pub(crate) deployment: Deployment,
    /// Why `worker.podTemplate` is not merged into the Deployment.
    pub(crate) template_error: Option<PodTemplateError>,
    /// Headless, for the workers' metrics.
    pub(crate) service: Service,
    /// Limits evictions.
    pub(crate) disruption_budget: PodDisruptionBudget,
    /// Handles unused collections.
    pub(crate) retention: Option<CronJob>,
    /// Answers questions.
    pub(crate) query: Option<Query>,
}

/// Builds all objects of a pipeline but the `CronJob` and those that answer questions, which depend on
/// more than these inputs.
pub(crate) fn build(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
) -> Result<Workload, ConfigError> {
    let config_hash = config_map::hash(pipeline);
    let (deployment, template_error) = deployment::build(pipeline, inputs, &config_hash);
    Ok(Workload {
        deployment,
        template_error,
        service: service::build(pipeline),
        disruption_budget: disruption_budget::build(pipeline),
        retention: None,
        query: None,
        config_map: config_map::build(pipeline)?,
    })
}

/// The default image with which the operator applied the Deployment, if it did.
pub(crate) fn default_image(deployment: &Deployment) -> Option<&str> {
    let named = deployment.annotations().get(DEFAULT_IMAGE)?;
    if named == UNNAMED {
        return image(deployment);
    }
    Some(named)
}

/// The worker's image.
pub(crate) fn image(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mut containers = pod.containers.iter();
    let worker = containers.find(|container| container.name == WORKER)?;
    worker.image.as_deref()
}

/// The name of the pipeline's object of a kind. Those that answer questions have names of their own
/// ([`query_name`], [`query_service_name`]).
pub(crate) fn name_of(kind: Kind, pipeline: &str) -> String {
    match kind {
        Kind::CronJob => retention_name(pipeline),
        _ => object_name(pipeline),
    }
}

/// The name of the workers' objects.
pub(crate) fn object_name(pipeline: &str) -> String {
    format!("{pipeline}-worker")
}

/// The label selector of the pipeline's worker pods.
pub(crate) fn selector_text(pipeline: &str) -> String {
    let pairs: Vec<String> = selector_labels(pipeline)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// A short hash of a value's JSON.
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
        (NAME_LABEL.to_owned(), WORKER_NAME.to_owned()),
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
    labels.insert(COMPONENT_LABEL.to_owned(), "worker".to_owned());
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
