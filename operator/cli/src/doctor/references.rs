//! Secrets and `ConfigMap`s that the object or its pods name. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodSpec;
use layra_crds::{IngestionPipelineSpec, ReferencedSecret, SecretKind};

use super::finding::{Finding, Read, Seen, Severity, Source};

/// What names a Secret or a `ConfigMap`, and which key of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) source: Source,
    pub(super) name: String,
    /// Absent: all of it.
    pub(super) key: Option<String>,
    /// The field, or the object, that names it.
    pub(super) by: String,
}

/// All references of a pipeline: those of its own fields, then those of its pods.
pub(super) fn references(spec: &IngestionPipelineSpec, pod: Option<&PodSpec>) -> Vec<Reference> {
    let mut all: Vec<Reference> = spec
        .secrets()
        .into_iter()
        .map(|secret| Reference {
            source: Source::Secret,
            name: secret.name.to_owned(),
            key: secret.key.map(|key| key.name.to_owned()),
            by: field(&secret).to_owned(),
        })
        .collect();
    if let Some(pod) = pod {
        for (source, name, key) in of_pod(pod) {
            let is_known = all.iter().any(|known| {
                known.source == source && known.name == name && (known.key == key || key.is_none())
            });
            if !is_known {
                let by = "the workers' pod template".to_owned();
                all.push(Reference {
                    source,
                    name,
                    key,
                    by,
                });
            }
        }
    }
    all
}

/// The pod template of the object, as far as it is known before there is a Deployment.
pub(super) fn own_template(spec: &IngestionPipelineSpec) -> Option<PodSpec> {
    let template = spec.worker.pod_template.as_ref()?;
    let mut pod = serde_json::Value::Object(template.spec.clone());
    // The only required field.
    if pod.get("containers").is_none() {
        pod["containers"] = serde_json::Value::Array(Vec::new());
    }
    serde_json::from_value(pod).ok()
}

fn field(secret: &ReferencedSecret<'_>) -> &'static str {
    let file = secret.key.map(|key| key.file);
    match (secret.kind, file) {
        (SecretKind::Kafka, _) => "source.kafka.authSecretRef",
        (SecretKind::ObjectStore, Some("accessKey")) => "documents.objectStore.accessKeySecretRef",
        (SecretKind::ObjectStore, Some("secretKey")) => "documents.objectStore.secretKeySecretRef",
        (SecretKind::ObjectStore, _) => "documents.objectStore.caSecretRef",
        (SecretKind::Milvus, Some("token")) => "stores.milvus.tokenSecretRef",
        (SecretKind::Milvus, _) => "stores.milvus.caSecretRef",
        (SecretKind::Mongodb, Some("uri")) => "stores.mongodb.uriSecretRef",
        (SecretKind::Mongodb, _) => "stores.mongodb.caSecretRef",
        (SecretKind::Redis, Some("uri")) => "stores.redis.uriSecretRef",
        (SecretKind::Redis, _) => "stores.redis.caSecretRef",
        (SecretKind::Model, _) => "embedding.model.tokenSecretRef",
    }
}

/// What the containers and volumes of a pod cannot do without.
fn of_pod(pod: &PodSpec) -> BTreeSet<(Source, String, Option<String>)> {
    let mut all = BTreeSet::new();
    let mut add = |source, name: &str, key: Option<&str>, optional: Option<bool>| {
        if optional != Some(true) && !name.is_empty() {
            all.insert((source, name.to_owned(), key.map(str::to_owned)));
        }
    };
    for secret in pod.image_pull_secrets.iter().flatten() {
        add(Source::Secret, &secret.name, None, None);
    }
    for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
        let values = container.env.iter().flatten();
        for from in values.filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(of) = &from.secret_key_ref {
                add(Source::Secret, &of.name, Some(&of.key), of.optional);
            }
            if let Some(of) = &from.config_map_key_ref {
                add(Source::ConfigMap, &of.name, Some(&of.key), of.optional);
            }
        }
        for from in container.env_from.iter().flatten() {
            if let Some(of) = &from.secret_ref {
                add(Source::Secret, &of.name, None, of.optional);
            }
            if let Some(of) = &from.config_map_ref {
                add(Source::ConfigMap, &of.name, None, of.optional);
            }
        }
    }
    for volume in pod.volumes.iter().flatten() {
        if let Some(of) = &volume.secret {
            let name = of.secret_name.as_deref().unwrap_or_default();
            let keys = of.items.iter().flatten().map(|item| item.key.as_str());
            for key in or_all(keys) {
                add(Source::Secret, name, key, of.optional);
            }
        }
        if let Some(of) = &volume.config_map {
            let keys = of.items.iter().flatten().map(|item| item.key.as_str());
            for key in or_all(keys) {
                add(Source::ConfigMap, &of.name, key, of.optional);
            }
        }
        let projected = volume
            .projected
            .iter()
            .flat_map(|of| of.sources.iter().flatten());
        for from in projected {
            if let Some(of) = &from.secret {
                let keys = of.items.iter().flatten().map(|item| item.key.as_str());
                for key in or_all(keys) {
                    add(Source::Secret, &of.name, key, of.optional);
                }
            }
            if let Some(of) = &from.config_map {
                let keys = of.items.iter().flatten().map(|item| item.key.as_str());
                for key in or_all(keys) {
                    add(Source::ConfigMap, &of.name, key, of.optional);
                }
            }
        }
    }
    all
}

/// The keys; without any, the whole object.
fn or_all<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<Option<&'a str>> {
    let keys: Vec<Option<&str>> = keys.map(Some).collect();
    if keys.is_empty() { vec![None] } else { keys }
}

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let pod = template(seen);
    let references = references(&seen.pipeline.spec, pod.as_ref());
    let mut findings: Vec<Finding> = Vec::new();
    for reference in &references {
        let found = seen
            .sources
            .get(&(reference.source, reference.name.clone()));
        if let Some(finding) = found.and_then(|found| of_reference(reference, found, seen))
            && !findings.iter().any(|known| is_same(known, &finding))
        {
            findings.push(finding);
        }
    }
    findings
}

/// A missing Secret is reported once, though several fields name it.
fn is_same(one: &Finding, other: &Finding) -> bool {
    one.about == other.about && one.to_do == other.to_do
}

/// The pod template: that of the Deployment, else that of the object.
pub(super) fn template(seen: &Seen) -> Option<PodSpec> {
    let deployment = seen.deployment.found();
    let deployed =
        deployment.and_then(|deployment| deployment.spec.as_ref()?.template.spec.clone());
    deployed.or_else(|| own_template(&seen.pipeline.spec))
}

fn of_reference(
    reference: &Reference,
    found: &Read<BTreeSet<String>>,
    seen: &Seen,
) -> Option<Finding> {
    let Reference {
        source,
        name,
        key,
        by,
    } = reference;
    let namespace = &seen.namespace;
    let about = format!("{} {name}", source.word());
    let kind = match source {
        Source::Secret => "secret generic",
        Source::ConfigMap => "configmap",
    };
    let is_operators = *source == Source::ConfigMap && *name == format!("{}-worker", seen.name);
    match (found, key) {
        (Read::Absent, _) if is_operators => Some(Finding::new(
            Severity::Problem,
            &about,
            "It does not exist; the workers read their configuration from it.",
            "Nothing, if the operator runs: it creates it again within a minute.",
        )),
        (Read::Absent, _) => {
            let literal = key
                .as_ref()
                .map_or_else(String::new, |key| format!(" --from-literal={key}=VALUE"));
            Some(Finding::new(
                Severity::Problem,
                &about,
                format!("It does not exist in namespace {namespace}; {by} names it."),
                format!("Create it: `kubectl -n {namespace} create {kind} {name}{literal}`."),
            ))
        }
        (Read::Found(keys), Some(key)) if !keys.contains(key) => {
            let has: Vec<&str> = keys.iter().map(String::as_str).collect();
            let has = if has.is_empty() {
                "it has no keys with a value".to_owned()
            } else {
                format!("it has {}", has.join(", "))
            };
            let (object, field) = match source {
                Source::Secret => ("secret", "stringData"),
                Source::ConfigMap => ("configmap", "data"),
            };
            Some(Finding::new(
                Severity::Problem,
                &about,
                format!("It lacks the key {key}, or the key is empty ({has}); {by} names it."),
                format!(
                    "Add the key: `kubectl -n {namespace} patch {object} {name} -p \
                     '{{\"{field}\":{{\"{key}\":\"VALUE\"}}}}'`, or correct {by}."
                ),
            ))
        }
        (Read::Found(keys), None) if keys.is_empty() && *source == Source::Secret => {
            Some(Finding::new(
                Severity::Problem,
                &about,
                format!("It has no keys with a value; {by} names it."),
                "Add the keys: docs/connections.md lists those of Kafka's Secret.",
            ))
        }
        (Read::Unread | Read::Found(_), _) => None,
    }
}
