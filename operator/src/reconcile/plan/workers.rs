//! The condition WorkersAvailable, from the status of the Deployment and of its pods. Pure.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStateTerminated, ContainerStatus},
};
use layra_crds::{IngestionPipelineSpec, ModelReference};

use super::{conditions::Verdict, configuration, model};
use crate::{
    reconcile::{
        pods::{Unschedulable, WorkerPod},
        reason::Reason,
        world::{Problem, World},
    },
    resources::FETCH_MODEL,
};

/// Workers that were ready may be unready for this long before the servers that they wait for are
/// named: one lost answer is not an outage.
const SHORT_WAIT: SignedDuration = SignedDuration::from_secs(30);
/// A start may take this many times the learned time.
const TIMES_THE_STARTUP: f64 = 3.0;

/// What the verdict depends on in addition to the spec and the world.
pub(super) struct Situation {
    pub(super) desired: i32,
    /// The live Deployment has the wanted pod template.
    pub(super) template_current: bool,
    /// What another writer changed in the objects, and changes again with every write.
    pub(super) overridden: Option<String>,
    /// What another client changed back after the last write of the pod template.
    pub(super) reverted: Option<String>,
    /// What to say about workers that keep the image of an earlier version of the operator.
    pub(super) upgrade_held: Option<String>,
    /// The checkpoint that all workers load.
    pub(super) model_reference: Option<ModelReference>,
    /// The last verdict.
    pub(super) previous: Option<Verdict>,
    /// How long a worker takes to start, in seconds.
    pub(super) startup_seconds: f64,
    pub(super) now: Timestamp,
}

/// The verdict on the workers.
pub(super) fn judge(spec: &IngestionPipelineSpec, world: &World, situation: &Situation) -> Verdict {
    let reference = situation.model_reference.as_ref();
    let mut verdict = model::judge(of_workers(spec, world, situation), world, reference);
    if let Some(overridden) = &situation.overridden {
        verdict.message = format!("{} {overridden}", verdict.message);
        if matches!(verdict.reason, Reason::WorkersReady | Reason::ScaledToZero) {
            verdict.reason = Reason::ChangedByOthers;
        }
    }
    if let Some(held) = &situation.upgrade_held
        && verdict.reason == Reason::WorkersReady
    {
        verdict.reason = Reason::UpgradeHeld;
        verdict.message = format!("{} {held}", verdict.message);
    }
    verdict
}

fn of_workers(spec: &IngestionPipelineSpec, world: &World, situation: &Situation) -> Verdict {
    let desired = situation.desired;
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
        .filter(|_| situation.template_current)
    else {
        return match &situation.reverted {
            Some(reverted) => Verdict::no(Reason::ChangedByOthers, reverted.clone()),
            None => rolling_out(),
        };
    };
    let replicas = Replicas::of(deployment);
    let previous = situation.previous.as_ref();
    let pods = running(world);
    if let Some(problem) = pods_problem(spec, &pods) {
        let is_rolled_out = if replicas.is_stale {
            previous.is_some_and(Verdict::is_true)
        } else {
            replicas.updated >= replicas.total
        };
        // One of many workers has a problem, and the others do the work.
        return if replicas.ready > 0 && is_rolled_out {
            let message = format!("{} {}", replicas.sentence(desired), problem.message);
            Verdict::yes(problem.reason, message)
        } else {
            Verdict::from(&configuration::with_others(problem, replicas.ready))
        };
    }
    let is_stuck = desired > 0 && (replicas.ready == 0 || replicas.updated < replicas.total);
    if let Some(why) = replica_failure(deployment).filter(|_| is_stuck) {
        let message = format!("Kubernetes cannot create the pods of the workers: {why}");
        return Verdict::no(Reason::WorkersCannotStart, message);
    }
    if replicas.is_stale {
        return situation.previous.clone().unwrap_or_else(rolling_out);
    }
    if replicas.updated < replicas.total {
        let progress = format!(
            "{} of {} workers have the current configuration.",
            replicas.updated, replicas.total
        );
        return match deadline_exceeded(deployment) {
            Some(why) => Verdict::no(
                Reason::ProgressDeadlineExceeded,
                format!("{progress} The Deployment makes no progress: {why}"),
            ),
            None => Verdict::no(Reason::RolloutInProgress, progress),
        };
    }
    match (desired, replicas.ready) {
        (0, _) => Verdict::yes(Reason::ScaledToZero, "No workers are needed."),
        (_, 0) => starting(deployment, world, &pods, situation),
        (_, _) => Verdict::yes(Reason::WorkersReady, replicas.sentence(desired)),
    }
}

/// The workers that are to run: those that are being deleted or were evicted are no problem of
/// theirs.
fn running(world: &World) -> Vec<&WorkerPod> {
    let pods = world.pods.iter();
    pods.filter(|pod| !pod.terminating && !pod.ended).collect()
}

/// No worker is ready: they start, wait for a server, or do not get ready at all.
fn starting(
    deployment: &Deployment,
    world: &World,
    pods: &[&WorkerPod],
    situation: &Situation,
) -> Verdict {
    let desired = situation.desired;
    let unready_since = pods.iter().filter_map(|pod| pod.unready_since).min();
    let unready_for = unready_since.map(|since| situation.now.duration_since(since));
    if unready_for.is_some_and(|time| time >= SHORT_WAIT)
        && let Some(verdict) = waiting_for_servers(world, pods, situation.previous.as_ref())
    {
        return verdict;
    }
    let spec = deployment.spec.as_ref();
    let deadline = spec.and_then(|spec| spec.progress_deadline_seconds);
    let limit =
        (TIMES_THE_STARTUP * situation.startup_seconds).max(f64::from(deadline.unwrap_or(600)));
    if unready_for.is_some_and(|time| time.as_secs_f64() > limit) {
        let message = format!(
            "{} in {limit:.0} s.{} The events and the log of the pods have the cause.",
            match desired {
                1 => "The worker did not become ready".to_owned(),
                _ => format!("None of {desired} workers became ready"),
            },
            containers_wait(pods),
        );
        return Verdict::no(Reason::ProgressDeadlineExceeded, message);
    }
    Verdict::no(
        Reason::WorkersStarting,
        match desired {
            1 => "1 worker is starting; it is not ready yet.".to_owned(),
            _ => format!("{desired} workers are starting; none is ready yet."),
        },
    )
}

/// The workers wait for servers: busy ones with all their work, or new ones that start.
fn waiting_for_servers(
    world: &World,
    pods: &[&WorkerPod],
    previous: Option<&Verdict>,
) -> Option<Verdict> {
    let counts = || pods.iter().filter_map(|pod| world.counts.get(&pod.name));
    let servers = counts().flat_map(|counts| &counts.waiting_for);
    let servers: BTreeSet<&str> = servers.map(String::as_str).collect();
    let retries = counts().flat_map(|counts| &counts.retrying);
    let retries: BTreeSet<&str> = retries.map(String::as_str).collect();
    if servers.is_empty() && retries.is_empty() {
        // One lost answer of a worker changes nothing.
        let waited = previous.filter(|verdict| verdict.reason == Reason::WorkersWaiting);
        return waited.filter(|_| counts().next().is_none()).cloned();
    }
    // Servers' words may differ with every attempt: those that were shown first stay.
    let stage = |retry: &&str| retry.split(':').next().unwrap_or_default().to_owned();
    let is_shown = |verdict: &&Verdict| {
        let has = |text: &str| verdict.message.contains(text);
        verdict.reason == Reason::WorkersWaiting
            && servers.iter().all(|server| has(server))
            && retries.iter().all(|retry| has(&stage(retry)))
    };
    if let Some(shown) = previous.filter(is_shown) {
        return Some(shown.clone());
    }
    // The words about a collection of another model say what to do.
    let is_server_away = counts().any(|counts| {
        let waits = !counts.retrying.is_empty() || !counts.waiting_for.is_empty();
        waits && !counts.waits_for_model
    });
    let hint = if is_server_away {
        " Check that the server is up, and its address and Secret."
    } else {
        ""
    };
    let joined = |texts: BTreeSet<&str>| texts.into_iter().collect::<Vec<_>>().join("; ");
    let cause = match (servers.is_empty(), retries.is_empty()) {
        (false, true) => format!("they wait for {}", joined(servers)),
        (true, _) => joined(retries),
        (false, false) => format!("they wait for {}: {}", joined(servers), joined(retries)),
    };
    Some(Verdict::no(
        Reason::WorkersWaiting,
        format!("No worker is ready, {cause}.{hint}"),
    ))
}

/// What the kubelet says about containers that do not run, for example `ContainerCreating`.
fn containers_wait(pods: &[&WorkerPod]) -> String {
    let reasons: BTreeSet<&str> = pods
        .iter()
        .flat_map(|pod| &pod.containers)
        .filter_map(|container| waiting(container).map(|(reason, _)| reason))
        .collect();
    if reasons.is_empty() {
        return String::new();
    }
    let reasons: Vec<&str> = reasons.into_iter().collect();
    format!(" Their containers wait: {}.", reasons.join(", "))
}

/// Why the Deployment gave up on its rollout.
fn deadline_exceeded(deployment: &Deployment) -> Option<&str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let progressing = conditions.iter().find(|condition| {
        condition.type_ == "Progressing"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })?;
    progressing.message.as_deref()
}

fn rolling_out() -> Verdict {
    Verdict::no(
        Reason::RolloutInProgress,
        "The workers are being rolled out.",
    )
}

/// Why pods are refused, for example by a quota, Pod Security or a missing service account.
pub(super) fn replica_failure(deployment: &Deployment) -> Option<&str> {
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
fn pods_problem(spec: &IngestionPipelineSpec, pods: &[&WorkerPod]) -> Option<Problem> {
    let containers = || pods.iter().flat_map(|pod| &pod.containers);
    containers()
        .find_map(image_problem)
        .or_else(|| containers().find_map(configuration::problem))
        .or_else(|| containers().find_map(crash))
        .or_else(|| containers().find_map(cannot_start))
        .or_else(|| pending(spec, pods))
}

pub(super) fn waiting(container: &ContainerStatus) -> Option<(&str, &str)> {
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
    let exit = failed_exit(container)?;
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

/// The last exit of a container, if it was an error.
pub(super) fn failed_exit(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [&container.state, &container.last_state];
    let mut exits = states
        .into_iter()
        .filter_map(|state| state.as_ref()?.terminated.as_ref());
    exits.next().filter(|exit| exit.exit_code != 0)
}

/// The end of a termination message, short enough for a condition.
pub(super) fn last_lines(text: &str) -> String {
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
