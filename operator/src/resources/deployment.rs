//! The workers' Deployment.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector,
            PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
            ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection,
            SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, ReferencedSecret, SecretKind, WORKER_HTTP_PORT, WorkerSpec};

use super::{
    FETCH_MODEL, Inputs, WORKER, config_map,
    pod_template::{self, PodTemplateError},
};

pub(super) const CONFIG_DIRECTORY: &str = "/etc/layra/config";
pub(super) const SECRETS_DIRECTORY: &str = "/etc/layra/secrets";
const CACHE_DIRECTORY: &str = "/var/cache/layra";
/// Volume with the downloaded model.
pub(super) const MODELS: &str = "models";
/// The user of the worker's image.
const USER: i64 = 65532;
/// A worker downloads and loads its model before it is ready.
pub(super) const SECONDS_TO_START: i32 = 1200;

/// The Deployment, and why `worker.podTemplate` could not be merged into it.
pub(super) fn build(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
    config_hash: &str,
) -> (Deployment, Option<PodTemplateError>) {
    let name = pipeline.name_any();
    let (template, error) = merged_template(pipeline, inputs, config_hash);
    let deployment = Deployment {
        metadata: metadata(pipeline, inputs),
        spec: Some(DeploymentSpec {
            replicas: Some(inputs.replicas),
            revision_history_limit: Some(3),
            progress_deadline_seconds: Some(SECONDS_TO_START + 600),
            selector: super::selector(&name),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    // On nodes whose GPUs are all in use a surge pod would stay pending.
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(pipeline.spec.worker.rollout.max_unavailable.clone()),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    };
    (deployment, error)
}

/// The workers' pod template, and why `worker.podTemplate` could not be merged into it.
pub(super) fn merged_template(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
    config_hash: &str,
) -> (PodTemplateSpec, Option<PodTemplateError>) {
    let mut template = template(pipeline, inputs, config_hash);
    let error = merge_user_template(pipeline, &mut template).err();
    (template, error)
}

fn metadata(pipeline: &IngestionPipeline, inputs: &Inputs<'_>) -> ObjectMeta {
    let has_default = pipeline.spec.worker.image.is_none();
    let mark = (
        super::DEFAULT_IMAGE.to_owned(),
        inputs.default_image.to_owned(),
    );
    ObjectMeta {
        annotations: has_default.then(|| BTreeMap::from([mark])),
        ..super::metadata(pipeline)
    }
}

fn merge_user_template(
    pipeline: &IngestionPipeline,
    template: &mut PodTemplateSpec,
) -> Result<(), PodTemplateError> {
    let Some(user) = &pipeline.spec.worker.pod_template else {
        return Ok(());
    };
    let replaces_models = user
        .spec
        .get("volumes")
        .and_then(serde_json::Value::as_array)
        .is_some_and(|volumes| volumes.iter().any(|volume| volume["name"] == MODELS));
    if replaces_models && pipeline.spec.embedding.model.cache_claim.is_some() {
        return Err(PodTemplateError::ModelsTwice);
    }
    pod_template::merge(template, user)
}

fn template(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
    config_hash: &str,
) -> PodTemplateSpec {
    let worker = &pipeline.spec.worker;
    let annotations = [
        (super::CONFIG_HASH, config_hash),
        (super::SECRETS_HASH, inputs.secrets_hash),
        ("kubectl.kubernetes.io/default-container", WORKER),
    ];
    let annotations = annotations.map(|(key, text)| (key.to_owned(), text.to_owned()));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(super::labels(&pipeline.name_any())),
            annotations: Some(BTreeMap::from(annotations)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(grace_seconds(worker, inputs).into()),
            init_containers: Some(vec![fetch_model(pipeline, inputs)]),
            containers: vec![container(pipeline, inputs)],
            volumes: Some(volumes(pipeline)),
            ..PodSpec::default()
        }),
    }
}

/// Downloads the model into the cache, and reports its checksum in the termination message.
fn fetch_model(pipeline: &IngestionPipeline, inputs: &Inputs<'_>) -> Container {
    let worker = &pipeline.spec.worker;
    Container {
        name: FETCH_MODEL.to_owned(),
        image: Some(image(worker, inputs)),
        image_pull_policy: Some(worker.image_pull_policy.clone()),
        args: Some(arguments(&[
            "fetch-model",
            "--report",
            "/dev/termination-log",
        ])),
        // An image for GPUs does not start without the driver, which comes with the device. The
        // kubelet assigns the same devices to the worker afterwards.
        resources: Some(resources(worker)),
        security_context: Some(security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volume_mounts(pipeline, |_| true)),
        ..Container::default()
    }
}

fn container(pipeline: &IngestionPipeline, inputs: &Inputs<'_>) -> Container {
    let worker = &pipeline.spec.worker;
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        value("LAYRA_MODEL_FETCHED", "true"),
        value(
            "LAYRA_GRACE_SECONDS",
            &grace_seconds(worker, inputs).to_string(),
        ),
    ];
    if pipeline.spec.embedding.model.family.is_visual() {
        // Not `auto`: a missing GPU must be an error, not a slow worker.
        let device = worker.gpu.as_ref().map_or("cpu", |_| "cuda:0");
        env.push(value("LAYRA_DEVICE", device));
    }
    Container {
        name: WORKER.to_owned(),
        image: Some(image(worker, inputs)),
        image_pull_policy: Some(worker.image_pull_policy.clone()),
        args: Some(arguments(&["run"])),
        env: Some(env),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: WORKER_HTTP_PORT.into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/readyz", 5, SECONDS_TO_START / 5)),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        resources: Some(resources(worker)),
        security_context: Some(security()),
        // The worker writes why it stopped. After a crash the message is its last log lines.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volume_mounts(pipeline, |kind| kind != SecretKind::Model)),
        ..Container::default()
    }
}

fn grace_seconds(worker: &WorkerSpec, inputs: &Inputs<'_>) -> u32 {
    worker
        .termination_grace_period_seconds
        .unwrap_or(inputs.grace_seconds)
}

fn image(worker: &WorkerSpec, inputs: &Inputs<'_>) -> String {
    worker
        .image
        .clone()
        .unwrap_or_else(|| inputs.default_image.to_owned())
}

/// A command of `layra-worker` with the pipeline's configuration and Secrets.
pub(super) fn arguments(command: &[&str]) -> Vec<String> {
    let config = format!("{CONFIG_DIRECTORY}/{}", config_map::FILE);
    let common = ["--config", &config, "--secrets", SECRETS_DIRECTORY];
    let all = command.iter().chain(&common);
    all.map(|word| (*word).to_owned()).collect()
}

fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

/// The worker's CPU, memory and GPUs.
fn resources(worker: &WorkerSpec) -> ResourceRequirements {
    let mut resources = requirements(worker);
    if let Some(gpu) = &worker.gpu {
        // The request of an extended resource is its limit.
        let count = Quantity(gpu.count.to_string());
        resources
            .limits
            .get_or_insert_default()
            .insert(gpu.resource.clone(), count);
    }
    resources
}

/// The user's resources or the default.
fn requirements(worker: &WorkerSpec) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned())))
            .collect()
    };
    worker
        .resources
        .clone()
        .unwrap_or_else(|| ResourceRequirements {
            requests: Some(quantities(&[("cpu", "1"), ("memory", "1Gi")])),
            limits: Some(quantities(&[("memory", "4Gi")])),
            claims: None,
        })
}

fn volumes(pipeline: &IngestionPipeline) -> Vec<Volume> {
    let named = |name: &str| Volume {
        name: name.to_owned(),
        ..Volume::default()
    };
    let mut volumes = vec![
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: super::object_name(&pipeline.name_any()),
                ..ConfigMapVolumeSource::default()
            }),
            ..named("config")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..named("tmp")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..named("cache")
        },
        models(pipeline, named(MODELS)),
    ];
    let secrets = pipeline.spec.secrets();
    for of_one_kind in secrets.chunk_by(|a, b| a.kind == b.kind) {
        volumes.extend(of_one_kind.first().map(|first| {
            let name = secret_volume(first.kind.directory());
            secret(named(&name), of_one_kind)
        }));
    }
    volumes
}

/// The volume of a whole Secret, or of the referenced keys under the names that a worker reads.
fn secret(volume: Volume, secrets: &[ReferencedSecret<'_>]) -> Volume {
    let mode = Some(0o440);
    let sources: Vec<VolumeProjection> = secrets.iter().filter_map(projection).collect();
    if sources.is_empty() {
        let name = secrets.first().map(|secret| secret.name.to_owned());
        return Volume {
            secret: Some(SecretVolumeSource {
                secret_name: name,
                default_mode: mode,
                ..SecretVolumeSource::default()
            }),
            ..volume
        };
    }
    Volume {
        projected: Some(ProjectedVolumeSource {
            sources: Some(sources),
            default_mode: mode,
        }),
        ..volume
    }
}

/// `None` for a reference to a whole Secret.
fn projection(secret: &ReferencedSecret<'_>) -> Option<VolumeProjection> {
    let key = secret.key?;
    Some(VolumeProjection {
        secret: Some(SecretProjection {
            name: secret.name.to_owned(),
            items: Some(vec![KeyToPath {
                key: key.name.to_owned(),
                path: key.file.to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    })
}

/// The volume with the downloaded model: the user's claim, or one that lives as long as the pod.
fn models(pipeline: &IngestionPipeline, volume: Volume) -> Volume {
    match &pipeline.spec.embedding.model.cache_claim {
        Some(claim) => Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: None,
            }),
            ..volume
        },
        None => Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..volume
        },
    }
}

/// The mounts of a container. A worker needs no token for the model, because it has the files.
fn volume_mounts(
    pipeline: &IngestionPipeline,
    needs: impl Fn(SecretKind) -> bool,
) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount("config", CONFIG_DIRECTORY, true),
        mount("tmp", "/tmp", false),
        mount("cache", CACHE_DIRECTORY, false),
        mount(MODELS, &format!("{CACHE_DIRECTORY}/models"), false),
    ];
    let secrets = pipeline.spec.secrets();
    let mut kinds: Vec<SecretKind> = secrets.iter().map(|secret| secret.kind).collect();
    kinds.dedup();
    kinds.retain(|kind| needs(*kind));
    mounts.extend(kinds.into_iter().map(|kind| {
        let directory = kind.directory();
        let path = format!("{SECRETS_DIRECTORY}/{directory}");
        mount(&secret_volume(directory), &path, true)
    }));
    mounts
}

fn secret_volume(directory: &str) -> String {
    format!("secret-{directory}")
}

pub(super) fn value(name: &str, text: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(text.to_owned()),
        value_from: None,
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        value: None,
    }
}

pub(super) fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}
