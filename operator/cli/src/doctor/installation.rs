//! The operator, the definition of the object, and the versions. Pure.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::Value;

use super::finding::{Finding, Installation, Read, Seen, Severity};

/// The lease of the operator in each namespace that it watches.
pub(super) const LEASE: &str = "layra-operator";
/// A leader renews every few seconds. Clocks differ, so this is only a reason to look again.
const SUSPICIOUS: SignedDuration = SignedDuration::from_secs(20);
const WATCHES: &str = "WATCH_NAMESPACES";
const WORKER_IMAGE: &str = "WORKER_IMAGE";

/// Whether the lease may have ended: look again after it would have been renewed.
pub(super) fn is_suspicious(installation: &Installation) -> bool {
    let Some(lease) = installation.lease.found() else {
        return false;
    };
    let renewed = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref());
    renewed.is_some_and(|time| installation.now.duration_since(time.0) > SUSPICIOUS)
}

/// Whether an operator watches the namespace.
pub(super) fn watches(operator: &Deployment, namespace: &str) -> bool {
    match variable(operator, WATCHES).unwrap_or_default() {
        "" => operator.namespace().as_deref() == Some(namespace),
        list => list.split(',').any(|watched| watched.trim() == namespace),
    }
}

/// The fields of a definition, as paths, for example `spec.scaling.mode`.
pub(super) fn fields(definition: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let versions = definition["spec"]["versions"].as_array();
    for version in versions.into_iter().flatten() {
        collect(&version["schema"]["openAPIV3Schema"], "", &mut paths);
    }
    paths
}

fn collect(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        collect(field, &path, paths);
        // These are Kubernetes' own.
        if path.starts_with("spec") || path.starts_with("status") {
            paths.insert(path);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            collect(&schema[inner], path, paths);
        }
    }
}

pub(super) fn check(installation: &Installation, own_fields: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = leading(installation).into_iter().collect();
    findings.extend(running(installation));
    findings.extend(definition(&installation.definition, own_fields));
    findings.extend(version(installation));
    findings
}

fn leading(installation: &Installation) -> Option<Finding> {
    let namespace = &installation.namespace;
    let problem = |what: String, to_do: &str| {
        let about = format!("operator of namespace {namespace}");
        Some(Finding::new(Severity::Problem, about, what, to_do))
    };
    let lease = match &installation.lease {
        Read::Unread => return None,
        Read::Absent => {
            return problem(
                format!(
                    "No operator has ever watched namespace {namespace}: it has no lease {LEASE}."
                ),
                "Install the chart layra-operator, or add the namespace to its watchNamespaces.",
            );
        }
        Read::Found(lease) => lease.spec.clone().unwrap_or_default(),
    };
    let restart = "Look at its pod and its log: `kubectl get pods -A -l \
                   app.kubernetes.io/component=operator`; the workers go on meanwhile, and nobody \
                   scales them.";
    let Some(holder) = lease.holder_identity.filter(|holder| !holder.is_empty()) else {
        return problem(
            format!("No operator leads in namespace {namespace}: the last one has stopped."),
            restart,
        );
    };
    if is_suspicious(installation) && !installation.renewed {
        let time = lease
            .renew_time
            .map(|time| time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        return problem(
            format!(
                "No operator leads in namespace {namespace}: {holder} has not renewed its lease \
                 since {}.",
                time.unwrap_or_default()
            ),
            restart,
        );
    }
    None
}

fn running(installation: &Installation) -> Vec<Finding> {
    let operators = installation.operators.found().into_iter().flatten();
    let stopped = operators.filter(|operator| {
        let status = operator.status.as_ref();
        status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0)
            == 0
    });
    stopped
        .map(|operator| {
            let (namespace, name) = (
                operator.namespace().unwrap_or_default(),
                operator.name_any(),
            );
            let wanted = operator
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1);
            Finding::new(
                Severity::Problem,
                format!("Deployment {namespace}/{name}"),
                format!("No pod of the operator is available, of {wanted} wanted."),
                format!(
                    "Look at its pods: `kubectl -n {namespace} describe pods -l \
                     app.kubernetes.io/component=operator`."
                ),
            )
        })
        .collect()
}

fn definition(found: &Read<BTreeSet<String>>, own_fields: &BTreeSet<String>) -> Vec<Finding> {
    let Some(found) = found.found() else {
        return Vec::new();
    };
    let about = "CustomResourceDefinition ingestionpipelines.ingest.layra.io";
    let difference = |fields: Vec<&String>, what: &str, to_do: &str| {
        let first = fields.first()?;
        let fields = match fields.len() {
            1 => format!("the field {first}"),
            count => format!("{count} fields, for example {first}"),
        };
        let what = what.replace("FIELDS", &fields);
        Some(Finding::new(Severity::Warning, about, what, to_do))
    };
    let lacks = difference(
        own_fields.difference(found).collect(),
        "The definition in the cluster is older than this kubectl layra: it lacks FIELDS.",
        "Upgrade the chart layra-crds, or use the kubectl layra of the installed version.",
    );
    let unknown = difference(
        found.difference(own_fields).collect(),
        "The definition in the cluster is newer than this kubectl layra, which does not know FIELDS.",
        "Install the kubectl layra of the installed version.",
    );
    lacks.into_iter().chain(unknown).collect()
}

fn version(installation: &Installation) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let operators = installation.operators.found().into_iter().flatten();
    operators
        .filter_map(|operator| {
            let version = operator.labels().get("app.kubernetes.io/version")?;
            (version != own).then(|| {
                let (namespace, name) = (
                    operator.namespace().unwrap_or_default(),
                    operator.name_any(),
                );
                Finding::new(
                    Severity::Warning,
                    format!("Deployment {namespace}/{name}"),
                    format!("The operator is version {version}, and this kubectl layra is {own}."),
                    format!("Install the kubectl layra of version {version}."),
                )
            })
        })
        .collect()
}

/// The workers' image against the operator's.
pub(super) fn check_images(seen: &Seen) -> Vec<Finding> {
    let deployment = seen.deployment.found();
    let Some(worker) = deployment.and_then(|deployment| image(deployment, "worker")) else {
        return Vec::new();
    };
    let about = format!("Deployment {}-worker", seen.name);
    let mut findings = Vec::new();
    for operator in &seen.operators {
        let own = seen.pipeline.spec.worker.image.is_some();
        let default = variable(operator, WORKER_IMAGE);
        if let Some(default) = default.filter(|default| !own && *default != worker) {
            findings.push(Finding::new(
                Severity::Note,
                &about,
                format!("The workers run {worker}, and the operator's default is {default}."),
                "Nothing; they get it when they are replaced, or at once with \
                 worker.rollout.onUpgrade: AtOnce.",
            ));
            continue;
        }
        let operators = image(operator, "operator").unwrap_or_default();
        if let (Some(of_operator), Some(of_worker)) = (release(operators), release(worker))
            && of_operator != of_worker
        {
            findings.push(Finding::new(
                Severity::Warning,
                &about,
                format!(
                    "The workers run version {of_worker} ({worker}), and the operator is version \
                     {of_operator}."
                ),
                "Use images of one version: set worker.image to it, or remove the field.",
            ));
        }
    }
    findings
}

fn image<'a>(deployment: &'a Deployment, container: &str) -> Option<&'a str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mut containers = pod.containers.iter();
    let container = containers.find(|known| known.name == container)?;
    container.image.as_deref()
}

/// The tag of an image, if it is a version such as `0.1.0` or `v1.2`.
fn release(image: &str) -> Option<&str> {
    let name = image.split('@').next()?;
    let name = name.rsplit('/').next()?;
    let (_, tag) = name.split_once(':')?;
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let mut parts = version.split('.');
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let is_version = parts.next().is_some_and(is_number) && parts.next().is_some_and(is_number);
    is_version.then_some(version)
}

fn variable<'a>(deployment: &'a Deployment, name: &str) -> Option<&'a str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mut all = pod
        .containers
        .iter()
        .flat_map(|container| container.env.iter().flatten());
    all.find(|variable| variable.name == name)?.value.as_deref()
}
