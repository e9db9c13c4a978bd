//! What to say of the workers: read from the Deployment's numbers and the pods' own words. Pure.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ContainerStatus};
use layra_crds::IngestionPipelineSpec;

use super::conditions::Verdict;
use crate::{
    reconcile::{
        pods::{Unschedulable, WorkerPod},
        world::{Problem, World},
    },
    resources::FETCH_MODEL,
};

pub(crate) const STARTING: &str = "WorkersStarting";
pub(crate) const ROLLOUT: &str = "RolloutInProgress";
pub(crate) const CRASHING: &str = "WorkersCrashing";
pub(crate) const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
pub(crate) const WAITING_FOR_GPU: &str = "WaitingForGPU";
pub(crate) const UNSCHEDULABLE: &str = "Unschedulable";

/// The state of the workers. `template_current` says whether the live Deployment has the wanted
/// pod template.
pub(super) fn judge(
    spec: &IngestionPipelineSpec,
    world: &World,
    desired: i32,
    template_current: bool,
    previous: Option<&Verdict>,
) -> Verdict {
    if let Some(problem) = world
        .secrets
        .iter()
        .find_map(|secret| secret.problem.as_ref())
    {
        return problem.into();
    }
    let Some(deployment) = world
        .live
        .deployment
        .as_deref()
        .filter(|_| template_current)
    else {
        return Verdict::no(ROLLOUT, "The workers are being rolled out.");
    };
    let count = Count::of(deployment);
    if let Some(problem) = pods_problem(spec, world) {
        let some_work =
            count.ready > 0 && matches!(problem.reason, WAITING_FOR_GPU | UNSCHEDULABLE);
        let verdict = Verdict::from(&problem);
        return if some_work {
            Verdict::yes(
                problem.reason,
                format!("{} {}", ready(&count, desired), verdict.message),
            )
        } else {
            verdict
        };
    }
    if count.is_stale {
        // The numbers are of the time before the last change of the Deployment.
        return previous
            .cloned()
            .unwrap_or_else(|| Verdict::no(ROLLOUT, "The workers are being rolled out."));
    }
    if count.updated < count.total {
        return Verdict::no(
            ROLLOUT,
            format!(
                "{} of {} workers have the current configuration.",
                count.updated, count.total
            ),
        );
    }
    match (desired, count.ready) {
        (0, _) => Verdict::yes("ScaledToZero", "No workers are needed."),
        (_, 0) => Verdict::no(
            STARTING,
            format!("{} starting; none is ready yet.", are(desired)),
        ),
        (_, _) => Verdict::yes("WorkersReady", ready(&count, desired)),
    }
}

struct Count {
    total: i32,
    updated: i32,
    ready: i32,
    is_stale: bool,
}

impl Count {
    fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            total: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            is_stale: status.observed_generation < deployment.metadata.generation,
        }
    }
}

fn ready(count: &Count, desired: i32) -> String {
    format!("{} of {desired} workers are ready.", count.ready)
}

fn are(count: i32) -> String {
    if count == 1 {
        "1 worker is".to_owned()
    } else {
        format!("{count} workers are")
    }
}

/// The gravest problem that the pods report.
fn pods_problem(spec: &IngestionPipelineSpec, world: &World) -> Option<Problem> {
    let pods: Vec<&WorkerPod> = world.pods.iter().filter(|pod| !pod.leaving).collect();
    let containers = || pods.iter().flat_map(|pod| &pod.containers);
    containers()
        .find_map(image_problem)
        .or_else(|| containers().find_map(crash))
        .or_else(|| containers().find_map(cannot_start))
        .or_else(|| waiting_for_node(spec, &pods))
}

fn waiting(container: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some((
        waiting.reason.as_deref()?,
        waiting.message.as_deref().unwrap_or_default(),
    ))
}

fn image_problem(container: &ContainerStatus) -> Option<Problem> {
    let (reason, _) = waiting(container)?;
    // The kubelet's own message changes with every attempt and its back-off.
    let pulls = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
    ];
    pulls.contains(&reason).then(|| {
        Problem::new(
            IMAGE_PULL_FAILED,
            format!(
                "The image {} cannot be pulled. Check worker.image, worker.imagePullPolicy and imagePullSecrets in worker.podTemplate.spec.",
                container.image
            ),
        )
    })
}

/// A worker that ended by itself and is not ready again. The kubelet shows `CrashLoopBackOff` late,
/// so that the end of the last run counts too.
fn crash(container: &ContainerStatus) -> Option<Problem> {
    if container.ready {
        return None;
    }
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        state.and_then(|state| state.terminated.clone())
    };
    let end = ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref()))?;
    if end.exit_code == 0 {
        return None;
    }
    let said = end
        .message
        .as_deref()
        .map(last_lines)
        .filter(|text| !text.is_empty());
    let why = match (end.reason.as_deref(), said) {
        (Some("OOMKilled"), _) => {
            "it needed more memory than worker.resources.limits.memory".to_owned()
        }
        (_, Some(said)) => said,
        (Some(reason), None) => format!("{reason}, exit code {}", end.exit_code),
        (None, None) => format!("exit code {}", end.exit_code),
    };
    let who = if container.name == FETCH_MODEL {
        "The model cannot be fetched"
    } else {
        "A worker stopped"
    };
    Some(Problem::new(CRASHING, format!("{who}: {why}")))
}

/// The end of what a worker wrote, short enough for a condition.
fn last_lines(text: &str) -> String {
    const LONGEST: usize = 600;
    let text = text.trim();
    let start = text
        .char_indices()
        .rev()
        .nth(LONGEST)
        .map_or(0, |(index, _)| index);
    text[start..].to_owned()
}

fn cannot_start(container: &ContainerStatus) -> Option<Problem> {
    let (reason, message) = waiting(container)?;
    [
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ]
    .contains(&reason)
    .then(|| Problem::new("WorkersCannotStart", format!("{reason}: {message}")))
}

fn waiting_for_node(spec: &IngestionPipelineSpec, pods: &[&WorkerPod]) -> Option<Problem> {
    let mut stuck: Vec<&Unschedulable> = pods
        .iter()
        .filter_map(|pod| pod.unschedulable.as_ref())
        .collect();
    stuck.sort_by_key(|pod| pod.since);
    let oldest = stuck.first()?;
    let since = oldest
        .since
        .map(|time| format!(" since {}", time.strftime("%Y-%m-%dT%H:%M:%SZ")))
        .unwrap_or_default();
    let message = &oldest.message;
    let wait = if stuck.len() == 1 {
        "1 worker waits".to_owned()
    } else {
        format!("{} workers wait", stuck.len())
    };
    let gpu = spec.worker.gpu.as_ref().map(|gpu| gpu.resource.as_str());
    Some(
        match gpu.filter(|resource| message.contains(&format!("Insufficient {resource}"))) {
            Some(resource) => Problem::new(
                WAITING_FOR_GPU,
                format!(
                    "{wait} for a node with free {resource}{since}. Add GPU nodes or lower scaling.maxReplicas."
                ),
            ),
            None => Problem::new(
                UNSCHEDULABLE,
                format!("{wait} for a node{since}: {message}"),
            ),
        },
    )
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
