//! The work in progress: how long each message has been worked on, and what it waits for.
//!
//! Time in which a message waits for a server, or for other messages, is not work. Waits are
//! recorded where they happen, on the message that the current task processes. So are the times of
//! the stages.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::stage_times::StageTimes;
use crate::runtime::traces;

tokio::task_local! {
    static CURRENT: Arc<Work>;
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The server of this stage.
    Server(Stage),
    /// Messages that are processed before it, here or by another worker.
    Others,
    /// Room in the vector store: a quota of the pipeline is reached.
    Quota,
}

/// The work on one message.
#[derive(Debug)]
pub(crate) struct Work {
    id: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    /// Stages of a document run concurrently, so there can be several.
    waits: Vec<Wait>,
    /// When the first of `waits` began.
    waits_since: Option<Instant>,
    /// Sum of the waits that have ended.
    waited: Duration,
    /// The stages since the last call of [`take_times`].
    times: StageTimes,
}

/// The message of the current task waits as long as this lives.
#[derive(Debug)]
pub(crate) struct Waiting {
    work: Arc<Work>,
    wait: Wait,
}

impl Wait {
    /// What a message waits for after this failure. `None`: its retry is work.
    fn after(failure: &Failure) -> Option<Self> {
        match (failure.reason, failure.stage) {
            (
                Reason::NewerConfiguration | Reason::BeingRemoved | Reason::KnowledgeBaseArchived,
                _,
            ) => Some(Self::Others),
            (_, Stage::Intake | Stage::Render | Stage::Embed | Stage::Model) => None,
            (_, stage) => Some(Self::Server(stage)),
        }
    }
}

impl Work {
    pub(crate) fn begin(now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                began: now,
                waits: Vec::new(),
                waits_since: None,
                waited: Duration::ZERO,
                times: StageTimes::default(),
            }),
        }
    }

    /// How long the message has been worked on, without its waits.
    pub(crate) fn worked(&self, now: Instant) -> Duration {
        let state = self.lock();
        let waits = state.waits_since.map(|since| now.duration_since(since));
        let waited = state.waited + waits.unwrap_or_default();
        now.duration_since(state.began).saturating_sub(waited)
    }

    /// What the message waits for now. Empty while it is worked on.
    pub(crate) fn waits(&self) -> Vec<Wait> {
        self.lock().waits.clone()
    }

    fn begin_wait(&self, wait: Wait, now: Instant) {
        let mut state = self.lock();
        state.waits.push(wait);
        state.waits_since.get_or_insert(now);
    }

    fn end_wait(&self, wait: Wait, now: Instant) {
        let mut state = self.lock();
        if let Some(index) = state.waits.iter().position(|other| *other == wait) {
            state.waits.swap_remove(index);
        }
        if state.waits.is_empty()
            && let Some(since) = state.waits_since.take()
        {
            state.waited += now.duration_since(since);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `future`, which processes the message of `work`.
pub(crate) async fn process<F: Future>(work: Arc<Work>, future: F) -> F::Output {
    CURRENT.scope(work, future).await
}

/// Identifies the message that the current task processes, if any.
pub(crate) fn current_id() -> Option<u64> {
    CURRENT.try_with(|work| work.id).ok()
}

/// Records that the current task's message waits, until the guard is dropped. `None`: the task
/// processes no message.
pub(crate) fn wait(wait: Wait) -> Option<Waiting> {
    let work = CURRENT.try_with(Arc::clone).ok()?;
    work.begin_wait(wait, Instant::now());
    Some(Waiting { work, wait })
}

/// Runs a step of a stage, and records its time on the current task's message.
pub(crate) async fn timed<F: Future>(stage: Stage, step: F) -> F::Output {
    let began = Instant::now();
    let result = step.await;
    record_time(stage, began.elapsed());
    result
}

/// Records the time of a step that has just ended on the current task's message, if it processes
/// one, and in its trace.
pub(crate) fn record_time(stage: Stage, time: Duration) {
    traces::step(stage.as_str(), time);
    let _ = CURRENT.try_with(|work| work.lock().times.record(stage, time));
}

/// The times of the stages on the current task's message since the last call.
pub(crate) fn take_times() -> StageTimes {
    let take = |work: &Arc<Work>| std::mem::take(&mut work.lock().times);
    CURRENT.try_with(take).unwrap_or_default()
}

/// Records that the current task's message waits because of a failure, until the guard is dropped.
pub(crate) fn wait_after(failure: &Failure) -> Option<Waiting> {
    Wait::after(failure).and_then(wait)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.work.end_wait(self.wait, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_concurrent_stages_count_once_and_are_not_work() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let work = Work::begin(start);
        work.begin_wait(Wait::Server(Stage::Milvus), at(10));
        work.begin_wait(Wait::Server(Stage::Objects), at(20));
        assert_eq!(work.worked(at(25)), Duration::from_secs(10));
        work.end_wait(Wait::Server(Stage::Milvus), at(30));
        assert_eq!(work.waits(), [Wait::Server(Stage::Objects)]);
        work.end_wait(Wait::Server(Stage::Objects), at(3_600));
        assert!(work.waits().is_empty());
        assert_eq!(work.worked(at(3_605)), Duration::from_secs(15));
        work.begin_wait(Wait::Others, at(3_605));
        assert_eq!(work.worked(at(7_200)), Duration::from_secs(15));
    }

    #[test]
    fn a_renderer_that_is_started_again_is_work() {
        let after = |stage, reason| Wait::after(&Failure::transient(stage, reason, "x"));
        let milvus = after(Stage::Milvus, Reason::MilvusUnavailable);
        assert_eq!(milvus, Some(Wait::Server(Stage::Milvus)));
        assert_eq!(after(Stage::Render, Reason::RendererKilled), None);
        let removed = after(Stage::Mongodb, Reason::BeingRemoved);
        assert_eq!(removed, Some(Wait::Others));
        let newer = after(Stage::Intake, Reason::NewerConfiguration);
        assert_eq!(newer, Some(Wait::Others));
    }

    #[tokio::test]
    async fn a_wait_belongs_to_the_message_of_its_task() {
        assert!(wait(Wait::Others).is_none(), "no message");
        let work = Arc::new(Work::begin(Instant::now()));
        let other = Arc::new(Work::begin(Instant::now()));
        let waits = process(Arc::clone(&work), async {
            let _waiting = wait(Wait::Others);
            (work.waits(), other.waits())
        });
        assert_eq!(waits.await, (vec![Wait::Others], vec![]));
        assert!(work.waits().is_empty());
    }

    #[tokio::test]
    async fn times_of_concurrent_stages_are_taken_once() {
        record_time(Stage::Embed, Duration::from_hours(9));
        let work = Arc::new(Work::begin(Instant::now()));
        let times = process(work, async {
            record_time(Stage::Fetch, Duration::from_millis(5));
            let pause = || tokio::time::sleep(Duration::from_millis(1));
            tokio::join!(timed(Stage::Render, pause()), timed(Stage::Embed, pause()));
            record_time(Stage::Embed, Duration::from_millis(7));
            (take_times(), take_times())
        });
        let (first, again) = times.await;
        assert_eq!(first.fetch, 5);
        assert!(first.render >= 1, "{first:?}");
        assert!((8..32_400_000).contains(&first.embed), "{first:?}");
        assert_eq!(again, StageTimes::default());
    }
}
