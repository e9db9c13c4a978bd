//! `worker.podTemplate`: what a user adds to the operator's own pod template.
//!
//! The schema types only what its rules check. The operator reads the rest strictly, and the API
//! server checks the merged result in a dry run.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Additions to the worker pods, merged into the operator's own pod template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations added to the pods.
    #[serde(default, skip_serializing_if = "PodTemplateMetadata::is_empty")]
    pub metadata: PodTemplateMetadata,

    /// A partial `PodSpec`, with the fields of Kubernetes 1.36 (`kubectl explain pod.spec`). It is
    /// merged strategically: containers, initContainers, volumes and env by name, volumeMounts by
    /// mountPath; other lists replace the operator's. The worker's container is `worker`; the init
    /// container `fetch-model` downloads the model. Other containers are added to the pod. Unknown
    /// fields are refused with the condition reason `TemplateRefused`, and so is anything the API
    /// server does not accept; the workers then keep their previous template.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "pod_spec_schema")]
    pub spec: Map<String, Value>,
}

/// Labels and annotations of the worker pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.labels) || ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by', 'app.kubernetes.io/part-of'].all(k, !(k in self.labels))")
        .message("worker.podTemplate.metadata.labels must not contain app.kubernetes.io/name, instance, component, managed-by or part-of: the operator selects the pods by them. Use other labels"),
    validation = Rule::new("!has(self.annotations) || ['ingest.layra.io/config-hash', 'ingest.layra.io/secrets-hash'].all(k, !(k in self.annotations))")
        .message("worker.podTemplate.metadata.annotations must not contain ingest.layra.io/config-hash or ingest.layra.io/secrets-hash: the operator uses them to detect changes that roll the pods. Remove them")
)]
pub struct PodTemplateMetadata {
    /// Labels added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,

    /// Annotations added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

impl PodTemplateMetadata {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}

/// Every list and string that a rule visits is bounded: the API server refuses a rule whose cost it
/// cannot bound.
fn pod_spec_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [
            rule(
                "!has(self.automountServiceAccountToken)",
                "worker.podTemplate.spec.automountServiceAccountToken cannot be set: workers have \
                 no access to the Kubernetes API. Remove it; a container that needs a token can \
                 mount a projected volume with one",
            ),
            rule(
                "!has(self.terminationGracePeriodSeconds)",
                "worker.podTemplate.spec.terminationGracePeriodSeconds cannot be set. Set \
                 worker.terminationGracePeriodSeconds instead",
            ),
        ],
        "properties": {
            "automountServiceAccountToken": {
                "type": "boolean",
                "description": "Refused: workers have no access to the Kubernetes API.",
            },
            "terminationGracePeriodSeconds": {
                "type": "integer",
                "format": "int64",
                "description": "Refused: set worker.terminationGracePeriodSeconds instead.",
            },
            "containers": containers(
                "worker",
                "Merged by name. `worker` is the worker's own; its env, volumeMounts, \
                 securityContext and other fields that the operator leaves unset can be set.",
            ),
            "initContainers": containers(
                "fetch-model",
                "Merged by name. `fetch-model` is the operator's own and runs first. Like `worker`, \
                 it needs the env of an HTTP proxy and the volumeMounts of a model at a `file://` \
                 address.",
            ),
            "volumes": {
                "type": "array",
                "description": "Merged by name. `tmp`, `cache` and, without \
                    embedding.model.cacheClaim, `models` replace the operator's emptyDir volumes.",
                "maxItems": 64,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "required": ["name"],
                    "properties": {
                        "name": name("Name of the volume.", 63),
                    },
                    "x-kubernetes-validations": [rule(
                        "!(self.name in ['config', 'secret-kafka', 'secret-object-store', \
                         'secret-milvus', 'secret-mongodb', 'secret-redis', 'secret-model'])",
                        "worker.podTemplate.spec.volumes must not contain the operator's own \
                         volumes `config` and `secret-*`. Use another name",
                    )],
                },
            },
        },
    })
}

/// A list of containers; `own` is the name of the operator's.
fn containers(own: &str, description: &str) -> Value {
    json!({
        "type": "array",
        "description": description,
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "required": ["name"],
            "properties": container_properties(own),
            "x-kubernetes-validations": container_rules(own),
        },
    })
}

/// The fields of a container that the rules read.
fn container_properties(own: &str) -> Value {
    let refused = format!("Refused in `{own}`.");
    let instead = |field: &str| format!("Refused in `{own}`: set {field} instead.");
    let text = |description: &str| json!({"type": "string", "description": description});
    let object = |description: &str| {
        json!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "description": description,
        })
    };
    let words = json!({"type": "array", "items": {"type": "string"}, "description": refused});
    let list = |description: &str, key: &str, longest_list: u32, key_schema: Value| {
        json!({
            "type": "array",
            "description": description,
            "maxItems": longest_list,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [key],
            "items": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "required": [key],
                "properties": {key: key_schema},
            },
        })
    };
    json!({
        "name": name("Name of the container.", 63),
        "image": text(&instead("worker.image")),
        "imagePullPolicy": text(&instead("worker.imagePullPolicy")),
        "resources": object(&instead("worker.resources or worker.gpu")),
        "command": words.clone(),
        "args": words,
        "ports": {
            "type": "array",
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "description": refused,
        },
        "startupProbe": object(&refused),
        "readinessProbe": object(&refused),
        "livenessProbe": object(&refused),
        "restartPolicy": text(&refused),
        "terminationMessagePath": text(&refused),
        "terminationMessagePolicy": text(&refused),
        "env": list("Merged by name.", "name", 128, name("Name of the variable.", 253)),
        "volumeMounts": list(
            "Merged by mountPath.",
            "mountPath",
            64,
            name("Path in the container.", 1024),
        ),
    })
}

/// Fields that must not be set in the operator's own containers.
fn container_rules(own: &str) -> Value {
    let place = format!("worker.podTemplate.spec: container `{own}` must not");
    let rule = |condition: &str, message: &str| {
        rule(
            &format!("self.name != '{own}' || ({condition})"),
            &format!("{place} {message}"),
        )
    };
    json!([
        rule(
            "!has(self.image) && !has(self.imagePullPolicy) && !has(self.resources)",
            "set image, imagePullPolicy or resources. Set worker.image, worker.imagePullPolicy, \
             worker.resources and worker.gpu instead",
        ),
        rule(
            "!has(self.command) && !has(self.args) && !has(self.ports) && \
             !has(self.startupProbe) && !has(self.readinessProbe) && !has(self.livenessProbe) && \
             !has(self.restartPolicy) && !has(self.terminationMessagePath) && \
             !has(self.terminationMessagePolicy)",
            "set command, args, ports, startupProbe, readinessProbe, livenessProbe, \
             restartPolicy, terminationMessagePath or terminationMessagePolicy: the operator \
             depends on its own. Remove them",
        ),
        rule(
            "!has(self.env) || self.env.all(e, !(e.name in ['POD_NAME', 'POD_NAMESPACE', \
             'LAYRA_CONFIG', 'LAYRA_SECRETS', 'LAYRA_CACHE_DIR', 'LAYRA_LISTEN', \
             'LAYRA_MODEL_FETCHED', 'LAYRA_GRACE_SECONDS']))",
            "set the variables POD_NAME, POD_NAMESPACE, LAYRA_CONFIG, LAYRA_SECRETS, \
             LAYRA_CACHE_DIR, LAYRA_LISTEN, LAYRA_MODEL_FETCHED or LAYRA_GRACE_SECONDS: the \
             operator sets them. Remove them",
        ),
        rule(
            "!has(self.volumeMounts) || \
             self.volumeMounts.all(m, !m.mountPath.startsWith('/etc/layra'))",
            "mount anything below /etc/layra: the configuration and the Secrets are there. Use \
             another mountPath",
        ),
    ])
}

fn name(description: &str, longest: u32) -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": longest,
        "description": description,
    })
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}
