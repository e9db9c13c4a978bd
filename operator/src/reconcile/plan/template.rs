//! A refused pod template. The operator refuses a `worker.podTemplate` that it cannot parse, and
//! the API server a Deployment in a dry run. Both leave the workers as they are; only their number
//! still changes. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt;
use layra_crds::condition_types::WORKERS_AVAILABLE;
use serde_json::Value;

use super::{
    conditions::{self, Verdict},
    manifests::Manifest,
};
use crate::{
    reconcile::{
        reason::Reason,
        world::{Live, World},
    },
    resources::{APPLIED_HASH, DEFAULT_IMAGE, Kind, Workload, hash_of},
};

/// A refused template is tried again after this long: an admission policy may have changed.
const RETRY: SignedDuration = SignedDuration::from_mins(1);

/// A Deployment to send to the API server in a dry run, before anything is applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DryRun {
    /// Hash of the pod template.
    pub(crate) template: String,
    /// The whole Deployment.
    pub(crate) body: Value,
}

/// Whether the wanted pod template may be applied.
#[derive(Debug, PartialEq)]
pub(super) struct Template {
    /// Why it is refused.
    pub(super) refusal: Option<Verdict>,
    /// What to send to the API server.
    pub(super) dry_run: Option<DryRun>,
}

impl Template {
    /// `is_current`: the live Deployment already has the wanted template.
    pub(super) fn judge(
        workload: &Workload,
        world: &World,
        is_current: bool,
        before: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Self {
        if let Some(error) = &workload.template_error {
            return Self {
                refusal: Some(refused(&error.to_string(), &world.live)),
                dry_run: None,
            };
        }
        if is_current && is_last_applied(&workload.deployment, &world.live) {
            return Self {
                refusal: None,
                dry_run: None,
            };
        }
        let template = hash_of(&workload.deployment.spec.as_ref().map(|spec| &spec.template));
        let past = world.past_writes.dry_run.as_ref();
        let past = past.filter(|past| past.template == template);
        let dry_run = || DryRun {
            template: template.clone(),
            body: body_of(&workload.deployment),
        };
        let Some(past) = past else {
            return Self {
                refusal: refused_before(before, generation),
                dry_run: Some(dry_run()),
            };
        };
        let is_due = past.refusal.is_some() && now.duration_since(past.at) >= RETRY;
        let refusal = past.refusal.as_ref().map(|words| {
            let message = format!(
                "The API server refuses the workers' Deployment: {} Correct spec.worker.",
                sentence(words)
            );
            refused(&message, &world.live)
        });
        Self {
            refusal,
            dry_run: is_due.then(dry_run),
        }
    }

    /// Keeps only the writes that do not need the refused template: what is missing, and another
    /// number of workers.
    pub(super) fn without_refused(
        &self,
        outdated: Vec<Manifest>,
        live: &Live,
        replicas: i32,
    ) -> Vec<Manifest> {
        if self.refusal.is_none() {
            return outdated;
        }
        let live_replicas = || live.deployment.as_ref()?.spec.as_ref()?.replicas;
        let is_kept = |manifest: &Manifest| match manifest.kind {
            Kind::ConfigMap => live.config_map.is_none(),
            Kind::Deployment => live_replicas().is_some_and(|number| number != replicas),
            Kind::Service
            | Kind::PodDisruptionBudget
            | Kind::CronJob
            | Kind::QueryDeployment
            | Kind::QueryService
            | Kind::QueryDisruptionBudget => true,
        };
        outdated.into_iter().filter(is_kept).collect()
    }
}

/// The wanted Deployment with the pod template of the live one, and with what is said about its image.
pub(super) fn with_live_template(mut wanted: Deployment, live: &Live) -> Deployment {
    let Some(live) = live.deployment.as_deref() else {
        return wanted;
    };
    if let (Some(wanted), Some(live)) = (wanted.spec.as_mut(), live.spec.as_ref()) {
        wanted.template = live.template.clone();
    }
    wanted.annotations_mut().remove(DEFAULT_IMAGE);
    if let Some(image) = live.annotations().get(DEFAULT_IMAGE) {
        let annotations = wanted.annotations_mut();
        annotations.insert(DEFAULT_IMAGE.to_owned(), image.clone());
    }
    wanted
}

/// Whether the operator last applied this Deployment, with whatever number of workers. A comparison
/// with the live object does not find a field that is no longer wanted, nor a `false`.
fn is_last_applied(wanted: &Deployment, live: &Live) -> bool {
    let Some(live) = live.deployment.as_deref() else {
        return false;
    };
    let mut wanted = wanted.clone();
    if let Some(spec) = wanted.spec.as_mut() {
        spec.replicas = live.spec.as_ref().and_then(|spec| spec.replicas);
    }
    live.annotations().get(APPLIED_HASH) == Some(&hash_of(&body_of(&wanted)))
}

fn body_of(deployment: &Deployment) -> Value {
    // Kubernetes objects have text keys and finite numbers only.
    serde_json::to_value(deployment).unwrap_or_default()
}

fn refused(message: &str, live: &Live) -> Verdict {
    let consequence = if live.deployment.is_some() {
        "The workers keep their previous pod template."
    } else {
        "No workers can start."
    };
    Verdict::no(Reason::TemplateRefused, format!("{message} {consequence}"))
}

/// A restarted operator does not know of earlier dry runs. Until the next one has its result, the
/// condition of the same generation holds.
fn refused_before(before: &[Condition], generation: Option<i64>) -> Option<Verdict> {
    let condition = conditions::find(before, WORKERS_AVAILABLE)?;
    Verdict::of(condition).filter(|verdict| {
        verdict.reason == Reason::TemplateRefused && condition.observed_generation == generation
    })
}

/// The text with a final period.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim();
    let end = if text.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{text}{end}")
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
