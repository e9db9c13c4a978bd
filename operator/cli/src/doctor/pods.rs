//! Worker pods that do not run. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;

use super::finding::{Finding, Seen, Severity};

/// A restart or an end of a container before this is history.
const RECENT: SignedDuration = SignedDuration::from_hours(1);
/// A pod that is still there so long after its grace period is stuck.
const STUCK: SignedDuration = SignedDuration::from_secs(60);
/// So many restarts are no accident.
const MANY_RESTARTS: i32 = 3;
const CANNOT_CREATE: [&str; 3] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A problem of one pod. Pods with the same problem are one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    severity: Severity,
    what: String,
    to_do: String,
}

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let mut groups: Vec<(Trouble, Vec<String>)> = Vec::new();
    for pod in &seen.pods {
        for trouble in troubles(pod, seen) {
            let name = pod.name_any();
            match groups.iter_mut().find(|(known, _)| *known == trouble) {
                Some((_, pods)) => pods.push(name),
                None => groups.push((trouble, vec![name])),
            }
        }
    }
    let findings = groups.into_iter().map(|(trouble, pods)| {
        let about = match pods.as_slice() {
            [pod] => format!("pod {pod}"),
            [first, others @ ..] => format!("pod {first} and {} more", others.len()),
            [] => String::new(),
        };
        Finding::new(trouble.severity, about, trouble.what, trouble.to_do)
    });
    findings.collect()
}

fn troubles(pod: &Pod, seen: &Seen) -> Vec<Trouble> {
    if let Some(deadline) = &pod.metadata.deletion_timestamp {
        return stuck_in_deletion(pod, seen.now.duration_since(deadline.0))
            .into_iter()
            .collect();
    }
    let status = pod.status.clone().unwrap_or_default();
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.unwrap_or_else(|| "Failed".to_owned());
        let message = status.message.unwrap_or_default();
        return vec![Trouble {
            severity: Severity::Note,
            what: format!("It was ended ({reason}): {message}"),
            to_do: "Another worker replaces it; if this repeats, give the workers the memory and \
                    disk that they use as requests, in worker.resources."
                .to_owned(),
        }];
    }
    let conditions = status.conditions.unwrap_or_default();
    let unscheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let message = condition.message.as_deref().unwrap_or_default();
        let reason = condition.reason.as_deref().unwrap_or_default();
        return vec![without_node(reason, message)];
    }
    let containers = status.init_container_statuses.unwrap_or_default();
    let containers = containers.into_iter();
    containers
        .chain(status.container_statuses.unwrap_or_default())
        .filter_map(|container| of_container(&container, seen))
        .collect()
}

fn stuck_in_deletion(pod: &Pod, since: SignedDuration) -> Option<Trouble> {
    (since > STUCK).then(|| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.unwrap_or("unknown");
        Trouble {
            severity: Severity::Warning,
            what: format!("It should have ended, and is still there: node {node} does not end it."),
            to_do: format!(
                "Look at the node with `kubectl describe node {node}`; its documents continue on \
                 another worker meanwhile."
            ),
        }
    })
}

fn without_node(reason: &str, message: &str) -> Trouble {
    let to_do = if reason == "SchedulingGated" {
        "A quota system holds it: look there for room, or lower scaling.maxReplicas."
    } else if message.contains("persistentvolumeclaim") {
        "Create the PersistentVolumeClaim that embedding.model.cacheClaim or the pod template names, \
         or wait until it is bound."
    } else if message.contains("nvidia.com/") || message.contains("amd.com/") {
        "Add a node with a free GPU, or lower scaling.maxReplicas."
    } else if message.contains("Insufficient") {
        "Add a node, or lower the requests in worker.resources or scaling.maxReplicas."
    } else if message.contains("untolerated taint") {
        "Add the toleration to worker.podTemplate.spec.tolerations, or a node without that taint."
    } else if message.contains("node affinity") || message.contains("node selector") {
        "Correct nodeSelector or affinity in worker.podTemplate.spec, or label a node."
    } else {
        "Make room for it on a node, or lower scaling.maxReplicas."
    };
    let message = if message.is_empty() { reason } else { message };
    Trouble {
        severity: Severity::Problem,
        what: format!("It has no node: {message}"),
        to_do: to_do.to_owned(),
    }
}

fn of_container(container: &ContainerStatus, seen: &Seen) -> Option<Trouble> {
    let ContainerStatus { name, image, .. } = container;
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.clone().unwrap_or_default().terminated;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or_default();
        if reason.contains("Image") {
            return Some(Trouble {
                severity: Severity::Problem,
                what: format!("Image {image} cannot be pulled ({reason}): {message}"),
                to_do: "Check the image's name, that the registry has it, and imagePullSecrets in \
                        worker.podTemplate.spec."
                    .to_owned(),
            });
        }
        if CANNOT_CREATE.contains(&reason) {
            return Some(Trouble {
                severity: Severity::Problem,
                what: format!("Container {name} cannot be created ({reason}): {message}"),
                to_do: "Create what the message names, or correct the reference to it.".to_owned(),
            });
        }
        if reason == "CrashLoopBackOff" {
            return Some(crashing(container, last.as_ref(), Severity::Problem, seen));
        }
    }
    let ended = state.terminated.or(last)?;
    let is_recent = ended
        .finished_at
        .as_ref()
        .is_none_or(|end| seen.now.duration_since(end.0) < RECENT);
    let was_killed = ended.reason.as_deref() == Some("OOMKilled");
    let repeats = container.restart_count >= MANY_RESTARTS && ended.exit_code != 0;
    if is_recent && (was_killed || repeats) {
        return Some(crashing(container, Some(&ended), Severity::Warning, seen));
    }
    None
}

fn crashing(
    container: &ContainerStatus,
    ended: Option<&ContainerStateTerminated>,
    severity: Severity,
    seen: &Seen,
) -> Trouble {
    let (name, restarts) = (&container.name, container.restart_count);
    let times = match restarts {
        1 => "once".to_owned(),
        _ => format!("{restarts} times"),
    };
    let Some(ended) = ended else {
        return Trouble {
            severity,
            what: format!("Container {name} was restarted {times}."),
            to_do: logs(seen),
        };
    };
    if ended.reason.as_deref() == Some("OOMKilled") {
        return Trouble {
            severity,
            what: format!(
                "Container {name} was OOMKilled: it exceeded its memory limit{}, and was restarted \
                 {times}.",
                limit(name, seen)
            ),
            to_do: "Raise worker.resources.limits.memory; no document is lost.".to_owned(),
        };
    }
    let code = ended.exit_code;
    let when = ago(ended.finished_at.as_ref().map(|end| end.0), seen.now);
    let message = ended.message.as_deref().unwrap_or_default().trim();
    let message = if message.is_empty() {
        ended.reason.as_deref().unwrap_or("no message")
    } else {
        message
    };
    Trouble {
        severity,
        what: format!(
            "Container {name} was restarted {times}, last{when} with exit code {code}: {message}"
        ),
        to_do: logs(seen),
    }
}

fn logs(seen: &Seen) -> String {
    let Seen {
        namespace, name, ..
    } = seen;
    format!("Read what it said before: `kubectl layra logs {name} -n {namespace} --since 1h`.")
}

/// The memory limit of a container, in the words of the Deployment.
fn limit(container: &str, seen: &Seen) -> String {
    let limit = || {
        let pod = seen
            .deployment
            .found()?
            .spec
            .as_ref()?
            .template
            .spec
            .as_ref()?;
        let mut all = pod.init_containers.iter().flatten().chain(&pod.containers);
        let container = all.find(|known| known.name == container)?;
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        Some(format!(" of {}", limits.get("memory")?.0))
    };
    limit().unwrap_or_default()
}

fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else {
        return String::new();
    };
    let seconds = now.duration_since(time).as_secs().max(0);
    match seconds {
        ..120 => format!(" {seconds} s ago"),
        _ => format!(" {} min ago", seconds / 60),
    }
}
