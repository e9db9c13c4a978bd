//! Merges `worker.podTemplate` into the operator's pod template. Pure.
//!
//! CEL rules of the definition refuse what the operator depends on. Here the partial `PodSpec` is
//! parsed strictly, because a misspelt field must not be dropped silently.

use k8s_openapi::{
    DeepMerge,
    api::core::v1::{EnvVar, PodSpec, PodTemplateSpec, Volume},
};
use layra_crds::PodTemplate;
use serde_json::Value;

/// A `worker.podTemplate` that cannot be merged. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PodTemplateError {
    /// A misspelt or misplaced field, or one of a newer Kubernetes version.
    #[error(
        "worker.podTemplate.{0} is not a known field of a pod. Check its spelling and nesting."
    )]
    UnknownField(String),
    /// A value of the wrong type.
    #[error("worker.podTemplate.spec is not a partial PodSpec: {0}. Correct the value.")]
    Invalid(String),
    /// Two sources for one volume.
    #[error(
        "worker.podTemplate.spec.volumes contains `models`, but embedding.model.cacheClaim already \
         names its claim. Remove one of them."
    )]
    ModelsTwice,
}

/// Merges the user's template into the operator's.
///
/// Kubernetes' merge keys apply, with two differences from `DeepMerge`: a volume and an environment
/// variable of the same name are replaced as a whole, because two sources of one are invalid.
pub(super) fn merge(
    template: &mut PodTemplateSpec,
    user: &PodTemplate,
) -> Result<(), PodTemplateError> {
    let mut spec = parse(user)?;
    let metadata = template.metadata.get_or_insert_default();
    for (ours, users) in [
        (&mut metadata.labels, &user.metadata.labels),
        (&mut metadata.annotations, &user.metadata.annotations),
    ] {
        ours.get_or_insert_default()
            .extend(users.iter().map(|(key, text)| (key.clone(), text.clone())));
    }
    let ours = template.spec.get_or_insert_default();
    replace_volumes(&mut ours.volumes, spec.volumes.take());
    let containers = spec.containers.iter_mut();
    for container in containers.chain(spec.init_containers.iter_mut().flatten()) {
        let all = ours
            .containers
            .iter_mut()
            .chain(ours.init_containers.iter_mut().flatten());
        for own in all.filter(|own| own.name == container.name) {
            replace_env(&mut own.env, container.env.take());
        }
    }
    ours.merge_from(spec);
    Ok(())
}

fn replace_volumes(ours: &mut Option<Vec<Volume>>, users: Option<Vec<Volume>>) {
    replace(ours, users, |volume| &volume.name);
}

fn replace_env(ours: &mut Option<Vec<EnvVar>>, users: Option<Vec<EnvVar>>) {
    replace(ours, users, |variable| &variable.name);
}

/// Entries of the same name take the place of ours; the others follow.
fn replace<T>(ours: &mut Option<Vec<T>>, users: Option<Vec<T>>, name: impl Fn(&T) -> &str) {
    for entry in users.into_iter().flatten() {
        let all = ours.get_or_insert_default();
        match all.iter_mut().find(|own| name(own) == name(&entry)) {
            Some(own) => *own = entry,
            None => all.push(entry),
        }
    }
}

fn parse(user: &PodTemplate) -> Result<PodSpec, PodTemplateError> {
    let given = Value::Object(user.spec.clone());
    let spec: PodSpec = serde_json::from_value(given.clone())
        .map_err(|error| PodTemplateError::Invalid(error.to_string()))?;
    // Kubernetes objects have text keys and finite numbers only: they can always be written.
    let known = serde_json::to_value(&spec).unwrap_or_default();
    match unknown_field(&given, &known, "spec") {
        Some(path) => Err(PodTemplateError::UnknownField(path)),
        None => Ok(spec),
    }
}

/// The first field of `given` that the typed object has dropped.
fn unknown_field(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given
            .iter()
            .filter(|(_, value)| !value.is_null())
            .find_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match known.get(key) {
                    Some(known) => unknown_field(value, known, &path),
                    None => Some(path),
                }
            }),
        (Value::Array(given), Value::Array(known)) => {
            let mut entries = given.iter().zip(known).enumerate();
            entries.find_map(|(index, (given, known))| {
                let name = given.get("name").and_then(Value::as_str);
                let entry = name.map_or_else(|| index.to_string(), ToOwned::to_owned);
                unknown_field(given, known, &format!("{path}[{entry}]"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;
    use layra_crds::IngestionPipeline;
    use serde_json::json;

    use super::*;
    use crate::{
        fixtures,
        resources::{Inputs, Workload, build},
    };

    fn workload(template: Value) -> Workload {
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.embedding.model.family = layra_crds::ModelFamily::ColQwen2;
        pipeline.spec.worker.pod_template = Some(serde_json::from_value(template).unwrap());
        let inputs = Inputs {
            default_image: "layra-worker:1.0",
            secrets_hash: "5ec7e7",
            replicas: 2,
            grace_seconds: 120,
        };
        build(&pipeline, &inputs).unwrap()
    }

    fn merged(template: Value) -> PodTemplateSpec {
        let workload = workload(template);
        assert_eq!(workload.template_error, None);
        workload.deployment.spec.unwrap().template
    }

    fn pod(spec: &Value) -> PodSpec {
        merged(json!({ "spec": spec })).spec.unwrap()
    }

    fn refusal(spec: &Value) -> String {
        let error = workload(json!({ "spec": spec })).template_error;
        error.expect("the template is refused").to_string()
    }

    fn env<'a>(container: &'a Container, name: &str) -> Vec<&'a EnvVar> {
        let all = container.env.iter().flatten();
        all.filter(|variable| variable.name == name).collect()
    }

    #[test]
    fn an_empty_template_changes_nothing() {
        let plain = build(
            &fixtures::pipeline(),
            &Inputs {
                default_image: "layra-worker:1.0",
                secrets_hash: "5ec7e7",
                replicas: 2,
                grace_seconds: 120,
            },
        );
        let mut template = plain.unwrap().deployment.spec.unwrap().template;
        let before = template.clone();
        merge(&mut template, &PodTemplate::default()).unwrap();
        assert_eq!(template, before);
    }

    #[test]
    fn pod_fields_are_set() {
        let pod = pod(&json!({
            "hostUsers": false,
            "runtimeClassName": "nvidia",
            "priorityClassName": "batch",
            "serviceAccountName": "layra",
            "nodeSelector": {"gpu": "a10"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "registry"}],
            "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"},
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway"}],
        }));
        assert_eq!(pod.host_users, Some(false));
        assert_eq!(pod.runtime_class_name.as_deref(), Some("nvidia"));
        assert_eq!(pod.node_selector.unwrap()["gpu"], "a10");
        assert_eq!(pod.tolerations.unwrap().len(), 1);
        let security = pod.security_context.unwrap();
        assert_eq!(
            security.fs_group_change_policy.as_deref(),
            Some("OnRootMismatch")
        );
        assert_eq!(
            security.run_as_non_root,
            Some(true),
            "the operator's other fields stay"
        );
    }

    #[test]
    fn labels_and_annotations_are_added() {
        let metadata = merged(json!({"metadata": {
            "labels": {"team": "search"},
            "annotations": {"kubectl.kubernetes.io/default-container": "proxy"}}}))
        .metadata
        .unwrap();
        let labels = metadata.labels.unwrap();
        assert_eq!(labels["team"], "search");
        assert_eq!(labels["app.kubernetes.io/instance"], "contracts");
        let annotations = metadata.annotations.unwrap();
        assert_eq!(
            annotations["kubectl.kubernetes.io/default-container"],
            "proxy"
        );
        assert!(annotations.contains_key("ingest.layra.io/config-hash"));
    }

    #[test]
    fn containers_are_merged_by_name_and_new_ones_added() {
        let pod = pod(&json!({
            "containers": [
                {"name": "worker", "securityContext": {"runAsUser": 1000}},
                {"name": "proxy", "image": "envoy:1", "env": [{"name": "A", "value": "1"}]}],
            "initContainers": [{"name": "fetch-model", "workingDir": "/tmp"}],
        }));
        let names: Vec<_> = pod.containers.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["worker", "proxy"]);
        let worker = &pod.containers[0];
        assert_eq!(worker.args.as_ref().unwrap()[0], "run");
        let security = worker.security_context.as_ref().unwrap();
        assert_eq!(security.run_as_user, Some(1000));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let fetch = &pod.init_containers.unwrap()[0];
        assert_eq!(fetch.working_dir.as_deref(), Some("/tmp"));
        assert_eq!(fetch.args.as_ref().unwrap()[0], "fetch-model");
    }

    #[test]
    fn a_variable_of_the_same_name_is_replaced_as_a_whole() {
        let pod = pod(&json!({"containers": [{"name": "worker", "env": [
            {"name": "RUST_LOG", "value": "debug"},
            {"name": "LAYRA_DEVICE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]}]}));
        let worker = &pod.containers[0];
        assert_eq!(env(worker, "RUST_LOG")[0].value.as_deref(), Some("debug"));
        let device = env(worker, "LAYRA_DEVICE");
        assert_eq!(device.len(), 1);
        assert_eq!(device[0].value, None, "only the user's source is left");
        assert_eq!(env(worker, "POD_NAME").len(), 1);
        let fetch = &pod.init_containers.unwrap()[0];
        assert_eq!(
            env(fetch, "RUST_LOG").len(),
            0,
            "each container has its own"
        );
    }

    #[test]
    fn a_volume_of_the_same_name_is_replaced_as_a_whole() {
        let pod = pod(&json!({
            "volumes": [
                {"name": "cache", "hostPath": {"path": "/scratch"}},
                {"name": "corpus", "persistentVolumeClaim": {"claimName": "corpus"}}],
            "containers": [{"name": "worker",
                "volumeMounts": [{"name": "corpus", "mountPath": "/corpus"}]}],
        }));
        let volumes = pod.volumes.unwrap();
        let caches: Vec<_> = volumes.iter().filter(|it| it.name == "cache").collect();
        assert_eq!(caches.len(), 1);
        assert_eq!(caches[0].empty_dir, None, "only the user's source is left");
        assert!(volumes.iter().any(|volume| volume.name == "corpus"));
        assert!(volumes.iter().any(|volume| volume.name == "config"));
        let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
        assert!(mounts.iter().any(|mount| mount.mount_path == "/corpus"));
        assert!(mounts.iter().any(|mount| mount.mount_path == "/tmp"));
    }

    #[test]
    fn a_misspelt_field_is_refused_with_its_path() {
        for (spec, path) in [
            (json!({"nodeSelectors": {}}), "spec.nodeSelectors"),
            (
                json!({"securityContext": {"runAsUsr": 1}}),
                "spec.securityContext.runAsUsr",
            ),
            (
                json!({"containers": [{"name": "worker", "envs": []}]}),
                "spec.containers[worker].envs",
            ),
            (
                json!({"tolerations": [{"key": "a"}, {"kye": "b"}]}),
                "spec.tolerations[1].kye",
            ),
        ] {
            let message = refusal(&spec);
            assert!(
                message.contains(&format!("podTemplate.{path} ")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused() {
        let message = refusal(&json!({"hostUsers": "no"}));
        assert!(message.contains("is not a partial PodSpec"), "{message}");
    }

    #[test]
    fn values_that_kubernetes_writes_differently_are_known() {
        pod(&json!({
            "containers": [{"name": "proxy", "image": "envoy:1",
                "resources": {"limits": {"cpu": 1}},
                "livenessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "x", "emptyDir": {}}],
            "nodeSelector": {},
            "tolerations": [],
            "affinity": null,
        }));
    }

    #[test]
    fn the_volume_of_the_models_has_one_source() {
        let mut pipeline = fixtures::pipeline();
        let template = json!({"spec": {"volumes": [{"name": "models", "emptyDir": {}}]}});
        pipeline.spec.worker.pod_template = Some(serde_json::from_value(template).unwrap());
        let inputs = Inputs {
            default_image: "layra-worker:1.0",
            secrets_hash: "",
            replicas: 0,
            grace_seconds: 120,
        };
        let error = |pipeline: &IngestionPipeline| build(pipeline, &inputs).unwrap().template_error;
        assert_eq!(error(&pipeline), None);
        pipeline.spec.embedding.model.cache_claim = Some("models".into());
        assert_eq!(error(&pipeline), Some(PodTemplateError::ModelsTwice));
    }
}
