use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use layra_crds::{GpuSpec, SecretRef};

use super::*;
use crate::fixtures;

fn workload(pipeline: &IngestionPipeline) -> Workload {
    let inputs = Inputs {
        default_image: "layra-worker:1.0",
        secrets_hash: "5ec7e7",
        replicas: 2,
        grace_seconds: 120,
    };
    build(pipeline, &inputs).unwrap()
}

fn container(workload: &Workload) -> &k8s_openapi::api::core::v1::Container {
    &workload
        .deployment
        .spec
        .as_ref()
        .unwrap()
        .template
        .spec
        .as_ref()
        .unwrap()
        .containers[0]
}

#[test]
fn a_minimal_pipeline_has_these_objects() {
    let workload = workload(&fixtures::pipeline());
    insta::assert_yaml_snapshot!("config_map", workload.config_map);
    insta::assert_yaml_snapshot!("deployment", workload.deployment);
    insta::assert_yaml_snapshot!("service", workload.service);
    insta::assert_yaml_snapshot!("disruption_budget", workload.disruption_budget);
}

#[test]
fn gpus_are_requested_only_if_the_spec_has_them() {
    let mut pipeline = fixtures::pipeline();
    let without = workload(&pipeline);
    let limits = container(&without)
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap();
    assert!(!limits.contains_key("nvidia.com/gpu"));

    pipeline.spec.worker.gpu = Some(GpuSpec {
        resource: "nvidia.com/gpu".into(),
        count: 2,
    });
    let with = workload(&pipeline);
    let limits = container(&with)
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap();
    assert_eq!(limits["nvidia.com/gpu"].0, "2");
    let pod = with
        .deployment
        .spec
        .as_ref()
        .unwrap()
        .template
        .spec
        .as_ref();
    let fetch = &pod.unwrap().init_containers.as_ref().unwrap()[0];
    assert_eq!(fetch.resources, container(&with).resources);
}

#[test]
fn every_named_secret_is_mounted_and_none_is_in_the_configuration() {
    let mut pipeline = fixtures::pipeline();
    pipeline.spec.source.kafka.auth_secret_ref = Some(SecretRef {
        name: "kafka-login".into(),
    });
    let workload = workload(&pipeline);
    let mounts = container(&workload).volume_mounts.as_ref().unwrap();
    for path in ["kafka", "object-store", "mongodb"] {
        let path = format!("/etc/layra/secrets/{path}");
        assert!(
            mounts.iter().any(|mount| mount.mount_path == path),
            "{path}"
        );
    }
}

#[test]
fn a_referenced_key_is_a_file_of_a_fixed_name() {
    let mut pipeline = fixtures::pipeline();
    let store = &mut pipeline.spec.documents.object_store;
    store.secret_key_secret_ref.name = "minio".into();
    store.secret_key_secret_ref.key = "root-password".into();
    let workload = workload(&pipeline);
    let pod = workload.deployment.spec.unwrap().template.spec.unwrap();
    let volumes = pod.volumes.unwrap();
    let volume = volumes.iter().find(|it| it.name == "secret-object-store");
    let sources = volume.unwrap().projected.clone().unwrap().sources.unwrap();
    let files: Vec<_> = sources
        .into_iter()
        .map(|source| {
            let secret = source.secret.unwrap();
            let item = secret.items.unwrap().remove(0);
            (secret.name, item.key, item.path)
        })
        .collect();
    let file = |name: &str, key: &str, path: &str| (name.into(), key.into(), path.into());
    assert_eq!(
        files,
        [
            file("s3", "accessKey", "accessKey"),
            file("minio", "root-password", "secretKey")
        ]
    );
    let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
    let mounted =
        |mount: &&k8s_openapi::api::core::v1::VolumeMount| mount.name == "secret-object-store";
    assert_eq!(mounts.iter().filter(mounted).count(), 1);
}

#[test]
fn a_changed_configuration_rolls_the_pods() {
    let mut pipeline = fixtures::pipeline();
    let hash = |workload: &Workload| {
        let template = &workload.deployment.spec.as_ref().unwrap().template;
        template
            .metadata
            .as_ref()
            .unwrap()
            .annotations
            .as_ref()
            .unwrap()[CONFIG_HASH]
            .clone()
    };
    let before = hash(&workload(&pipeline));
    pipeline.spec.embedding.batch_pages = 4;
    assert_ne!(before, hash(&workload(&pipeline)));
}

#[test]
fn more_partitions_do_not_roll_the_pods() {
    let mut pipeline = fixtures::pipeline();
    let before = workload(&pipeline);
    pipeline.spec.source.kafka.partitions = 20;
    let after = workload(&pipeline);
    assert_ne!(before.config_map, after.config_map);
    assert_eq!(before.deployment, after.deployment);
}

#[test]
fn pain_17_a_rollout_on_a_full_node_needs_no_surge_pod() {
    let deployment = workload(&fixtures::pipeline()).deployment;
    let rolling = deployment
        .spec
        .and_then(|spec| spec.strategy?.rolling_update)
        .unwrap();
    assert_eq!(rolling.max_surge, Some(IntOrString::Int(0)));
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(1)));
}

#[test]
fn the_pod_templates_of_kept_objects_can_be_merged() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/tests/v1alpha1");
    let mut with_template = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let pipeline: IngestionPipeline = serde_yaml_ng::from_str(&text).unwrap();
        let workload = workload(&pipeline);
        assert_eq!(workload.template_error, None, "{}", path.display());
        with_template += usize::from(pipeline.spec.worker.pod_template.is_some());
    }
    assert!(with_template >= 3);
}

#[test]
fn rollouts_and_evictions_take_as_many_workers_as_the_spec_allows() {
    let mut pipeline = fixtures::pipeline();
    let percent = IntOrString::String("25%".into());
    pipeline.spec.worker.rollout.max_unavailable = percent.clone();
    let workload = workload(&pipeline);
    let strategy = workload.deployment.spec.and_then(|spec| spec.strategy);
    let rolling = strategy.and_then(|strategy| strategy.rolling_update);
    assert_eq!(rolling.unwrap().max_unavailable, Some(percent.clone()));
    let budget = workload.disruption_budget.spec.unwrap();
    assert_eq!(budget.max_unavailable, Some(percent));
}
