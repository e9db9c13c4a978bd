//! Whether the worker is alive and ready, and if not, why.
//!
//! Other modules report to it. It sends no requests itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::failure::{Failure, Stage};

/// A poll loop without an iteration for longer than this is stuck. A rebalance may block it for
/// some seconds.
const LONGEST_ITERATION: Duration = Duration::from_mins(2);

/// The state of the worker.
#[derive(Debug, Default)]
pub(crate) struct Health {
    model_loaded: AtomicBool,
    consumer_running: AtomicBool,
    last_poll: Mutex<Option<Instant>>,
    retrying: Mutex<BTreeMap<Stage, Vec<Arc<Mutex<String>>>>>,
    served: Mutex<BTreeMap<Stage, Instant>>,
}

impl Health {
    /// Records that the model can embed pages.
    pub(crate) fn model_loaded(&self) {
        self.model_loaded.store(true, Ordering::Relaxed);
    }

    /// Records whether the consumer is subscribed.
    pub(crate) fn consumer_running(&self, running: bool) {
        self.consumer_running.store(running, Ordering::Relaxed);
    }

    /// Records an iteration of the poll loop.
    pub(crate) fn polled(&self, now: Instant) {
        *self
            .last_poll
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Records that a stage is retrying, until the guard is dropped.
    #[must_use]
    pub(crate) fn retrying(self: &Arc<Self>, stage: Stage) -> Retrying {
        let reason = Arc::new(Mutex::new(String::new()));
        self.retrying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(stage)
            .or_default()
            .push(Arc::clone(&reason));
        Retrying {
            health: Arc::clone(self),
            stage,
            reason,
        }
    }

    /// Records that the server of a stage has served a request.
    pub(crate) fn served(&self, stage: Stage, now: Instant) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.insert(stage, now);
    }

    /// Whether the server of a stage has served any request after `then`.
    pub(crate) fn has_served_since(&self, stage: Stage, then: Instant) -> bool {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(&stage).is_some_and(|last| *last > then)
    }

    /// Why the worker is not ready. Empty if it is ready.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.model_loaded.load(Ordering::Relaxed) {
            problems.push("the model is not loaded".to_owned());
        }
        if !self.consumer_running.load(Ordering::Relaxed) {
            problems.push("the consumer is not subscribed".to_owned());
        }
        problems.extend(self.retries());
        problems
    }

    /// Whether the poll loop is running. True before it starts.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        self.last_poll
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none_or(|last| now.saturating_duration_since(last) <= LONGEST_ITERATION)
    }

    /// The stages that are retrying, with their latest failures.
    pub(crate) fn retries(&self) -> Vec<String> {
        let retrying = self.retrying.lock().unwrap_or_else(PoisonError::into_inner);
        retrying
            .iter()
            .filter_map(|(stage, reasons)| {
                let reason = reasons
                    .last()?
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                Some(format!("stage {stage} is retrying: {reason}"))
            })
            .collect()
    }
}

/// A stage is retrying as long as this lives.
#[derive(Debug)]
pub(crate) struct Retrying {
    health: Arc<Health>,
    stage: Stage,
    reason: Arc<Mutex<String>>,
}

impl Retrying {
    /// Records the latest failure.
    pub(crate) fn record(&self, failure: &Failure) {
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone_from(&failure.message);
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        let mut retrying = self
            .health
            .retrying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(reasons) = retrying.get_mut(&self.stage) {
            reasons.retain(|reason| !Arc::ptr_eq(reason, &self.reason));
            if reasons.is_empty() {
                retrying.remove(&self.stage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Reason;

    #[test]
    fn a_worker_is_ready_once_its_model_and_consumer_are() {
        let health = Health::default();
        assert_eq!(health.problems().len(), 2);
        health.model_loaded();
        assert_eq!(health.problems(), ["the consumer is not subscribed"]);
        health.consumer_running(true);
        assert!(health.problems().is_empty());
    }

    #[test]
    fn a_stage_is_listed_until_its_last_retry_ends() {
        let health = Arc::new(Health::default());
        let failure = Failure::transient(
            Stage::Milvus,
            Reason::MilvusUnavailable,
            "connection refused",
        );
        let first = health.retrying(Stage::Milvus);
        first.record(&failure);
        let second = health.retrying(Stage::Milvus);
        second.record(&failure);
        drop(second);
        assert_eq!(
            health.retries(),
            ["stage milvus is retrying: connection refused"]
        );
        drop(first);
        assert!(health.retries().is_empty());
    }

    #[test]
    fn a_stuck_poll_loop_is_not_alive() {
        let health = Health::default();
        let start = Instant::now();
        assert!(
            health.is_alive(start + 2 * LONGEST_ITERATION),
            "not started yet"
        );
        health.polled(start);
        assert!(health.is_alive(start + LONGEST_ITERATION));
        assert!(!health.is_alive(start + LONGEST_ITERATION + Duration::from_secs(1)));
    }
}
