//! The worker pods as the autoscaler sees them, and which of them go first. Pure.

use std::collections::BTreeMap;

use layra_autoscaler::{Counts, Worker};

use crate::reconcile::pods::WorkerPod;

const FIRST: &str = "-1";
const ORDINARY: &str = "0";

/// The workers that exist, and how many are leaving. `counts` is what each pod counted.
pub(super) fn workers(pods: &[WorkerPod], counts: &BTreeMap<String, Counts>) -> (Vec<Worker>, u32) {
    let mut workers = Vec::new();
    let mut leaving = 0;
    for pod in pods.iter().filter(|pod| !pod.ended) {
        if pod.leaving {
            leaving += 1;
            continue;
        }
        workers.push(Worker {
            name: pod.name.clone(),
            phase: pod.phase,
            counts: counts.get(&pod.name).cloned(),
        });
    }
    (workers, leaving)
}

/// The pod and the value of `DELETION_COST` that it is to have, for each pod that has another one,
/// when `fewer` workers are to go: those with the least work, and of these the youngest.
pub(super) fn deletion_costs(
    pods: &[WorkerPod],
    counts: &BTreeMap<String, Counts>,
    fewer: usize,
) -> Vec<(String, &'static str)> {
    let mut candidates: Vec<&WorkerPod> = pods
        .iter()
        .filter(|pod| !pod.leaving && !pod.ended)
        .collect();
    candidates.sort_by_key(|pod| {
        let work = counts.get(&pod.name).map_or(0, |counts| counts.in_flight);
        (work, std::cmp::Reverse(pod.created))
    });
    candidates
        .into_iter()
        .enumerate()
        .filter_map(|(index, pod)| {
            let wanted = if index < fewer { FIRST } else { ORDINARY };
            let has = pod.deletion_cost.as_deref().unwrap_or(ORDINARY);
            (has != wanted).then(|| (pod.name.clone(), wanted))
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
    fn pods_that_leave_or_have_ended_are_no_workers() {
        let leaving = WorkerPod {
            leaving: true,
            ..pod("a", "2026-11-25T10:00:00Z", &json!({}))
        };
        let ended = pod("b", "2026-11-25T10:00:00Z", &json!({"phase": "Failed"}));
        let (workers, count) = workers(&[leaving, ended], &BTreeMap::new());
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
