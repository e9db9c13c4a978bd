//! The worker pods as the autoscaler needs them, and the order in which they are deleted. Pure.

use std::collections::BTreeMap;

use layra_autoscaler::{Counts, Worker};

use crate::reconcile::pods::WorkerPod;

/// Deletion costs: Kubernetes deletes the pods with the lowest cost first.
const DELETED_FIRST: &str = "-1";
const DEFAULT_COST: &str = "0";

/// The workers that exist, and the number that is terminating. `counts` holds the counts of each
/// pod.
pub(super) fn workers(pods: &[WorkerPod], counts: &BTreeMap<String, Counts>) -> (Vec<Worker>, u32) {
    let mut workers = Vec::new();
    let mut terminating = 0;
    for pod in pods.iter().filter(|pod| !pod.ended) {
        if pod.terminating {
            terminating += 1;
            continue;
        }
        workers.push(Worker {
            name: pod.name.clone(),
            phase: pod.phase,
            times: pod.times,
            counts: counts.get(&pod.name).cloned(),
        });
    }
    (workers, terminating)
}

/// The pods whose value of `DELETION_COST` must change, with the new value, before `removed` workers
/// are deleted: those with the least work in progress, and of these the youngest. A worker whose
/// counts could not be read may have the most work, so it is deleted last.
pub(super) fn deletion_costs(
    pods: &[WorkerPod],
    counts: &BTreeMap<String, Counts>,
    removed: usize,
) -> Vec<(String, &'static str)> {
    let mut candidates: Vec<&WorkerPod> = pods
        .iter()
        .filter(|pod| !pod.terminating && !pod.ended)
        .collect();
    candidates.sort_by_key(|pod| {
        let work = match counts.get(&pod.name) {
            Some(counts) => counts.in_flight,
            // Its containers do not run yet.
            None if pod.address.is_none() => 0,
            None => u32::MAX,
        };
        (work, std::cmp::Reverse(pod.created))
    });
    candidates
        .into_iter()
        .enumerate()
        .filter_map(|(index, pod)| {
            let wanted = if index < removed {
                DELETED_FIRST
            } else {
                DEFAULT_COST
            };
            let current = pod.deletion_cost.as_deref().unwrap_or(DEFAULT_COST);
            (current != wanted).then(|| (pod.name.clone(), wanted))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn pod(name: &str, created: &str, status: &Value) -> WorkerPod {
        let pod = json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "status": status,
        });
        fixtures::pod(pod)
    }

    #[test]
    fn terminating_and_ended_pods_are_not_workers() {
        let terminating = WorkerPod {
            terminating: true,
            ..pod("a", "2026-11-25T10:00:00Z", &json!({}))
        };
        let ended = pod("b", "2026-11-25T10:00:00Z", &json!({"phase": "Failed"}));
        let (workers, count) = workers(&[terminating, ended], &BTreeMap::new());
        assert_eq!((workers.len(), count), (0, 1));
    }

    #[test]
    fn pain_9_idle_workers_are_deleted_first_and_of_these_the_youngest() {
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
        let costs = |removed| deletion_costs(&pods, &counts, removed);
        assert_eq!(costs(1), [("young".to_owned(), "-1")]);
        assert_eq!(
            costs(2),
            [("young".to_owned(), "-1"), ("old".to_owned(), "-1")]
        );
    }

    #[test]
    fn a_worker_that_could_not_be_asked_is_deleted_last_and_one_that_does_not_run_yet_first() {
        let running = json!({"phase": "Running", "podIP": "10.0.0.1"});
        let pods = [
            pod("silent", "2026-11-25T10:05:00Z", &running),
            pod("busy", "2026-11-25T10:00:00Z", &running),
            pod(
                "pulling",
                "2026-11-25T10:01:00Z",
                &json!({"phase": "Pending"}),
            ),
        ];
        let busy = Counts {
            in_flight: 20,
            ..Counts::default()
        };
        let counts = BTreeMap::from([("busy".to_owned(), busy)]);
        let first = |removed| -> Vec<String> {
            let costs = deletion_costs(&pods, &counts, removed).into_iter();
            costs.map(|(name, _)| name).collect()
        };
        assert_eq!(first(1), ["pulling"]);
        assert_eq!(first(2), ["pulling", "busy"]);
    }
}
