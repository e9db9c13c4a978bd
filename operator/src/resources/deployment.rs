//! The workers.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
            PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
            ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, SecretKind, WorkerSpec};

use super::{FETCH_MODEL, Inputs, METRICS_PORT, WORKER, config_map};

const CONFIG_DIRECTORY: &str = "/etc/layra/config";
const SECRETS_DIRECTORY: &str = "/etc/layra/secrets";
const CACHE_DIRECTORY: &str = "/var/cache/layra";
/// The user of the worker's image.
const USER: i64 = 65532;
/// A worker fetches and loads its model before it is ready.
const SECONDS_TO_START: i32 = 1200;

pub(super) fn build(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
    config_hash: &str,
) -> Deployment {
    let name = pipeline.name_any();
    Deployment {
        metadata: super::metadata(pipeline),
        spec: Some(DeploymentSpec {
            replicas: Some(inputs.replicas),
            revision_history_limit: Some(3),
            progress_deadline_seconds: Some(SECONDS_TO_START + 600),
            selector: super::selector(&name),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    // On nodes whose GPUs are all taken a surge pod would wait for ever.
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            template: template(pipeline, inputs, config_hash),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn template(
    pipeline: &IngestionPipeline,
    inputs: &Inputs<'_>,
    config_hash: &str,
) -> PodTemplateSpec {
    let worker = &pipeline.spec.worker;
    let pod = &worker.pod;
    let mut labels = pod.labels.clone();
    labels.extend(super::labels(&pipeline.name_any()));
    let mut annotations = pod.annotations.clone();
    annotations.insert(super::CONFIG_HASH.to_owned(), config_hash.to_owned());
    annotations.insert(
        super::SECRETS_HASH.to_owned(),
        inputs.secrets_hash.to_owned(),
    );
    annotations
        .entry("kubectl.kubernetes.io/default-container".to_owned())
        .or_insert_with(|| "worker".to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            service_account_name: pod.service_account_name.clone(),
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
            node_selector: some_map(&pod.node_selector),
            tolerations: some_list(&pod.tolerations),
            affinity: pod.affinity.clone(),
            priority_class_name: pod.priority_class_name.clone(),
            runtime_class_name: pod.runtime_class_name.clone(),
            image_pull_secrets: some_list(&pod.image_pull_secrets),
            init_containers: Some(vec![fetch_model(pipeline, inputs)]),
            containers: vec![container(pipeline, inputs)],
            volumes: Some(volumes(pipeline)),
            ..PodSpec::default()
        }),
    }
}

/// Fetches the model into the cache once a pod, and leaves its checksum as its last words.
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
        env: some_list(&worker.pod.env),
        // An image for GPUs does not start without the driver, which comes with the device. The
        // kubelet hands the same devices on to the worker.
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
        // Without `auto`: a GPU that was paid for and is not there must not go unnoticed.
        let device = worker.gpu.as_ref().map_or("cpu", |_| "cuda:0");
        env.push(value("LAYRA_DEVICE", device));
    }
    env.extend(worker.pod.env.iter().cloned());
    Container {
        name: WORKER.to_owned(),
        image: Some(image(worker, inputs)),
        image_pull_policy: Some(worker.image_pull_policy.clone()),
        args: Some(arguments(&["run"])),
        env: Some(env),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: METRICS_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/readyz", 5, SECONDS_TO_START / 5)),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        resources: Some(resources(worker)),
        security_context: Some(security()),
        // The worker writes why it stopped; a crash without a word leaves its last log lines.
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

/// A command of the worker with the pipeline's configuration and secrets.
fn arguments(command: &[&str]) -> Vec<String> {
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
        models(pipeline, named("models")),
    ];
    for (kind, secret) in super::secrets(&pipeline.spec) {
        volumes.push(Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..named(&secret_volume(kind.directory()))
        });
    }
    volumes.extend(pipeline.spec.worker.pod.volumes.iter().cloned());
    volumes
}

/// The volume with the fetched model: the user's claim, or one that lives as long as the pod.
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

/// What a container sees. A worker needs no token for the model: it has the files.
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
        mount("models", &format!("{CACHE_DIRECTORY}/models"), false),
    ];
    for (kind, _) in super::secrets(&pipeline.spec) {
        if !needs(kind) {
            continue;
        }
        let directory = kind.directory();
        let path = format!("{SECRETS_DIRECTORY}/{directory}");
        mounts.push(mount(&secret_volume(directory), &path, true));
    }
    mounts.extend(pipeline.spec.worker.pod.volume_mounts.iter().cloned());
    mounts
}

fn secret_volume(directory: &str) -> String {
    format!("secret-{directory}")
}

fn value(name: &str, text: &str) -> EnvVar {
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

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
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

fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

fn some_list<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}
