//! The workers.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
            SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, WorkerSpec};

use super::{Inputs, METRICS_PORT, config_map};

const CONFIG_DIRECTORY: &str = "/etc/layra/config";
const SECRETS_DIRECTORY: &str = "/etc/layra/secrets";
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
            termination_grace_period_seconds: Some(worker.termination_grace_period_seconds.into()),
            node_selector: some_map(&pod.node_selector),
            tolerations: some_list(&pod.tolerations),
            affinity: pod.affinity.clone(),
            priority_class_name: pod.priority_class_name.clone(),
            runtime_class_name: pod.runtime_class_name.clone(),
            image_pull_secrets: some_list(&pod.image_pull_secrets),
            containers: vec![container(pipeline, inputs)],
            volumes: Some(volumes(pipeline)),
            ..PodSpec::default()
        }),
    }
}

fn container(pipeline: &IngestionPipeline, inputs: &Inputs<'_>) -> Container {
    let worker = &pipeline.spec.worker;
    let image = worker
        .image
        .clone()
        .unwrap_or_else(|| inputs.default_image.to_owned());
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    env.extend(worker.pod.env.iter().cloned());
    Container {
        name: "worker".to_owned(),
        image: Some(image),
        image_pull_policy: Some(worker.image_pull_policy.clone()),
        args: Some(vec![
            "run".to_owned(),
            "--config".to_owned(),
            format!("{CONFIG_DIRECTORY}/{}", config_map::FILE),
            "--secrets".to_owned(),
            SECRETS_DIRECTORY.to_owned(),
        ]),
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
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        // The worker writes why it stopped; a crash without a word leaves its last log lines.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volume_mounts(pipeline)),
        ..Container::default()
    }
}

/// The user's resources or the default, with the GPUs.
fn resources(worker: &WorkerSpec) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned())))
            .collect()
    };
    let mut resources = worker
        .resources
        .clone()
        .unwrap_or_else(|| ResourceRequirements {
            requests: Some(quantities(&[("cpu", "1"), ("memory", "1Gi")])),
            limits: Some(quantities(&[("memory", "4Gi")])),
            claims: None,
        });
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

fn volume_mounts(pipeline: &IngestionPipeline) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount("config", CONFIG_DIRECTORY, true),
        mount("tmp", "/tmp", false),
        mount("cache", "/var/cache/layra", false),
    ];
    for (kind, _) in super::secrets(&pipeline.spec) {
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
