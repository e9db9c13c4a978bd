//! The worker pods as plain data. The conditions, phases and times of pods are interpreted only here;
//! container statuses are passed on unchanged. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use layra_autoscaler::Phase;

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
    /// Set while it is pending because no node has room for it.
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
    let since = |type_| {
        condition(pod, type_)
            .filter(|condition| condition.status == "True")
            .map(|condition| time(condition.last_transition_time.as_ref()))
    };
    let scheduled = since("PodScheduled").flatten();
    if let Some(ready) = since("Ready") {
        // After a restart the readiness is not the first one.
        let started_in = scheduled
            .zip(ready)
            .filter(|_| restarts(pod) == 0)
            .map(|(scheduled, ready)| ready.duration_since(scheduled).as_secs_f64())
            .filter(|seconds| *seconds >= 0.0);
        return Phase::Ready { started_in };
    }
    match unschedulable {
        Some(pending) => Phase::Pending {
            since: pending.since.or(created).unwrap_or(now),
        },
        None => Phase::Starting {
            since: scheduled.or(created).unwrap_or(now),
        },
    }
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
        condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
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

    fn phase_of(conditions: &Value) -> Phase {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-11-25T10:00:00Z"},
            "status": {"conditions": conditions},
        });
        fixtures::pod(pod).phase
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
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
        assert!(pod(true).is_of_predecessor(created("2026-11-25T10:02:00Z")));
        assert!(!pod(true).is_of_predecessor(created("2026-11-25T09:00:00Z")));
        assert!(
            !pod(false).is_of_predecessor(created("2026-11-25T10:02:00Z")),
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
        assert_eq!(pod.unready_since, Some(at("2026-11-25T10:09:00Z")));
        assert_eq!(
            pod.eviction.as_deref(),
            Some("Evicted: The node was low on resource: ephemeral-storage.")
        );
    }

    #[test]
    fn phases_are_read_from_the_pods_conditions() {
        let scheduled = condition("PodScheduled", "True", "", "2026-11-25T10:01:00Z");
        let pending = condition(
            "PodScheduled",
            "False",
            "Unschedulable",
            "2026-11-25T10:00:01Z",
        );
        let ready = condition("Ready", "True", "", "2026-11-25T10:03:30Z");
        assert_eq!(
            phase_of(&json!([])),
            Phase::Starting {
                since: at("2026-11-25T10:00:00Z")
            }
        );
        assert_eq!(
            phase_of(&json!([pending])),
            Phase::Pending {
                since: at("2026-11-25T10:00:01Z")
            }
        );
        assert_eq!(
            phase_of(&json!([scheduled])),
            Phase::Starting {
                since: at("2026-11-25T10:01:00Z")
            }
        );
        assert_eq!(
            phase_of(&json!([scheduled, ready])),
            Phase::Ready {
                started_in: Some(150.0)
            }
        );
    }
}
