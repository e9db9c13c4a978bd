//! Pods that run one command of `layra-worker` beside the workers, for a Job or a `CronJob`: the
//! workers' pod template with the same configuration, Secrets and service account, without probes and,
//! unless the command embeds, without model and GPU.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, PodTemplateSpec, ResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Resource, ResourceExt};
use layra_crds::{API_GROUP, IngestionPipeline};

use super::{
    COMPONENT_LABEL, FETCH_MODEL, INSTANCE_LABEL, Inputs, MAINTENANCE_NAME, NAME_LABEL,
    PodTemplateError, WORKER, config_map,
    deployment::{self, CONFIG_DIRECTORY, MODELS, SECRETS_DIRECTORY},
};

/// A command that runs beside the workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'a> {
    /// Part of the object's name, and a label of its pods.
    pub(super) name: &'a str,
    /// The arguments of `layra-worker`.
    pub(super) arguments: &'a [&'a str],
    pub(super) needs: Needs<'a>,
    /// Seconds to react to SIGTERM.
    pub(super) grace_seconds: u32,
}

/// What a command needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs<'a> {
    /// Neither the model nor a GPU.
    Little {
        /// CPU and memory, for example `("100m", "256Mi")`.
        requests: (&'a str, &'a str),
        /// The most memory, for example `1Gi`.
        memory_limit: &'a str,
    },
    /// It embeds: the model, and a worker's image, resources and GPU.
    Model,
}

/// The name of the command's object.
pub(super) fn object_name(pipeline: &str, command: &str) -> String {
    format!("{pipeline}-{command}")
}

/// Name, labels and owner of the command's object.
pub(super) fn metadata(pipeline: &IngestionPipeline, command: &str) -> ObjectMeta {
    let name = pipeline.name_any();
    ObjectMeta {
        name: Some(object_name(&name, command)),
        namespace: pipeline.namespace(),
        labels: Some(labels(&name, command)),
        owner_references: pipeline.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The command's pods.
pub(super) fn pod_template(
    pipeline: &IngestionPipeline,
    default_image: &str,
    command: &Command<'_>,
) -> Result<PodTemplateSpec, PodTemplateError> {
    let inputs = Inputs {
        default_image,
        secrets_hash: "",
        replicas: 0,
        grace_seconds: command.grace_seconds,
    };
    let (template, error) = deployment::merged_template(pipeline, &inputs, "");
    if let Some(error) = error {
        return Err(error);
    }
    let mut metadata = template.metadata.unwrap_or_default();
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| !key.starts_with(&format!("{API_GROUP}/")));
    let labels = labels(&pipeline.name_any(), command.name);
    metadata.labels.get_or_insert_default().extend(labels);
    let pod = template.spec.unwrap_or_default();
    Ok(PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(pod_spec(pod, pipeline, default_image, command)),
    })
}

/// Its pods are no workers: the Deployment, the Service, the disruption budget and the autoscaler
/// do not count them.
fn labels(pipeline: &str, command: &str) -> BTreeMap<String, String> {
    let mut labels = super::labels(pipeline);
    labels.extend([
        (NAME_LABEL.to_owned(), MAINTENANCE_NAME.to_owned()),
        (COMPONENT_LABEL.to_owned(), command.to_owned()),
        (INSTANCE_LABEL.to_owned(), pipeline.to_owned()),
    ]);
    labels
}

fn pod_spec(
    mut pod: PodSpec,
    pipeline: &IngestionPipeline,
    default_image: &str,
    command: &Command<'_>,
) -> PodSpec {
    let embeds = command.needs == Needs::Model;
    let lacks_gpu = !embeds && pipeline.spec.worker.gpu.is_some();
    pod.restart_policy = Some("Never".to_owned());
    pod.termination_grace_period_seconds = Some(command.grace_seconds.into());
    if !embeds {
        pod.resource_claims = None;
    }
    if lacks_gpu {
        // That of the GPU's driver.
        pod.runtime_class_name = None;
    }
    // The pod ends with the command: of the user's containers, only sidecars may stay.
    pod.containers.retain(|container| container.name == WORKER);
    let init = pod.init_containers.get_or_insert_default();
    init.retain(|container| embeds || container.name != FETCH_MODEL);
    if init.is_empty() {
        pod.init_containers = None;
    }
    for container in &mut pod.containers {
        run_command(container, command);
        if lacks_gpu {
            // An image for GPUs does not start without the driver.
            container.image = Some(default_image.to_owned());
        }
    }
    let containers = pod.containers.iter();
    let all = containers.chain(pod.init_containers.iter().flatten());
    let mounted: BTreeSet<&str> = all
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .map(|mount| mount.name.as_str())
        .collect();
    if let Some(volumes) = &mut pod.volumes {
        volumes.retain(|volume| mounted.contains(volume.name.as_str()));
    }
    pod
}

fn run_command(container: &mut Container, command: &Command<'_>) {
    let arguments = command.arguments.iter();
    container.args = Some(arguments.map(|word| (*word).to_owned()).collect());
    container.startup_probe = None;
    container.readiness_probe = None;
    container.liveness_probe = None;
    container.lifecycle = None;
    let env = container.env.get_or_insert_default();
    if let Needs::Little {
        requests,
        memory_limit,
    } = command.needs
    {
        env.retain(|variable| !["LAYRA_MODEL_FETCHED", "LAYRA_DEVICE"].contains(&&*variable.name));
        container.resources = Some(resources(requests, memory_limit));
        let mounts = container.volume_mounts.get_or_insert_default();
        mounts.retain(|mount| mount.name != MODELS);
    }
    let config = format!("{CONFIG_DIRECTORY}/{}", config_map::FILE);
    for (name, text) in [
        ("LAYRA_CONFIG", config.as_str()),
        ("LAYRA_SECRETS", SECRETS_DIRECTORY),
    ] {
        env.push(deployment::value(name, text));
    }
}

fn resources(requests: (&str, &str), memory_limit: &str) -> ResourceRequirements {
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    let (cpu, memory) = requests;
    ResourceRequirements {
        requests: Some([quantity("cpu", cpu), quantity("memory", memory)].into()),
        limits: Some([quantity("memory", memory_limit)].into()),
        claims: None,
    }
}
