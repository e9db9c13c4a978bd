//! The Job of a command, from the Deployment of the pipeline's workers. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt};
use layra_crds::{API_GROUP, IngestionPipeline};

/// The worker's container in the operator's Deployment.
pub(super) const WORKER: &str = "worker";
/// The init container that puts the model into the pod's cache.
const FETCH_MODEL: &str = "fetch-model";

/// Where `layra-worker` finds its configuration and Secrets: arguments in the Deployment, variables
/// in the Job, because some commands do not know these arguments.
const SETTINGS: [(&str, &str); 2] = [("--config", "LAYRA_CONFIG"), ("--secrets", "LAYRA_SECRETS")];
const DEVICE: &str = "LAYRA_DEVICE";

/// Commands of `layra-worker` that do not use the model of the pipeline. A later command counts as
/// one that does.
const WITHOUT_MODEL: [&str; 18] = [
    "advise",
    "archive",
    "audit",
    "bench",
    "check",
    "delete",
    "documents",
    "embed",
    "fetch-model",
    "help",
    "load",
    "proxy",
    "redrive",
    "reindex",
    "restore",
    "retain",
    "sandbox",
    "trace",
];

/// Commands that need little: the requests of a worker may fill a node.
const LIGHT: [&str; 2] = ["load", "proxy"];
const LIGHT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "256Mi")];

/// Limits the cost of a Job that was kept or left behind.
const SECONDS_TO_KEEP: i32 = 3600;
/// Time for the command to react to SIGTERM.
const MAX_GRACE_SECONDS: i64 = 30;
/// This much after `--timeout` Kubernetes ends a Job whose client has died.
const SLACK_SECONDS: u64 = 60;

/// What a person asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// The arguments of `layra-worker`.
    pub(super) arguments: &'a [String],
    /// Image in place of the pipeline's.
    pub(super) image: Option<&'a str>,
    /// Whether the devices of a worker are requested.
    pub(super) gpu: bool,
    pub(super) timeout: Option<Duration>,
}

/// Name of the Deployment with the workers of a pipeline.
pub(crate) fn deployment_name(pipeline: &str) -> String {
    format!("{pipeline}-worker")
}

/// Builds the Job. It fails when the Deployment is not one that the operator has made.
pub(super) fn build(
    pipeline: &IngestionPipeline,
    deployment: &Deployment,
    request: &Request<'_>,
) -> anyhow::Result<Job> {
    let name = pipeline.name_any();
    let workers = deployment.spec.clone().unwrap_or_default();
    let selector = workers.selector.match_labels.unwrap_or_default();
    let metadata = workers.template.metadata.unwrap_or_default();
    let pod = workers.template.spec.unwrap_or_default();
    let pod = pod_spec(pod, pipeline, request)
        .with_context(|| format!("Deployment {} cannot be used", deployment.name_any()))?;

    let own_labels = labels(&name);
    let mut pod_labels = metadata.labels.unwrap_or_default();
    // Otherwise the pod would count as a worker: for the Deployment, the Service, the disruption
    // budget and the operator.
    pod_labels.retain(|label, _| !selector.contains_key(label));
    pod_labels.extend(own_labels.clone());
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|annotation, _| !annotation.starts_with(&format!("{API_GROUP}/")));

    Ok(Job {
        metadata: ObjectMeta {
            // Kubernetes adds five characters, and cuts what is too long.
            generate_name: Some(format!("{name}-{}-", command_name(request.arguments))),
            namespace: pipeline.namespace(),
            labels: Some(own_labels),
            owner_references: pipeline.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(SECONDS_TO_KEEP),
            active_deadline_seconds: request.timeout.map(|timeout| {
                i64::try_from(timeout.as_secs().saturating_add(SLACK_SECONDS)).unwrap_or(i64::MAX)
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn labels(pipeline: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "layra-command"),
        ("app.kubernetes.io/component", "command"),
        ("app.kubernetes.io/managed-by", "kubectl-layra"),
        ("app.kubernetes.io/part-of", "layra"),
        ("ingest.layra.io/pipeline", pipeline),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into()
}

/// The worker's command in the name of the Job.
fn command_name(arguments: &[String]) -> &str {
    let is_word = |text: &&String| {
        text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.ends_with(|last: char| last.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
            && text.len() <= 20
    };
    arguments
        .first()
        .filter(is_word)
        .map_or("run", String::as_str)
}

fn pod_spec(
    mut pod: PodSpec,
    pipeline: &IngestionPipeline,
    request: &Request<'_>,
) -> anyhow::Result<PodSpec> {
    pod.restart_policy = Some("Never".to_owned());
    let grace = pod.termination_grace_period_seconds;
    pod.termination_grace_period_seconds =
        Some(grace.map_or(MAX_GRACE_SECONDS, |grace| grace.min(MAX_GRACE_SECONDS)));
    let init_containers = pod.init_containers.get_or_insert_default();
    if !needs_model(request.arguments) {
        init_containers.retain(|container| container.name != FETCH_MODEL);
    }
    let image = request.image.or(pipeline.spec.worker.image.as_deref());
    for container in init_containers.iter_mut().chain(&mut pod.containers) {
        if let (WORKER | FETCH_MODEL, Some(image)) = (container.name.as_str(), image) {
            container.image = Some(image.to_owned());
        }
        if !request.gpu {
            without_devices(container);
        }
    }
    if init_containers.is_empty() {
        pod.init_containers = None;
    }
    if !request.gpu {
        pod.resource_claims = None;
    }
    let worker = pod
        .containers
        .iter_mut()
        .find(|container| container.name == WORKER)
        .with_context(|| format!("it has no container {WORKER}"))?;
    run_command(worker, request.arguments)?;
    let command = request.arguments.first().map_or("", String::as_str);
    if LIGHT.contains(&command)
        && let Some(resources) = &mut worker.resources
    {
        resources.requests = Some(
            LIGHT_REQUESTS
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
        );
    }
    Ok(pod)
}

/// Whether the model has to be in the pod before the command starts.
fn needs_model(arguments: &[String]) -> bool {
    let command = arguments.first().map_or("", String::as_str);
    let is_help = |argument: &String| matches!(argument.as_str(), "-h" | "--help");
    let asks = |argument: &String| argument.starts_with("--questions");
    if command == "tune" && !arguments.iter().any(asks) {
        return false;
    }
    !WITHOUT_MODEL.contains(&command) && !command.starts_with('-') && !arguments.iter().any(is_help)
}

/// Makes the container run the command in place of the worker.
fn run_command(container: &mut Container, arguments: &[String]) -> anyhow::Result<()> {
    let worker_arguments = container.args.take().unwrap_or_default();
    let variables = container.env.get_or_insert_default();
    for (flag, variable) in SETTINGS {
        if let Some(value) = value_of(&worker_arguments, flag) {
            set(variables, variable, value);
        }
        ensure!(
            variables.iter().any(|known| known.name == variable),
            "its container {} has no argument {flag}",
            container.name
        );
    }
    container.args = Some(arguments.to_vec());
    container.ports = None;
    container.startup_probe = None;
    container.readiness_probe = None;
    container.liveness_probe = None;
    container.lifecycle = None;
    Ok(())
}

fn value_of<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(position + 1).map(String::as_str)
}

fn set(variables: &mut Vec<EnvVar>, name: &str, value: &str) {
    variables.retain(|variable| variable.name != name);
    variables.push(EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    });
}

/// Removes requests of GPUs and other devices, and moves a model on a GPU to the CPU.
fn without_devices(container: &mut Container) {
    if let Some(resources) = &mut container.resources {
        let ResourceRequirements {
            limits,
            requests,
            claims,
        } = resources;
        let without = |resources: &mut Option<BTreeMap<String, Quantity>>| {
            if let Some(resources) = resources {
                resources.retain(|resource, _| !is_device(resource));
            }
        };
        without(limits);
        without(requests);
        *claims = None;
    }
    for variable in container.env.iter_mut().flatten() {
        let value = variable.value.as_deref().unwrap_or_default();
        if variable.name == DEVICE && value.starts_with("cuda") {
            variable.value = Some("cpu".to_owned());
        }
    }
}

/// Whether a resource is one of a device plugin: their names have the domain of the vendor.
fn is_device(resource: &str) -> bool {
    resource
        .split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
