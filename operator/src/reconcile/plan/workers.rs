//! The condition WorkersAvailable, from the status of the Deployment and of its pods. Pure.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ContainerStatus};
use layra_crds::IngestionPipelineSpec;

use super::conditions::Verdict;
use crate::{
    reconcile::{
        pods::{Unschedulable, WorkerPod},
        reason::Reason,
        world::{Problem, World},
    },
    resources::FETCH_MODEL,
};

/// The verdict on the workers. `template_current`: the live Deployment has the wanted pod template.
/// `previous` is the last verdict.
pub(super) fn judge(
    spec: &IngestionPipelineSpec,
    world: &World,
    desired: i32,
    template_current: bool,
    previous: Option<Verdict>,
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
        return rolling_out();
    };
    let replicas = Replicas::of(deployment);
    if let Some(problem) = pods_problem(spec, world) {
        return if replicas.ready > 0 && problem.reason.is_pending_workers() {
            let message = format!("{} {}", replicas.sentence(desired), problem.message);
            Verdict::yes(problem.reason, message)
        } else {
            Verdict::from(&problem)
        };
    }
    let is_stuck = desired > 0 && (replicas.ready == 0 || replicas.updated < replicas.total);
    if let Some(why) = replica_failure(deployment).filter(|_| is_stuck) {
        let message = format!("Kubernetes cannot create the pods of the workers: {why}");
        return Verdict::no(Reason::WorkersCannotStart, message);
    }
    if replicas.is_stale {
        return previous.unwrap_or_else(rolling_out);
    }
    if replicas.updated < replicas.total {
        return Verdict::no(
            Reason::RolloutInProgress,
            format!(
                "{} of {} workers have the current configuration.",
                replicas.updated, replicas.total
            ),
        );
    }
    match (desired, replicas.ready) {
        (0, _) => Verdict::yes(Reason::ScaledToZero, "No workers are needed."),
        (1, 0) => Verdict::no(
            Reason::WorkersStarting,
            "1 worker is starting; it is not ready yet.",
        ),
        (_, 0) => Verdict::no(
            Reason::WorkersStarting,
            format!("{desired} workers are starting; none is ready yet."),
        ),
        (_, _) => Verdict::yes(Reason::WorkersReady, replicas.sentence(desired)),
    }
}

fn rolling_out() -> Verdict {
    Verdict::no(
        Reason::RolloutInProgress,
        "The workers are being rolled out.",
    )
}

/// Why pods are refused, for example by a quota, Pod Security or a missing service account.
fn replica_failure(deployment: &Deployment) -> Option<&str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    failure.message.as_deref()
}

/// The replicas that the Deployment reports.
struct Replicas {
    total: i32,
    updated: i32,
    ready: i32,
    /// The numbers are from before the last change of the Deployment.
    is_stale: bool,
}

impl Replicas {
    fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            total: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            is_stale: status.observed_generation < deployment.metadata.generation,
        }
    }

    fn sentence(&self, desired: i32) -> String {
        format!("{} of {desired} workers are ready.", self.ready)
    }
}

/// The most severe problem that the pods report.
fn pods_problem(spec: &IngestionPipelineSpec, world: &World) -> Option<Problem> {
    let pods: Vec<&WorkerPod> = world.pods.iter().filter(|pod| !pod.terminating).collect();
    let containers = || pods.iter().flat_map(|pod| &pod.containers);
    containers()
        .find_map(image_problem)
        .or_else(|| containers().find_map(crash))
        .or_else(|| containers().find_map(cannot_start))
        .or_else(|| pending(spec, &pods))
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
    // The kubelet's own message changes with every attempt, so it is left out.
    let pull_errors = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
    ];
    pull_errors.contains(&reason).then(|| {
        Problem::new(
            Reason::ImagePullFailed,
            format!(
                "The image {} cannot be pulled. Check worker.image, worker.imagePullPolicy and imagePullSecrets in worker.podTemplate.spec.",
                container.image
            ),
        )
    })
}

/// A container that exited with an error and is not ready again. The kubelet shows
/// `CrashLoopBackOff` late, so the exit of the previous container counts too.
fn crash(container: &ContainerStatus) -> Option<Problem> {
    if container.ready {
        return None;
    }
    let exit_of = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        state.and_then(|state| state.terminated.clone())
    };
    let exit =
        exit_of(container.state.as_ref()).or_else(|| exit_of(container.last_state.as_ref()))?;
    if exit.exit_code == 0 {
        return None;
    }
    let output = exit
        .message
        .as_deref()
        .map(last_lines)
        .filter(|text| !text.is_empty());
    let cause = match (exit.reason.as_deref(), output) {
        (Some("OOMKilled"), _) => "it exceeded worker.resources.limits.memory".to_owned(),
        (_, Some(output)) => output,
        (Some(reason), None) => format!("{reason}, exit code {}", exit.exit_code),
        (None, None) => format!("exit code {}", exit.exit_code),
    };
    let what = if container.name == FETCH_MODEL {
        "The model cannot be fetched"
    } else {
        "A worker crashed"
    };
    Some(Problem::new(
        Reason::WorkersCrashing,
        format!("{what}: {cause}"),
    ))
}

/// The end of a termination message, short enough for a condition.
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
    .then(|| {
        Problem::new(
            Reason::WorkersCannotStart,
            format!("The kubelet cannot start a worker: {reason}: {message}"),
        )
    })
}

fn pending(spec: &IngestionPipelineSpec, pods: &[&WorkerPod]) -> Option<Problem> {
    let mut pending: Vec<&Unschedulable> = pods
        .iter()
        .filter_map(|pod| pod.unschedulable.as_ref())
        .collect();
    pending.sort_by_key(|pod| pod.since);
    let oldest = pending.first()?;
    let since = oldest
        .since
        .map(|time| format!(" since {}", time.strftime("%Y-%m-%dT%H:%M:%SZ")))
        .unwrap_or_default();
    let message = &oldest.message;
    let count = if pending.len() == 1 {
        "1 worker has been".to_owned()
    } else {
        format!("{} workers have been", pending.len())
    };
    let gpu = spec.worker.gpu.as_ref().map(|gpu| gpu.resource.as_str());
    Some(
        match gpu.filter(|resource| message.contains(&format!("Insufficient {resource}"))) {
            Some(resource) => Problem::new(
                Reason::WaitingForGPU,
                format!(
                    "{count} pending{since} because no node has a free {resource}. Add GPU nodes or lower scaling.maxReplicas."
                ),
            ),
            None => Problem::new(
                Reason::Unschedulable,
                format!("{count} pending{since}: {message}"),
            ),
        },
    )
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
