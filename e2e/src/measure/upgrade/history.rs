//! What a pipeline looks like from outside, several times a second: its state by the rules of kstatus,
//! and its workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use layra_crds::IngestionPipeline;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Scene, condition};
use crate::leadership::{is_ready, restarts};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// A state, as kstatus (Flux) reads it from any object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The object is what its spec says.
    Current,
    /// It is still being changed, or not ready.
    InProgress,
    /// Only an edit helps.
    Failed,
}

/// A worker as a look has shown it.
#[derive(Clone, Debug)]
struct Worker {
    uid: String,
    restarts: i32,
    is_ready: bool,
}

#[derive(Clone, Debug)]
struct Look {
    second: f64,
    state: State,
    reason: String,
    workers: Vec<Worker>,
}

/// Looks at a pipeline until it is dropped.
pub(super) struct History {
    looks: Arc<Mutex<Vec<Look>>>,
    task: JoinHandle<()>,
}

/// What was seen in a part of the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    /// Seconds in which kstatus did not call the pipeline current.
    pub(super) seconds_not_current: f64,
    /// The reasons of Ready, one after the other.
    pub(super) reasons: Vec<String>,
    /// The fewest workers that were ready at a time.
    pub(super) fewest_ready_workers: usize,
    /// Workers that were there at the beginning and not at the end.
    pub(super) workers_replaced: usize,
    /// Restarts of containers of workers.
    pub(super) worker_restarts: i32,
}

impl History {
    /// Records a pipeline, whose workers are the pods with its labels. Seconds count from `start`.
    pub(super) fn record(scene: &Scene, pipeline: &str, start: Instant) -> Self {
        let looks = Arc::<Mutex<Vec<Look>>>::default();
        let (pipelines, pods) = (scene.api::<IngestionPipeline>(), scene.api::<Pod>());
        let (name, into) = (pipeline.to_owned(), Arc::clone(&looks));
        let task = tokio::spawn(async move {
            loop {
                if let Some(look) = look(&pipelines, &pods, &name, start).await {
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(look);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { looks, task }
    }

    /// What was seen between these seconds.
    pub(super) fn between(&self, from: f64, until: f64) -> Seen {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        seen(&looks, from, until)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// None before the operator has written a status, and while the API server does not answer.
async fn look(
    pipelines: &Api<IngestionPipeline>,
    pods: &Api<Pod>,
    name: &str,
    start: Instant,
) -> Option<Look> {
    let pipeline = pipelines.get(name).await.ok()?;
    let selector = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component=worker");
    let pods = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .ok()?;
    let workers = pods.iter().map(|pod| Worker {
        uid: pod.uid().unwrap_or_default(),
        restarts: restarts(pod),
        is_ready: is_ready(pod),
    });
    let status = pipeline.status.as_ref()?;
    Some(Look {
        second: start.elapsed().as_secs_f64(),
        state: state(&pipeline),
        reason: condition(status, "Ready")?.reason.clone(),
        workers: workers.collect(),
    })
}

/// The rules of kstatus for objects with conditions.
fn state(pipeline: &IngestionPipeline) -> State {
    let status = pipeline.status.clone().unwrap_or_default();
    let is_true = |kind| condition(&status, kind).is_some_and(|found| found.status == "True");
    if status.observed_generation != pipeline.metadata.generation || is_true("Reconciling") {
        State::InProgress
    } else if is_true("Stalled") {
        State::Failed
    } else if is_true("Ready") {
        State::Current
    } else {
        State::InProgress
    }
}

fn seen(looks: &[Look], from: f64, until: f64) -> Seen {
    let mut seen = Seen::default();
    let first = looks
        .partition_point(|look| look.second <= from)
        .saturating_sub(1);
    let looks = &looks[first..];
    let end = looks.partition_point(|look| look.second < until);
    let looks = &looks[..end.max(1).min(looks.len())];
    for (index, look) in looks.iter().enumerate() {
        let ends = looks.get(index + 1).map_or(until, |next| next.second);
        if look.state != State::Current {
            seen.seconds_not_current += (ends - look.second.max(from)).max(0.0);
        }
        if seen.reasons.last() != Some(&look.reason) {
            seen.reasons.push(look.reason.clone());
        }
    }
    let ready = |look: &Look| look.workers.iter().filter(|worker| worker.is_ready).count();
    seen.fewest_ready_workers = looks.iter().map(ready).min().unwrap_or_default();
    if let (Some(begin), Some(end)) = (looks.first(), looks.last()) {
        let left: BTreeSet<&str> = end.workers.iter().map(|it| it.uid.as_str()).collect();
        let gone = begin
            .workers
            .iter()
            .filter(|it| !left.contains(it.uid.as_str()));
        seen.workers_replaced = gone.count();
        let mut most = BTreeMap::new();
        for worker in looks.iter().flat_map(|look| &look.workers) {
            let count: &mut i32 = most.entry(worker.uid.as_str()).or_default();
            *count = worker.restarts.max(*count);
        }
        let before: i32 = begin.workers.iter().map(|worker| worker.restarts).sum();
        seen.worker_restarts = most.values().sum::<i32>() - before;
    }
    seen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look(second: f64, state: State, workers: &[(&str, i32, bool)]) -> Look {
        let workers = workers.iter().map(|(uid, restarts, is_ready)| Worker {
            uid: (*uid).to_owned(),
            restarts: *restarts,
            is_ready: *is_ready,
        });
        Look {
            second,
            state,
            reason: format!("{state:?}"),
            workers: workers.collect(),
        }
    }

    #[test]
    fn a_part_of_the_history_counts_only_what_happened_in_it() {
        let looks = [
            look(0.0, State::InProgress, &[("a", 3, false)]),
            look(1.0, State::Current, &[("a", 3, true), ("b", 0, true)]),
            look(2.0, State::InProgress, &[("a", 4, false), ("b", 0, true)]),
            look(4.0, State::Current, &[("b", 0, true), ("c", 1, true)]),
            look(5.0, State::Current, &[("c", 1, true)]),
        ];
        let seen = |from, until| super::seen(&looks, from, until);
        let part = seen(1.5, 4.5);
        assert!((part.seconds_not_current - 2.0).abs() < 1e-9, "{part:?}");
        assert_eq!(part.reasons, ["Current", "InProgress", "Current"]);
        assert_eq!(part.fewest_ready_workers, 1);
        assert_eq!((part.workers_replaced, part.worker_restarts), (1, 2));
        let quiet = seen(4.2, 4.8);
        assert_eq!((quiet.workers_replaced, quiet.worker_restarts), (0, 0));
        assert!(quiet.seconds_not_current.abs() < 1e-9);
        assert_eq!(super::seen(&[], 0.0, 1.0), Seen::default());
    }

    #[test]
    fn states_are_those_of_kstatus() {
        let with = |generation: i64, conditions: &[(&str, &str)]| {
            let conditions: Vec<_> = conditions
                .iter()
                .map(|(kind, status)| {
                    json!({"type": kind, "status": status, "reason": "R", "message": "m",
                        "lastTransitionTime": "2026-11-28T00:00:00Z"})
                })
                .collect();
            let text = include_str!("../../../../crds/tests/v1alpha1/minimal.yaml");
            let mut pipeline: IngestionPipeline = serde_yaml_ng::from_str(text).unwrap();
            pipeline.metadata.generation = Some(2);
            let status = json!({"observedGeneration": generation, "conditions": conditions});
            pipeline.status = serde_json::from_value(status).unwrap();
            state(&pipeline)
        };
        assert_eq!(with(2, &[("Ready", "True")]), State::Current);
        assert_eq!(with(1, &[("Ready", "True")]), State::InProgress);
        assert_eq!(with(2, &[("Ready", "False")]), State::InProgress);
        let stalled = [("Ready", "False"), ("Stalled", "True")];
        assert_eq!(with(2, &stalled), State::Failed);
        let reconciling = [("Ready", "False"), ("Reconciling", "True")];
        assert_eq!(with(2, &reconciling), State::InProgress);
    }
}
