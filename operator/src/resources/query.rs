//! The pods that answer questions: a Deployment of `layra-worker serve`, its Service and its
//! disruption budget. Their pod template is that of the workers, with another command.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, ContainerPort, KeyToPath, LifecycleHandler, PodTemplateSpec,
            SecretVolumeSource, Service, ServicePort, ServiceSpec, SleepAction, Volume,
            VolumeMount,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};
use layra_crds::{
    DEFAULT_LINK_MINUTES, IngestionPipeline, MODEL_SERVER_PORT, QuerySpec, TokensSecretRef,
    WORKER_HTTP_PORT,
};

use super::{
    COMPONENT_LABEL, INSTANCE_LABEL, Inputs, NAME_LABEL, PodTemplateError, WORKER, config_map,
    deployment::{self, SECONDS_TO_START},
};

/// Value of [`NAME_LABEL`]: a pod that answers questions.
pub(crate) const QUERY_NAME: &str = "layra-query";
/// Value of [`COMPONENT_LABEL`].
pub(crate) const QUERY: &str = "query";
/// On the pods: the checkpoint for which they were replaced, because they had loaded another one.
pub(crate) const MODEL_CHECKSUM: &str = "ingest.layra.io/model-checksum";

/// Name of the port of LAYRA's model server.
const MODEL_PORT: &str = "model";
/// Name of the port of searches, metrics and probes. Workers have it for their metrics.
const SEARCH_PORT: &str = "metrics";
const TOKENS: &str = "search-tokens";
const TOKENS_DIRECTORY: &str = "/etc/layra/tokens";
const TOKENS_FILE: &str = "tokens.yaml";
/// Requests still arrive until every node knows that the pod goes away.
const SECONDS_BEFORE_STOP: i64 = 5;
/// The pause before the stop, 20 seconds for the requests in progress, and some more.
const GRACE_SECONDS: u32 = 40;

/// The objects of the pods that answer questions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    /// `None`: `worker.podTemplate` cannot be merged.
    pub(crate) deployment: Option<Deployment>,
    pub(crate) service: Service,
    pub(crate) disruption_budget: PodDisruptionBudget,
}

/// What they depend on in addition to the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryInputs<'a> {
    /// Worker image, unless the spec sets one.
    pub(crate) default_image: &'a str,
    /// Hash of the mounted Secrets' values.
    pub(crate) secrets_hash: &'a str,
    /// Desired number of replicas.
    pub(crate) replicas: i32,
    /// Value of [`MODEL_CHECKSUM`].
    pub(crate) model_checksum: Option<&'a str>,
}

/// Builds the objects. `None` without `spec.query`.
pub(crate) fn query(pipeline: &IngestionPipeline, inputs: &QueryInputs<'_>) -> Option<Query> {
    let spec = pipeline.spec.query.as_ref()?;
    let template = pod_template(pipeline, spec, inputs).ok();
    Some(Query {
        deployment: template.map(|template| deployment(pipeline, spec, inputs, template)),
        service: service(pipeline, spec),
        disruption_budget: disruption_budget(pipeline),
    })
}

/// The name of the Deployment and of the disruption budget.
pub(crate) fn query_name(pipeline: &str) -> String {
    format!("{pipeline}-query")
}

/// The name of the Service.
pub(crate) fn query_service_name(pipeline: &str, spec: &QuerySpec) -> String {
    let named = spec.service.name.clone();
    named.unwrap_or_else(|| query_name(pipeline))
}

fn deployment(
    pipeline: &IngestionPipeline,
    spec: &QuerySpec,
    inputs: &QueryInputs<'_>,
    template: PodTemplateSpec,
) -> Deployment {
    let name = pipeline.name_any();
    // While replicas are replaced, as many as before answer. On nodes whose GPUs are all in use
    // another one would stay pending.
    let (surge, unavailable) = match spec.gpu {
        Some(_) => (0, 1),
        None => (1, 0),
    };
    Deployment {
        metadata: metadata(pipeline, query_name(&name)),
        spec: Some(DeploymentSpec {
            replicas: Some(inputs.replicas),
            revision_history_limit: Some(3),
            progress_deadline_seconds: Some(SECONDS_TO_START + 600),
            selector: selector(&name),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod_template(
    pipeline: &IngestionPipeline,
    spec: &QuerySpec,
    inputs: &QueryInputs<'_>,
) -> Result<PodTemplateSpec, PodTemplateError> {
    let mut like_workers = pipeline.clone();
    let worker = &mut like_workers.spec.worker;
    let lacks_gpu = worker.gpu.is_some() && spec.gpu.is_none();
    worker.gpu.clone_from(&spec.gpu);
    worker.termination_grace_period_seconds = Some(GRACE_SECONDS);
    if spec.resources.is_some() {
        worker.resources.clone_from(&spec.resources);
    }
    if lacks_gpu {
        // An image for GPUs does not start without the driver.
        worker.image = None;
    }
    let worker_inputs = Inputs {
        default_image: inputs.default_image,
        secrets_hash: inputs.secrets_hash,
        replicas: inputs.replicas,
        grace_seconds: GRACE_SECONDS,
    };
    let hash = config_map::hash_without_source(pipeline);
    let (mut template, error) = deployment::merged_template(&like_workers, &worker_inputs, &hash);
    if let Some(error) = error {
        return Err(error);
    }
    let metadata = template.metadata.get_or_insert_default();
    let own = labels(&pipeline.name_any());
    metadata.labels.get_or_insert_default().extend(own);
    if let Some(checksum) = inputs.model_checksum {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(MODEL_CHECKSUM.to_owned(), checksum.to_owned());
    }
    let pod = template.spec.get_or_insert_default();
    if lacks_gpu {
        pod.resource_claims = None;
        // That of the GPU's driver.
        pod.runtime_class_name = None;
    }
    pod.volumes
        .get_or_insert_default()
        .extend(spec.tokens_secret_ref.as_ref().map(tokens_volume));
    let mut containers = pod.containers.iter_mut();
    if let Some(container) = containers.find(|container| container.name == WORKER) {
        serve(container, spec);
    }
    Ok(template)
}

/// Makes a worker's container one that answers questions.
fn serve(container: &mut Container, spec: &QuerySpec) {
    let mut arguments = deployment::arguments(&["serve"]);
    if spec.tokens_secret_ref.is_some() {
        arguments.push("--tokens".to_owned());
        arguments.push(format!("{TOKENS_DIRECTORY}/{TOKENS_FILE}"));
        let mounts = container.volume_mounts.get_or_insert_default();
        mounts.push(VolumeMount {
            name: TOKENS.to_owned(),
            mount_path: TOKENS_DIRECTORY.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    arguments.extend(answers(spec));
    container.args = Some(arguments);
    let env = container.env.get_or_insert_default();
    env.retain(|variable| variable.name != "LAYRA_GRACE_SECONDS");
    container.ports = Some(vec![
        port(MODEL_PORT, MODEL_SERVER_PORT),
        port(SEARCH_PORT, WORKER_HTTP_PORT),
    ]);
    container.liveness_probe = Some(deployment::probe("/livez", 10, 6));
    let sleep = LifecycleHandler {
        sleep: Some(SleepAction {
            seconds: SECONDS_BEFORE_STOP,
        }),
        ..LifecycleHandler::default()
    };
    let lifecycle = container.lifecycle.get_or_insert_default();
    lifecycle.pre_stop.get_or_insert(sleep);
}

/// What the object says about answers. Defaults are not passed on: pods stay when there are more.
fn answers(spec: &QuerySpec) -> Vec<String> {
    let origins = spec.allowed_origins.iter();
    let mut arguments: Vec<String> = origins
        .flat_map(|origin| ["--allow-origin".to_owned(), origin.clone()])
        .collect();
    if spec.link_minutes != DEFAULT_LINK_MINUTES {
        arguments.push("--link-minutes".to_owned());
        arguments.push(spec.link_minutes.to_string());
    }
    if spec.public_bucket {
        arguments.push("--public-bucket".to_owned());
    }
    arguments
}

/// The key of the Secret as a file. The kubelet updates it, and the server reads it again.
fn tokens_volume(tokens: &TokensSecretRef) -> Volume {
    Volume {
        name: TOKENS.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(tokens.name.clone()),
            default_mode: Some(0o440),
            items: Some(vec![KeyToPath {
                key: tokens.key.clone(),
                path: TOKENS_FILE.to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..Volume::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn service(pipeline: &IngestionPipeline, spec: &QuerySpec) -> Service {
    let name = pipeline.name_any();
    let port = |name: &str, number: u16, target: &str| ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(target.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(pipeline, query_service_name(&name, spec)),
        spec: Some(ServiceSpec {
            selector: Some(selector_labels(&name)),
            ports: Some(vec![
                port(MODEL_PORT, spec.service.port, MODEL_PORT),
                port("search", WORKER_HTTP_PORT, SEARCH_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn disruption_budget(pipeline: &IngestionPipeline) -> PodDisruptionBudget {
    let name = pipeline.name_any();
    PodDisruptionBudget {
        metadata: metadata(pipeline, query_name(&name)),
        spec: Some(PodDisruptionBudgetSpec {
            // Not `minAvailable`: it would block the eviction of the only replica.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(&name)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

fn metadata(pipeline: &IngestionPipeline, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: pipeline.namespace(),
        labels: Some(labels(&pipeline.name_any())),
        owner_references: pipeline.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Its pods are no workers: the workers' Deployment, Service and disruption budget and the
/// autoscaler do not count them.
fn labels(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = super::labels(pipeline);
    labels.extend(selector_labels(pipeline));
    labels.insert(COMPONENT_LABEL.to_owned(), QUERY.to_owned());
    labels
}

fn selector_labels(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME_LABEL.to_owned(), QUERY_NAME.to_owned()),
        (INSTANCE_LABEL.to_owned(), pipeline.to_owned()),
    ])
}

fn selector(pipeline: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector_labels(pipeline)),
        ..LabelSelector::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    const INPUTS: QueryInputs<'_> = QueryInputs {
        default_image: "layra-worker:1.0",
        secrets_hash: "5ec7e7",
        replicas: 2,
        model_checksum: None,
    };

    fn pipeline(query: Value) -> IngestionPipeline {
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.query = Some(serde_json::from_value(query).unwrap());
        pipeline
    }

    fn built(pipeline: &IngestionPipeline) -> Query {
        query(pipeline, &INPUTS).unwrap()
    }

    fn template(query: &Query) -> &PodTemplateSpec {
        let deployment = query.deployment.as_ref().unwrap();
        &deployment.spec.as_ref().unwrap().template
    }

    fn pod(query: &Query) -> &PodSpec {
        template(query).spec.as_ref().unwrap()
    }

    #[test]
    fn the_objects_of_a_minimal_pipeline() {
        let query = built(&pipeline(json!({})));
        insta::assert_yaml_snapshot!("query_deployment", query.deployment.unwrap());
        insta::assert_yaml_snapshot!("query_service", query.service);
        insta::assert_yaml_snapshot!("query_disruption_budget", query.disruption_budget);
        assert_eq!(super::query(&fixtures::pipeline(), &INPUTS), None);
    }

    #[test]
    fn the_service_has_the_name_and_port_that_layra_asks() {
        let spec = json!({"service": {"name": "model-server", "port": 8005}});
        let service = built(&pipeline(spec)).service;
        assert_eq!(service.name_any(), "model-server");
        let ports = service.spec.unwrap().ports.unwrap();
        let port = ports
            .iter()
            .find(|port| port.name.as_deref() == Some("model"));
        assert_eq!(port.unwrap().port, 8005);
    }

    #[test]
    fn tokens_are_a_file_of_their_own_secret() {
        let spec = json!({"tokensSecretRef": {"name": "search", "key": "all"}});
        let query = built(&pipeline(spec));
        let pod = pod(&query);
        let volumes = pod.volumes.as_ref().unwrap();
        let volume = volumes.iter().find(|volume| volume.name == TOKENS).unwrap();
        let secret = volume.secret.as_ref().unwrap();
        assert_eq!(secret.secret_name.as_deref(), Some("search"));
        let item = &secret.items.as_ref().unwrap()[0];
        assert_eq!((&*item.key, &*item.path), ("all", "tokens.yaml"));
        let arguments = pod.containers[0].args.as_ref().unwrap();
        assert!(arguments.ends_with(&["--tokens".into(), "/etc/layra/tokens/tokens.yaml".into()]));
        let fetch = &pod.init_containers.as_ref().unwrap()[0];
        let mounts = fetch.volume_mounts.as_ref().unwrap();
        assert!(mounts.iter().all(|mount| mount.name != TOKENS));
    }

    #[test]
    fn what_differs_from_the_defaults_of_answers_is_passed_on() {
        let arguments = |spec: Value| {
            let query = built(&pipeline(spec));
            let mut arguments = pod(&query).containers[0].args.clone().unwrap();
            arguments.split_off(arguments.iter().position(|it| it == "serve").unwrap() + 1)
        };
        let none = arguments(json!({}));
        let spec = json!({
            "allowedOrigins": ["https://app.example.com", "http://localhost:8080"],
            "linkMinutes": 15,
            "publicBucket": true,
        });
        assert_eq!(
            arguments(spec)[none.len()..],
            [
                "--allow-origin",
                "https://app.example.com",
                "--allow-origin",
                "http://localhost:8080",
                "--link-minutes",
                "15",
                "--public-bucket",
            ]
        );
        assert_eq!(arguments(json!({"linkMinutes": 60})), none);
    }

    #[test]
    fn its_pods_have_the_pod_template_of_the_workers_and_their_own_gpus_and_resources() {
        let mut pipeline = pipeline(json!({"resources": {"limits": {"memory": "3Gi"}}}));
        let worker = &mut pipeline.spec.worker;
        worker.image = Some("layra-worker:1.0-cuda".into());
        worker.gpu = Some(
            serde_json::from_value(json!({"resource": "nvidia.com/gpu", "count": 1})).unwrap(),
        );
        worker.pod_template = Some(
            serde_json::from_value(json!({
                "metadata": {"labels": {"team": "search"}},
                "spec": {
                    "runtimeClassName": "nvidia",
                    "containers": [{"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}]}],
                },
            }))
            .unwrap(),
        );
        let limits = |query: &Query| {
            let resources = pod(query).containers[0].resources.clone();
            let limits = resources.unwrap().limits.unwrap();
            json!(limits)
        };
        let cpu = built(&pipeline);
        assert_eq!(limits(&cpu), json!({"memory": "3Gi"}));
        assert_eq!(pod(&cpu).runtime_class_name, None);
        assert_eq!(
            pod(&cpu).containers[0].image.as_deref(),
            Some("layra-worker:1.0"),
            "the image for GPUs does not start without one"
        );
        let labels = template(&cpu).metadata.as_ref().unwrap().labels.as_ref();
        assert_eq!(labels.unwrap()["team"], "search");
        assert_eq!(labels.unwrap()["app.kubernetes.io/name"], "layra-query");
        let env = pod(&cpu).containers[0].env.as_ref().unwrap();
        assert!(env.iter().any(|variable| variable.name == "RUST_LOG"));

        let spec = pipeline.spec.query.as_mut().unwrap();
        spec.gpu.clone_from(&pipeline.spec.worker.gpu);
        let gpu = built(&pipeline);
        assert_eq!(
            limits(&gpu),
            json!({"memory": "3Gi", "nvidia.com/gpu": "1"})
        );
        assert_eq!(pod(&gpu).runtime_class_name.as_deref(), Some("nvidia"));
        let strategy = gpu.deployment.unwrap().spec.unwrap().strategy.unwrap();
        let rolling = strategy.rolling_update.unwrap();
        assert_eq!(
            rolling.max_surge,
            Some(IntOrString::Int(0)),
            "no GPU is free for it"
        );
    }

    #[test]
    fn another_topic_does_not_replace_the_pods_and_another_model_does() {
        let mut pipeline = pipeline(json!({}));
        let before = built(&pipeline);
        pipeline.spec.source.kafka.topic = "another".into();
        assert_eq!(template(&built(&pipeline)), template(&before));
        pipeline.spec.embedding.model.uri = "s3://models/other".into();
        assert_ne!(template(&built(&pipeline)), template(&before));
    }

    #[test]
    fn a_pod_template_that_cannot_be_merged_leaves_the_deployment_as_it_is() {
        let mut pipeline = pipeline(json!({}));
        let misspelt = json!({"spec": {"tolerationz": []}});
        pipeline.spec.worker.pod_template = Some(serde_json::from_value(misspelt).unwrap());
        assert_eq!(built(&pipeline).deployment, None);
    }
}
