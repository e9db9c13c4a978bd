//! The worker pods as the autoscaler sees them, and which of them go first. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::ResourceExt;
use layra_autoscaler::{Counts, Phase, Worker};

/// Annotation by which Kubernetes chooses the pods that go first; the lowest number does.
pub(crate) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const FIRST: &str = "-1";
const ORDINARY: &str = "0";

/// The workers that exist, and how many are leaving. `counts` is what each pod counted.
pub(super) fn workers(
    pods: &[Arc<Pod>],
    counts: &BTreeMap<String, Counts>,
    now: Timestamp,
) -> (Vec<Worker>, u32) {
    let mut workers = Vec::new();
    let mut leaving = 0;
    for pod in pods {
        if has_ended(pod) {
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            leaving += 1;
            continue;
        }
        workers.push(Worker {
            name: pod.name_any(),
            phase: phase(pod, now),
            counts: counts.get(&pod.name_any()).cloned(),
        });
    }
    (workers, leaving)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn phase(pod: &Pod, now: Timestamp) -> Phase {
    let scheduled = condition(pod, "PodScheduled");
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let changed = |condition: &PodCondition| {
        let time = condition.last_transition_time.as_ref();
        time.map(|time| time.0)
    };
    let placed = scheduled
        .filter(|condition| condition.status == "True")
        .and_then(changed);
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True");
    if let Some(ready) = ready {
        // A container that was restarted became ready more than once.
        let started_in = placed
            .zip(changed(ready))
            .filter(|_| restarts(pod) == 0)
            .map(|(placed, ready)| ready.duration_since(placed).as_secs_f64())
            .filter(|seconds| *seconds >= 0.0);
        return Phase::Ready { started_in };
    }
    match scheduled {
        Some(waiting)
            if waiting.status == "False" && waiting.reason.as_deref() == Some("Unschedulable") =>
        {
            Phase::Waiting {
                since: changed(waiting).or(created).unwrap_or(now),
            }
        }
        _ => Phase::Starting {
            since: placed.or(created).unwrap_or(now),
        },
    }
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref());
    let containers = containers.unwrap_or_default().iter();
    containers.map(|container| container.restart_count).sum()
}

/// The pod and the value of [`DELETION_COST`] that it is to have, for each pod that has another one,
/// when `fewer` workers are to go: those with the least work, and of these the youngest.
pub(super) fn deletion_costs(
    pods: &[Arc<Pod>],
    counts: &BTreeMap<String, Counts>,
    fewer: usize,
) -> Vec<(String, &'static str)> {
    let mut candidates: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !has_ended(pod))
        .collect();
    candidates.sort_by_key(|pod| {
        let work = counts
            .get(&pod.name_any())
            .map_or(0, |counts| counts.in_flight);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (work, std::cmp::Reverse(created))
    });
    candidates
        .into_iter()
        .enumerate()
        .filter_map(|(index, pod)| {
            let wanted = if index < fewer { FIRST } else { ORDINARY };
            let has = pod
                .annotations()
                .get(DELETION_COST)
                .map_or(ORDINARY, String::as_str);
            (has != wanted).then(|| (pod.name_any(), wanted))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-25T10:10:00Z".parse().unwrap()
    }

    fn pod(name: &str, created: &str, status: &Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "status": status,
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn condition(type_: &str, status: &str, reason: &str, time: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "lastTransitionTime": time})
    }

    fn phase_of(conditions: &Value) -> Phase {
        let pod = pod(
            "a",
            "2026-11-25T10:00:00Z",
            &json!({ "conditions": conditions }),
        );
        let (workers, _) = workers(&[pod], &BTreeMap::new(), now());
        workers[0].phase
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn phases_are_read_from_the_pods_conditions() {
        let placed = condition("PodScheduled", "True", "", "2026-11-25T10:01:00Z");
        let waiting = condition(
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
            phase_of(&json!([waiting])),
            Phase::Waiting {
                since: at("2026-11-25T10:00:01Z")
            }
        );
        assert_eq!(
            phase_of(&json!([placed])),
            Phase::Starting {
                since: at("2026-11-25T10:01:00Z")
            }
        );
        assert_eq!(
            phase_of(&json!([placed, ready])),
            Phase::Ready {
                started_in: Some(150.0)
            }
        );
    }

    #[test]
    fn pods_that_leave_or_have_ended_are_no_workers() {
        let mut leaving = (*pod("a", "2026-11-25T10:00:00Z", &json!({}))).clone();
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        let ended = pod("b", "2026-11-25T10:00:00Z", &json!({"phase": "Failed"}));
        let (workers, count) = workers(&[Arc::new(leaving), ended], &BTreeMap::new(), now());
        assert_eq!((workers.len(), count), (0, 1));
    }

    #[test]
    fn pain_9_idle_workers_go_first_and_then_the_youngest() {
        let pods = [
            pod("old", "2026-11-25T10:00:00Z", &json!({})),
            pod("busy", "2026-11-25T10:05:00Z", &json!({})),
            pod("young", "2026-11-25T10:04:00Z", &json!({})),
        ];
        let counts = BTreeMap::from([(
            "busy".to_owned(),
            Counts {
                in_flight: 2,
                ..Counts::default()
            },
        )]);
        let costs = |fewer| deletion_costs(&pods, &counts, fewer);
        assert_eq!(costs(1), [("young".to_owned(), "-1")]);
        assert_eq!(
            costs(2),
            [("young".to_owned(), "-1"), ("old".to_owned(), "-1")]
        );
    }
}
