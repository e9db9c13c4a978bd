//! Whether the worker is alive and ready, and if not, why.
//!
//! Other modules report to it. It sends no requests itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use layra_crds::{OtherModels, WAITS_FOR_QUOTA};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::work::{Wait, Work};

/// A poll loop without an iteration for longer than this is stuck. A rebalance may block it for
/// some seconds.
const LONGEST_ITERATION: Duration = Duration::from_mins(2);

/// A computation of the model that takes longer than this has hung, for example because its GPU does
/// not answer any more. The largest batch of the largest model takes minutes on a few cores.
const LONGEST_COMPUTATION: Duration = Duration::from_mins(30);

/// The state of the worker.
#[derive(Debug, Default)]
pub(crate) struct Health {
    model_loaded: AtomicBool,
    consumer_running: AtomicBool,
    /// No task is started, because a quota of the pipeline is reached.
    held_for_quota: AtomicBool,
    last_poll: Mutex<Option<Instant>>,
    retrying: Mutex<BTreeMap<Stage, Vec<Arc<Mutex<Latest>>>>>,
    served: Mutex<BTreeMap<Stage, Served>>,
    computing: Mutex<Computations>,
    works: Mutex<Vec<Arc<Work>>>,
    /// Indexes of MongoDB that do not exist, for people.
    missing_indexes: Mutex<Vec<String>>,
    /// The collections of another model. `None`: not counted yet.
    other_models: Mutex<Option<OtherModels>>,
    startup: Startup,
}

/// The latest failure of something that is retried.
#[derive(Debug, Default)]
struct Latest {
    message: String,
    reason: Option<Reason>,
}

/// How long the worker took to become ready for the first time.
#[derive(Debug)]
struct Startup {
    began: Instant,
    took: Mutex<Option<Duration>>,
}

impl Default for Startup {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            took: Mutex::default(),
        }
    }
}

/// The latest request that a server has served.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// The message that needed it, if it was one.
    message: Option<u64>,
    at: Instant,
    /// When a request of another message was served last.
    other: Option<Instant>,
}

/// The computations of the model that are under way.
#[derive(Debug, Default)]
struct Computations {
    next: u64,
    began: BTreeMap<u64, Instant>,
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

    /// Records whether a quota of the pipeline holds up its tasks. The worker stays ready.
    pub(crate) fn hold_for_quota(&self, held: bool) {
        self.held_for_quota.store(held, Ordering::Relaxed);
    }

    /// Records which indexes MongoDB lacks. Queries work without, only slower.
    pub(crate) fn indexes_missing(&self, missing: Vec<String>) {
        *lock(&self.missing_indexes) = missing;
    }

    pub(crate) fn missing_indexes(&self) -> Vec<String> {
        lock(&self.missing_indexes).clone()
    }

    /// Records which collections are of another model than the worker's.
    pub(crate) fn found_other_models(&self, found: Option<OtherModels>) {
        *lock(&self.other_models) = found;
    }

    pub(crate) fn other_models(&self) -> Option<OtherModels> {
        lock(&self.other_models).clone()
    }

    /// Records an iteration of the poll loop.
    pub(crate) fn polled(&self, now: Instant) {
        *self
            .last_poll
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now);
        let mut took = lock(&self.startup.took);
        if took.is_none() && self.problems().is_empty() {
            *took = Some(now.duration_since(self.startup.began));
        }
    }

    /// Seconds from the start of the worker until it was ready for the first time.
    pub(crate) fn startup_seconds(&self) -> Option<f64> {
        lock(&self.startup.took).map(|took| took.as_secs_f64())
    }

    /// Records that a message is in progress, until the guard is dropped.
    #[must_use]
    pub(crate) fn working(self: &Arc<Self>, now: Instant) -> Working {
        let work = Arc::new(Work::begin(now));
        lock(&self.works).push(Arc::clone(&work));
        Working {
            health: Arc::clone(self),
            work,
        }
    }

    /// The stages whose servers all messages in progress wait for, or that they wait for a quota.
    /// Empty if one is worked on, or none is in progress and the quotas leave room.
    pub(crate) fn waiting_for(&self) -> BTreeSet<&'static str> {
        let waits: Vec<_> = lock(&self.works).iter().map(|work| work.waits()).collect();
        if waits.is_empty() && self.held_for_quota.load(Ordering::Relaxed) {
            return BTreeSet::from([WAITS_FOR_QUOTA]);
        }
        if waits.iter().any(Vec::is_empty) {
            return BTreeSet::new();
        }
        // Messages that wait for others wait for the same servers.
        let servers = waits.iter().flatten().filter_map(|wait| match wait {
            Wait::Server(stage) => Some(stage.as_str()),
            Wait::Quota => Some(WAITS_FOR_QUOTA),
            Wait::Others => None,
        });
        servers.collect()
    }

    /// Records that a stage is retrying, until the guard is dropped.
    #[must_use]
    pub(crate) fn retrying(self: &Arc<Self>, stage: Stage) -> Retrying {
        let latest = Arc::<Mutex<Latest>>::default();
        lock(&self.retrying)
            .entry(stage)
            .or_default()
            .push(Arc::clone(&latest));
        Retrying {
            health: Arc::clone(self),
            stage,
            latest,
        }
    }

    /// Records that the server of a stage has served a request of a message.
    pub(crate) fn served(&self, stage: Stage, message: Option<u64>, now: Instant) {
        let mut served = lock(&self.served);
        let before = served.get(&stage).copied();
        let other = match before {
            Some(before) if before.message == message => before.other,
            before => before.map(|before| before.at),
        };
        let last = Served {
            message,
            at: now,
            other,
        };
        served.insert(stage, last);
    }

    /// Whether the server of a stage has served a request of any other message after `then`.
    pub(crate) fn has_served_others_since(
        &self,
        stage: Stage,
        message: Option<u64>,
        then: Instant,
    ) -> bool {
        let served = lock(&self.served).get(&stage).copied();
        let last = served.and_then(|last| match message {
            Some(_) if last.message == message => last.other,
            _ => Some(last.at),
        });
        last.is_some_and(|last| last > then)
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

    /// Records that the model computes something, until the guard is dropped.
    #[must_use]
    pub(crate) fn computing(self: &Arc<Self>, now: Instant) -> Computing {
        let mut computations = lock(&self.computing);
        let id = computations.next;
        computations.next += 1;
        computations.began.insert(id, now);
        drop(computations);
        Computing {
            health: Arc::clone(self),
            id,
        }
    }

    /// What has hung, so that only a restart helps. A poll loop that has not started is fine.
    pub(crate) fn stuck(&self, now: Instant) -> Option<&'static str> {
        let since = |then: Instant| now.saturating_duration_since(then);
        let last_poll = *lock(&self.last_poll);
        if last_poll.is_some_and(|last| since(last) > LONGEST_ITERATION) {
            return Some("the poll loop is stuck");
        }
        let computing = lock(&self.computing);
        let has_hung = |began: &Instant| since(*began) > LONGEST_COMPUTATION;
        let has_hung = computing.began.values().any(has_hung);
        has_hung.then_some("the model is stuck")
    }

    /// The stages that are retrying, with their latest failures.
    pub(crate) fn retries(&self) -> Vec<String> {
        let retries = self.retries_with_reasons().into_iter();
        retries.map(|(words, _)| words).collect()
    }

    /// The same, each with the reason of its failure.
    pub(crate) fn retries_with_reasons(&self) -> Vec<(String, &'static str)> {
        let retrying = lock(&self.retrying);
        retrying
            .iter()
            .filter_map(|(stage, all)| {
                let latest = lock(all.last()?);
                let words = format!("stage {stage} is retrying: {}", latest.message);
                Some((words, latest.reason.map_or("", Reason::as_str)))
            })
            .collect()
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message is in progress as long as this lives.
#[derive(Debug)]
pub(crate) struct Working {
    health: Arc<Health>,
    pub(crate) work: Arc<Work>,
}

impl Drop for Working {
    fn drop(&mut self) {
        lock(&self.health.works).retain(|work| !Arc::ptr_eq(work, &self.work));
    }
}

/// The model computes something as long as this lives.
#[derive(Debug)]
pub(crate) struct Computing {
    health: Arc<Health>,
    id: u64,
}

impl Drop for Computing {
    fn drop(&mut self) {
        lock(&self.health.computing).began.remove(&self.id);
    }
}

/// A stage is retrying as long as this lives.
#[derive(Debug)]
pub(crate) struct Retrying {
    health: Arc<Health>,
    stage: Stage,
    latest: Arc<Mutex<Latest>>,
}

impl Retrying {
    /// Records the latest failure.
    pub(crate) fn record(&self, failure: &Failure) {
        let mut latest = lock(&self.latest);
        latest.message.clone_from(&failure.message);
        latest.reason = Some(failure.reason);
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        let mut retrying = self
            .health
            .retrying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = retrying.get_mut(&self.stage) {
            all.retain(|latest| !Arc::ptr_eq(latest, &self.latest));
            if all.is_empty() {
                retrying.remove(&self.stage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Reason;
    use crate::runtime::work;

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
            health.retries_with_reasons(),
            [(
                "stage milvus is retrying: connection refused".to_owned(),
                "MilvusUnavailable"
            )]
        );
        drop(first);
        assert!(health.retries().is_empty());
    }

    #[test]
    fn requests_of_the_same_message_do_not_show_that_others_are_served() {
        let health = Health::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let served = |message, then| {
            let then = later(then);
            health.has_served_others_since(Stage::Milvus, message, then)
        };
        assert!(!served(Some(1), 0));
        health.served(Stage::Milvus, Some(2), later(10));
        assert!(served(Some(1), 9) && !served(Some(1), 10) && !served(Some(2), 9));
        for seconds in [20, 30] {
            health.served(Stage::Milvus, Some(1), later(seconds));
        }
        assert!(served(Some(1), 9) && !served(Some(1), 10));
        assert!(served(Some(2), 29) && served(None, 29));
    }

    #[test]
    fn the_first_time_of_being_ready_ends_the_startup() {
        let health = Health::default();
        let later = |seconds| health.startup.began + Duration::from_secs(seconds);
        health.polled(later(5));
        assert_eq!(health.startup_seconds(), None);
        health.model_loaded();
        health.consumer_running(true);
        for seconds in [70, 80] {
            health.polled(later(seconds));
            assert_eq!(health.startup_seconds(), Some(70.0));
        }
    }

    #[tokio::test]
    async fn the_worker_waits_when_each_of_its_messages_does() {
        let health = Arc::new(Health::default());
        assert!(health.waiting_for().is_empty(), "nothing is in progress");
        let (first, second) = (
            health.working(Instant::now()),
            health.working(Instant::now()),
        );
        let process = work::process(Arc::clone(&first.work), async {
            let _milvus = work::wait(Wait::Server(Stage::Milvus));
            assert!(health.waiting_for().is_empty(), "the second is worked on");
            let process = work::process(Arc::clone(&second.work), async {
                let _turn = work::wait(Wait::Others);
                health.waiting_for()
            });
            let waiting = process.await;
            drop(second);
            (waiting, health.waiting_for())
        });
        let milvus = BTreeSet::from(["milvus"]);
        assert_eq!(process.await, (milvus.clone(), milvus));
        assert!(health.waiting_for().is_empty());
    }

    #[test]
    fn a_stuck_poll_loop_is_not_alive() {
        let health = Health::default();
        let start = Instant::now();
        let stuck_after = |duration| health.stuck(start + duration);
        let second = Duration::from_secs(1);
        assert_eq!(stuck_after(2 * LONGEST_ITERATION), None, "not started yet");
        health.polled(start);
        assert_eq!(stuck_after(LONGEST_ITERATION), None);
        let stuck = stuck_after(LONGEST_ITERATION + second);
        assert_eq!(stuck, Some("the poll loop is stuck"));
    }

    #[test]
    fn a_model_that_never_returns_is_not_alive() {
        let health = Arc::new(Health::default());
        let start = Instant::now();
        let hung = health.computing(start);
        let (short, later) = (health.computing(start), start + LONGEST_COMPUTATION);
        drop(short);
        assert_eq!(health.stuck(later), None);
        let later = later + Duration::from_secs(1);
        assert_eq!(health.stuck(later), Some("the model is stuck"));
        drop(hung);
        assert_eq!(health.stuck(later), None);
    }
}
