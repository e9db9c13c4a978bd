//! Kubernetes' quotas of the namespace that leave no room for a worker. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::finding::{Finding, Seen, Severity};
use super::references::template;

/// Quotas of objects that a pipeline creates.
const OBJECTS: [&str; 8] = [
    "pods",
    "configmaps",
    "services",
    "count/pods",
    "count/configmaps",
    "count/services",
    "count/deployments.apps",
    "count/jobs.batch",
];

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let worker = template(seen).map(|pod| needs(&pod)).unwrap_or_default();
    let wants_more = wants_more(seen);
    let mut findings = Vec::new();
    for quota in &seen.quotas {
        for (resource, used, hard) in full(quota, &worker) {
            let name = quota.name_any();
            let severity = if wants_more {
                Severity::Problem
            } else {
                Severity::Note
            };
            findings.push(Finding::new(
                severity,
                format!("ResourceQuota {name}"),
                format!(
                    "{used} of {hard} {resource} are used in namespace {}: there is no room for one \
                     more worker.",
                    seen.namespace
                ),
                "Raise the quota, lower what other pods of the namespace use, or lower \
                 scaling.maxReplicas.",
            ));
        }
    }
    findings
}

/// Whether workers are missing that the Deployment is to have.
fn wants_more(seen: &Seen) -> bool {
    let wanted = seen
        .deployment
        .found()
        .and_then(|deployment| deployment.spec.as_ref()?.replicas)
        .unwrap_or(0);
    let existing = seen.pods.iter().filter(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && phase != Some("Failed")
    });
    i32::try_from(existing.count()).unwrap_or(i32::MAX) < wanted
}

/// The resources of a quota that have no room for a worker, with what is used and allowed.
fn full<'a>(
    quota: &'a ResourceQuota,
    worker: &BTreeMap<String, f64>,
) -> Vec<(&'a str, &'a str, &'a str)> {
    let Some(status) = &quota.status else {
        return Vec::new();
    };
    let used = status.used.iter().flatten();
    used.filter_map(|(resource, used)| {
        let hard = status.hard.as_ref()?.get(resource)?;
        let (is_used, is_allowed) = (number(used)?, number(hard)?);
        let needed = match worker.get(resource) {
            Some(needed) => *needed,
            None if OBJECTS.contains(&resource.as_str()) => 1.0,
            None => return None,
        };
        (needed > 0.0 && is_used + needed > is_allowed).then_some((
            resource.as_str(),
            used.0.as_str(),
            hard.0.as_str(),
        ))
    })
    .collect()
}

/// What a worker takes from a quota, by the names that quotas use.
fn needs(pod: &PodSpec) -> BTreeMap<String, f64> {
    let mut needs = BTreeMap::new();
    for container in &pod.containers {
        let resources = container.resources.clone().unwrap_or_default();
        let mut add = |name: String, quantity: &Quantity| {
            *needs.entry(name).or_insert(0.0) += number(quantity).unwrap_or(0.0);
        };
        for (resource, quantity) in resources.requests.iter().flatten() {
            add(format!("requests.{resource}"), quantity);
            if matches!(resource.as_str(), "cpu" | "memory") {
                add(resource.clone(), quantity);
            }
        }
        for (resource, quantity) in resources.limits.iter().flatten() {
            add(format!("limits.{resource}"), quantity);
        }
    }
    needs
}

/// The number that a quantity is, for example 0.5 of `500m`.
pub(crate) fn number(quantity: &Quantity) -> Option<f64> {
    const UNITS: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let text = quantity.0.as_str();
    let unit = UNITS
        .into_iter()
        .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
    let (digits, size) = unit.unwrap_or((text, 1.0));
    Some(digits.parse::<f64>().ok()? * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("500m", 0.5),
            ("2", 2.0),
            ("1Gi", 1_073_741_824.0),
            ("1e3", 1000.0),
            ("4k", 4000.0),
        ] {
            let found = number(&Quantity(text.to_owned())).unwrap();
            assert!((found - expected).abs() < 1e-9, "{text}: {found}");
        }
        assert_eq!(number(&Quantity("many".to_owned())), None);
    }
}
