//! Whether the worker is alive and ready, and if not, why.
//!
//! Holds facts that others report; it asks no server itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::failure::{Failure, Stage};

/// A poll loop that is silent for longer than this is stuck. A rebalance may hold it for some
/// seconds.
const LONGEST_SILENCE: Duration = Duration::from_mins(2);

/// What the worker knows about its own state.
#[derive(Debug, Default)]
pub struct Health {
    model_loaded: AtomicBool,
    consumer_running: AtomicBool,
    last_poll: Mutex<Option<Instant>>,
    waiting: Mutex<BTreeMap<Stage, Vec<Arc<Mutex<String>>>>>,
}

impl Health {
    /// The model can embed pages.
    pub fn model_loaded(&self) {
        self.model_loaded.store(true, Ordering::Relaxed);
    }

    /// The consumer has subscribed, or has left.
    pub fn consumer_running(&self, running: bool) {
        self.consumer_running.store(running, Ordering::Relaxed);
    }

    /// The poll loop went round once more.
    pub fn polled(&self, now: Instant) {
        *self
            .last_poll
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Registers that a stage waits for its server, until the guard is dropped.
    #[must_use]
    pub fn waiting(self: &Arc<Self>, stage: Stage) -> Waiting {
        let reason = Arc::new(Mutex::new(String::new()));
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(stage)
            .or_default()
            .push(Arc::clone(&reason));
        Waiting {
            health: Arc::clone(self),
            stage,
            reason,
        }
    }

    /// Why the worker is not ready; empty when it is.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !self.model_loaded.load(Ordering::Relaxed) {
            complaints.push("the model is not loaded".to_owned());
        }
        if !self.consumer_running.load(Ordering::Relaxed) {
            complaints.push("the consumer is not subscribed".to_owned());
        }
        complaints.extend(self.waits());
        complaints
    }

    /// Whether the poll loop still goes round. True before it starts.
    #[must_use]
    pub fn alive(&self, now: Instant) -> bool {
        self.last_poll
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none_or(|last| now.saturating_duration_since(last) <= LONGEST_SILENCE)
    }

    /// The stages that wait for their servers.
    #[must_use]
    pub fn waits(&self) -> Vec<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .iter()
            .filter_map(|(stage, reasons)| {
                let reason = reasons
                    .last()?
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                Some(format!("{stage} waits: {reason}"))
            })
            .collect()
    }
}

/// A stage waits for its server as long as this lives.
#[derive(Debug)]
pub struct Waiting {
    health: Arc<Health>,
    stage: Stage,
    reason: Arc<Mutex<String>>,
}

impl Waiting {
    /// Says what it waits for.
    pub fn explain(&self, failure: &Failure) {
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone_from(&failure.message);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self
            .health
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(reasons) = waiting.get_mut(&self.stage) {
            reasons.retain(|reason| !Arc::ptr_eq(reason, &self.reason));
            if reasons.is_empty() {
                waiting.remove(&self.stage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_once_the_model_and_the_consumer_are() {
        let health = Health::default();
        assert_eq!(health.complaints().len(), 2);
        health.model_loaded();
        assert_eq!(health.complaints(), ["the consumer is not subscribed"]);
        health.consumer_running(true);
        assert!(health.complaints().is_empty());
    }

    #[test]
    fn says_which_server_is_away_while_anybody_waits_for_it() {
        let health = Arc::new(Health::default());
        let failure = Failure::transient(Stage::Milvus, "MilvusUnavailable", "connection refused");
        let first = health.waiting(Stage::Milvus);
        first.explain(&failure);
        let second = health.waiting(Stage::Milvus);
        second.explain(&failure);
        drop(second);
        assert_eq!(health.waits(), ["milvus waits: connection refused"]);
        drop(first);
        assert!(health.waits().is_empty());
    }

    #[test]
    fn a_silent_poll_loop_is_dead() {
        let health = Health::default();
        let start = Instant::now();
        assert!(health.alive(start + 2 * LONGEST_SILENCE), "not started yet");
        health.polled(start);
        assert!(health.alive(start + LONGEST_SILENCE));
        assert!(!health.alive(start + LONGEST_SILENCE + Duration::from_secs(1)));
    }
}
