use serde_json::json;

use super::*;

/// The Deployment of a minimal pipeline, exactly as the operator builds it.
const OPERATORS: &str = include_str!(
    "../../../src/resources/snapshots/layra_operator__resources__tests__deployment.snap"
);

fn operators_deployment() -> Deployment {
    let (_, yaml) = OPERATORS.split_once("\n---\n").unwrap();
    serde_yaml_ng::from_str(yaml).unwrap()
}

/// A Deployment with everything that a Job must change or keep.
fn gpu_deployment() -> Deployment {
    let resources = json!({
        "requests": {"cpu": "4", "memory": "12Gi"},
        "limits": {"memory": "24Gi", "nvidia.com/gpu": "1"},
    });
    let probe = json!({"httpGet": {"path": "/readyz", "port": "metrics"}});
    serde_json::from_value(json!({
        "metadata": {"name": "contracts-worker", "namespace": "rag"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {
                "app.kubernetes.io/name": "layra-worker", "app.kubernetes.io/instance": "contracts",
            }},
            "template": {
                "metadata": {
                    "labels": {
                        "app.kubernetes.io/name": "layra-worker",
                        "app.kubernetes.io/instance": "contracts",
                        "app.kubernetes.io/component": "worker",
                        "app.kubernetes.io/managed-by": "layra-operator",
                        "team": "search",
                    },
                    "annotations": {
                        "ingest.layra.io/config-hash": "1",
                        "kubectl.kubernetes.io/default-container": "worker",
                    },
                },
                "spec": {
                    "automountServiceAccountToken": false,
                    "serviceAccountName": "contracts",
                    "imagePullSecrets": [{"name": "registry"}],
                    "nodeSelector": {"gpu": "a10"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                    "securityContext": {"runAsNonRoot": true},
                    "terminationGracePeriodSeconds": 240,
                    "initContainers": [{
                        "name": "fetch-model", "image": "layra-worker:1.0-cuda",
                        "args": ["fetch-model", "--config", "/c/worker.yaml", "--secrets", "/s"],
                        "resources": resources,
                    }],
                    "containers": [{
                        "name": "worker", "image": "layra-worker:1.0-cuda",
                        "args": ["run", "--config", "/c/worker.yaml", "--secrets", "/s"],
                        "env": [
                            {"name": "LAYRA_MODEL_FETCHED", "value": "true"},
                            {"name": "LAYRA_DEVICE", "value": "cuda:0"},
                        ],
                        "resources": resources,
                        "ports": [{"name": "metrics", "containerPort": 9090}],
                        "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe,
                        "securityContext": {"readOnlyRootFilesystem": true},
                        "volumeMounts": [{"name": "secret-mongodb", "mountPath": "/s/mongodb"}],
                    }],
                    "volumes": [{"name": "secret-mongodb", "secret": {"secretName": "mongo"}}],
                },
            },
        },
    }))
    .unwrap()
}

fn pipeline() -> IngestionPipeline {
    let text = include_str!("../../../../docs/examples/minimal.yaml");
    let mut pipeline: IngestionPipeline = serde_yaml_ng::from_str(text).unwrap();
    pipeline.metadata.name = Some("contracts".to_owned());
    pipeline.metadata.namespace = Some("rag".to_owned());
    pipeline.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
    pipeline.spec.worker.image = None;
    pipeline
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn request(arguments: &[String]) -> Request<'_> {
    Request {
        arguments,
        image: None,
        gpu: false,
        timeout: None,
    }
}

fn pod(job: &Job) -> &PodSpec {
    job.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
}

fn variable<'a>(job: &'a Job, name: &str) -> Option<&'a str> {
    let variables = pod(job).containers[0].env.iter().flatten();
    variables
        .filter(|variable| variable.name == name)
        .find_map(|variable| variable.value.as_deref())
}

#[test]
fn a_command_runs_as_a_worker_would_without_being_one() {
    let arguments = words("search --knowledge-base alice_manuals question");
    let job = build(&pipeline(), &gpu_deployment(), &request(&arguments)).unwrap();
    insta::assert_yaml_snapshot!(job);
}

#[test]
fn the_operators_own_deployment_becomes_a_job() {
    let arguments = words("search --knowledge-base alice_manuals question");
    let deployment = operators_deployment();
    let job = build(&pipeline(), &deployment, &request(&arguments)).unwrap();
    let pod = pod(&job);
    assert_eq!(pod.containers[0].args, Some(arguments));
    let config = variable(&job, "LAYRA_CONFIG");
    assert_eq!(config, Some("/etc/layra/config/worker.yaml"));
    assert_eq!(variable(&job, "LAYRA_SECRETS"), Some("/etc/layra/secrets"));
    assert_eq!(pod.init_containers.as_ref().unwrap()[0].name, FETCH_MODEL);

    let workers = deployment.spec.unwrap();
    let labels = job.spec.as_ref().unwrap().template.metadata.clone();
    let labels = labels.unwrap().labels.unwrap();
    for (label, value) in workers.selector.match_labels.unwrap() {
        assert_ne!(labels.get(&label), Some(&value), "{label} selects the pod");
    }
    let template = workers.template.spec.unwrap();
    assert_eq!(pod.volumes, template.volumes);
    assert_eq!(pod.security_context, template.security_context);
    let container = &template.containers[0];
    assert_eq!(pod.containers[0].volume_mounts, container.volume_mounts);
}

#[test]
fn gpus_are_requested_when_asked_for() {
    let arguments = words("search question");
    let request = Request {
        gpu: true,
        ..request(&arguments)
    };
    let job = build(&pipeline(), &gpu_deployment(), &request).unwrap();
    assert_eq!(variable(&job, DEVICE), Some("cuda:0"));
    let resources = pod(&job).containers[0].resources.clone().unwrap();
    assert!(resources.limits.unwrap().contains_key("nvidia.com/gpu"));
}

#[test]
fn only_resources_of_device_plugins_are_devices() {
    assert!(is_device("nvidia.com/gpu") && is_device("gpu.intel.com/xe"));
    for resource in ["cpu", "hugepages-2Mi", "attach.kubernetes.io/volumes"] {
        assert!(!is_device(resource), "{resource}");
    }
}

#[test]
fn the_model_is_fetched_only_for_commands_that_use_it() {
    for (arguments, expected) in [
        ("search question", true),
        ("ingest file", true),
        ("a-later-command", true),
        ("tune --knowledge-base a --questions file", true),
        ("tune --knowledge-base a", false),
        ("delete --knowledge-base a", false),
        ("redrive --dry-run", false),
        ("reindex --dry-run", false),
        ("search --help", false),
        ("--version", false),
    ] {
        let words = words(arguments);
        let job = build(&pipeline(), &operators_deployment(), &request(&words)).unwrap();
        assert_eq!(pod(&job).init_containers.is_some(), expected, "{arguments}");
    }
}

#[test]
fn the_image_is_the_requests_else_the_pipelines_else_the_deployments() {
    let arguments = words("redrive");
    let image = |pipeline: &IngestionPipeline, image| {
        let request = Request {
            image,
            ..request(&arguments)
        };
        let job = build(pipeline, &operators_deployment(), &request).unwrap();
        pod(&job).containers[0].image.clone().unwrap()
    };
    let mut pipeline = pipeline();
    assert_eq!(image(&pipeline, None), "layra-worker:1.0");
    pipeline.spec.worker.image = Some("layra-worker:2.0".to_owned());
    assert_eq!(image(&pipeline, None), "layra-worker:2.0");
    assert_eq!(image(&pipeline, Some("mine:1")), "mine:1");
}

#[test]
fn a_job_outlives_its_timeout_only_for_a_moment() {
    let arguments = words("redrive");
    let request = Request {
        timeout: Some(Duration::from_secs(90)),
        ..request(&arguments)
    };
    let job = build(&pipeline(), &operators_deployment(), &request).unwrap();
    assert_eq!(job.spec.unwrap().active_deadline_seconds, Some(150));
}

#[test]
fn the_name_of_the_job_has_the_command_when_it_is_a_word() {
    for (argument, expected) in [
        ("search", "search"),
        ("fetch-model", "fetch-model"),
        ("--help", "run"),
        ("What?", "run"),
        ("-", "run"),
    ] {
        assert_eq!(command_name(&[argument.to_owned()]), expected);
    }
}

#[test]
fn a_deployment_without_the_workers_container_is_refused() {
    let arguments = words("redrive");
    let refused = |change: fn(&mut PodSpec)| {
        let mut deployment = gpu_deployment();
        change(
            deployment
                .spec
                .as_mut()
                .unwrap()
                .template
                .spec
                .as_mut()
                .unwrap(),
        );
        let error = build(&pipeline(), &deployment, &request(&arguments)).unwrap_err();
        format!("{error:#}")
    };
    assert_eq!(
        refused(|pod| pod.containers[0].name = "web".to_owned()),
        "Deployment contracts-worker cannot be used: it has no container worker"
    );
    assert_eq!(
        refused(|pod| pod.containers[0].args = None),
        "Deployment contracts-worker cannot be used: its container worker has no argument --config"
    );
}
