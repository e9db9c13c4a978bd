//! The worker pods as plain data. The conditions, phases and times of pods are interpreted only here;
//! container statuses are passed on unchanged. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use layra_autoscaler::{Phase, Times};

use crate::resources::{DELETION_COST, FETCH_MODEL, WORKER};

#[derive(Clone, Debug)]
pub(crate) struct WorkerPod {
    pub(crate) name: String,
    pub(crate) created: Option<Timestamp>,
    /// Hash of its pod template: equal for pods with the same configuration.
    pub(crate) template: Option<String>,
    /// It is being deleted.
    pub(crate) terminating: bool,
    /// It succeeded or failed, and does not run again.
    pub(crate) ended: bool,
    pub(crate) phase: Phase,
    /// Since when it is not ready; `None` while it is ready.
    pub(crate) unready_since: Option<Timestamp>,
    /// Why the kubelet ended it, for example because the node was short of memory.
    pub(crate) eviction: Option<String>,
    /// When it reached the earlier steps of its life.
    pub(crate) times: Times,
    /// Set while it is pending because no node has room for it, or a scheduling gate holds it.
    pub(crate) unschedulable: Option<Unschedulable>,
    /// IP address, while it runs.
    pub(crate) address: Option<String>,
    /// Value of [`DELETION_COST`].
    pub(crate) deletion_cost: Option<String>,
    /// Status of the containers that the operator defines: the model fetcher and the worker.
    pub(crate) containers: Vec<ContainerStatus>,
}

/// The scheduler's reason for a pending pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unschedulable {
    pub(crate) since: Option<Timestamp>,
    pub(crate) message: String,
}

impl WorkerPod {
    /// Interprets a pod at the time `now`.
    pub(crate) fn read(pod: &Pod, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let created = time(pod.metadata.creation_timestamp.as_ref());
        let unschedulable = unschedulable(pod);
        Self {
            name: pod.name_any(),
            created,
            template: pod.labels().get("pod-template-hash").cloned(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ended: matches!(phase, Some("Failed" | "Succeeded")),
            phase: worker_phase(pod, unschedulable.as_ref(), created, now),
            unready_since: unready_since(pod, created),
            eviction: eviction(pod),
            times: Times {
                created,
                placed: since(pod, "PodScheduled", "True"),
                process_started: process_started(pod).filter(|_| restarts(pod) == 0),
            },
            unschedulable,
            address: status
                .and_then(|status| status.pod_ip.clone())
                .filter(|_| phase == Some("Running")),
            deletion_cost: pod.annotations().get(DELETION_COST).cloned(),
            containers: containers(pod),
        }
    }
}

impl WorkerPod {
    /// Whether it belongs to a deleted pipeline of the same name, and finishes its work. It is none
    /// of the workers that this pipeline has or waits for.
    pub(crate) fn is_of_predecessor(&self, pipeline_created: Option<Timestamp>) -> bool {
        let is_older = self.created.zip(pipeline_created);
        self.terminating && is_older.is_some_and(|(pod, pipeline)| pod < pipeline)
    }
}

fn worker_phase(
    pod: &Pod,
    unschedulable: Option<&Unschedulable>,
    created: Option<Timestamp>,
    now: Timestamp,
) -> Phase {
    if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
        return Phase::Ready;
    }
    if let Some(pending) = unschedulable {
        return Phase::Pending {
            since: pending.since.or(created).unwrap_or(now),
        };
    }
    let unready = since(pod, "Ready", "False");
    // A pod is unready from its creation on. One that became unready after its container started
    // has been ready.
    if let (Some(unready), Some(started)) = (unready, process_started(pod))
        && started < unready
    {
        return Phase::Waiting { since: unready };
    }
    let restarted = restarts(pod) > 0;
    let scheduled = since(pod, "PodScheduled", "True");
    let began = if restarted {
        unready.or(scheduled)
    } else {
        scheduled
    };
    Phase::Starting {
        since: began.or(created).unwrap_or(now),
        restarted,
    }
}

/// Since when a condition has this status.
fn since(pod: &Pod, type_: &str, status: &str) -> Option<Timestamp> {
    let condition = condition(pod, type_).filter(|condition| condition.status == status)?;
    time(condition.last_transition_time.as_ref())
}

/// When the worker's container was started, while it runs.
fn process_started(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let worker = statuses.iter().find(|status| status.name == WORKER)?;
    time(worker.state.as_ref()?.running.as_ref()?.started_at.as_ref())
}

fn unready_since(pod: &Pod, created: Option<Timestamp>) -> Option<Timestamp> {
    match condition(pod, "Ready") {
        Some(ready) if ready.status == "True" => None,
        ready => ready
            .and_then(|ready| time(ready.last_transition_time.as_ref()))
            .or(created),
    }
}

/// A pod that restarts its containers fails only when the kubelet or a controller ends it.
fn eviction(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Failed") {
        return None;
    }
    let words = [&status.reason, &status.message].into_iter().flatten();
    Some(words.map(String::as_str).collect::<Vec<_>>().join(": "))
}

fn unschedulable(pod: &Pod) -> Option<Unschedulable> {
    let condition = condition(pod, "PodScheduled").filter(|condition| {
        // A quota system, for example Kueue, holds pods by a gate until it admits them.
        let reasons = [Some("Unschedulable"), Some("SchedulingGated")];
        condition.status == "False" && reasons.contains(&condition.reason.as_deref())
    })?;
    Some(Unschedulable {
        since: time(condition.last_transition_time.as_ref()),
        message: condition.message.clone().unwrap_or_default(),
    })
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn time(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    let containers = containers.unwrap_or_default().iter();
    containers.map(|container| container.restart_count).sum()
}

fn containers(pod: &Pod) -> Vec<ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref());
    let main = status.and_then(|status| status.container_statuses.as_deref());
    let all = init.unwrap_or_default().iter();
    all.chain(main.unwrap_or_default())
        .filter(|container| [FETCH_MODEL, WORKER].contains(&container.name.as_str()))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn condition(type_: &str, status: &str, reason: &str, time: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "lastTransitionTime": time})
    }

    fn pod_with(conditions: &Value, containers: &Value) -> WorkerPod {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-11-25T10:00:00Z"},
            "status": {"conditions": conditions, "containerStatuses": containers},
        });
        fixtures::pod(pod)
    }

    fn container(restarts: i32, state: &Value) -> Value {
        json!([{
            "name": "worker", "image": "", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state,
        }])
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-25T{time}Z").parse().unwrap()
    }

    #[test]
    fn a_worker_of_a_deleted_pipeline_of_the_same_name_is_not_counted() {
        let pod = |deleted: bool| {
            let mut metadata = json!({"name": "a", "creationTimestamp": "2026-11-25T10:00:00Z"});
            if deleted {
                metadata["deletionTimestamp"] = json!("2026-11-25T10:01:00Z");
            }
            fixtures::pod(json!({"metadata": metadata}))
        };
        let created = |time| Some(at(time));
        assert!(pod(true).is_of_predecessor(created("10:02:00")));
        assert!(!pod(true).is_of_predecessor(created("09:00:00")));
        assert!(
            !pod(false).is_of_predecessor(created("10:02:00")),
            "an orphan that was taken over works for this pipeline"
        );
    }

    #[test]
    fn an_evicted_pod_has_ended_with_the_words_of_the_kubelet() {
        let pod = fixtures::pod(json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-11-25T10:00:00Z"},
            "status": {
                "phase": "Failed",
                "reason": "Evicted",
                "message": "The node was low on resource: ephemeral-storage.",
                "conditions": [condition("Ready", "False", "PodFailed", "2026-11-25T10:09:00Z")],
            },
        }));
        assert!(pod.ended);
        assert_eq!(pod.unready_since, Some(at("10:09:00")));
        assert_eq!(
            pod.eviction.as_deref(),
            Some("Evicted: The node was low on resource: ephemeral-storage.")
        );
    }

    #[test]
    fn phases_are_read_from_the_pods_conditions() {
        let scheduled = condition("PodScheduled", "True", "", "2026-11-25T10:01:00Z");
        let ready = condition("Ready", "True", "", "2026-11-25T10:03:30Z");
        let starting = |since| Phase::Starting {
            since: at(since),
            restarted: false,
        };
        let phase_of = |conditions: &Value| pod_with(conditions, &json!([])).phase;
        assert_eq!(phase_of(&json!([])), starting("10:00:00"));
        assert_eq!(phase_of(&json!([scheduled])), starting("10:01:00"));
        assert_eq!(phase_of(&json!([scheduled, ready])), Phase::Ready);
    }

    #[test]
    fn pods_without_a_node_are_pending_also_those_that_a_quota_system_holds() {
        for reason in ["Unschedulable", "SchedulingGated"] {
            let pending = condition("PodScheduled", "False", reason, "2026-11-25T10:00:01Z");
            let pod = pod_with(&json!([pending]), &json!([]));
            let since = at("10:00:01");
            assert_eq!(pod.phase, Phase::Pending { since }, "{reason}");
            assert!(pod.unschedulable.is_some());
        }
    }

    #[test]
    fn a_worker_that_lost_its_readiness_waits_and_one_that_never_had_it_starts() {
        let scheduled = condition("PodScheduled", "True", "", "2026-11-25T10:01:00Z");
        let unready = |time: &str| condition("Ready", "False", "", &format!("2026-11-25T{time}Z"));
        let running = json!({"running": {"startedAt": "2026-11-25T10:02:00Z"}});
        let phase = |unready: Value, containers: &Value| {
            pod_with(&json!([scheduled, unready]), containers).phase
        };
        let first = container(0, &running);
        assert_eq!(
            phase(unready("10:01:00"), &first),
            Phase::Starting {
                since: at("10:01:00"),
                restarted: false
            }
        );
        let since = at("10:09:00");
        assert_eq!(phase(unready("10:09:00"), &first), Phase::Waiting { since });
        // It crashed at 10:01:50 and was restarted.
        assert_eq!(
            phase(unready("10:01:50"), &container(1, &running)),
            Phase::Starting {
                since: at("10:01:50"),
                restarted: true
            }
        );
        let crashing = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(
            phase(unready("10:09:00"), &container(3, &crashing)),
            Phase::Starting {
                since,
                restarted: true
            }
        );
    }

    #[test]
    fn the_times_of_a_start_are_read_and_a_restart_is_none() {
        let scheduled = condition("PodScheduled", "True", "", "2026-11-25T10:01:00Z");
        let running = json!({"running": {"startedAt": "2026-11-25T10:02:00Z"}});
        let times = |restarts| pod_with(&json!([scheduled]), &container(restarts, &running)).times;
        assert_eq!(
            times(0),
            Times {
                created: Some(at("10:00:00")),
                placed: Some(at("10:01:00")),
                process_started: Some(at("10:02:00")),
            }
        );
        assert_eq!(times(1).process_started, None);
    }
}
