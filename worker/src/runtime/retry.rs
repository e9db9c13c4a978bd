//! Retries while a server is unavailable.
//!
//! There is no limit: a document is never rejected because of a server. But a server that answers,
//! refuses one request again and again, and serves others, refuses the document: such a failure
//! becomes permanent ([`Refusals`]). The readiness, a metric and the log report each retry. Only
//! transient failures are retried.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::runtime::failure::{Cause, Class, Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::work;

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// A request that is refused fewer times than this is always repeated. With the pauses below, ten
/// refusals at once take a minute or more; a request that is refused slowly gets as many chances.
const REFUSALS_ALLOWED: u32 = 10;
/// How long a request is repeated that a server refuses while it serves others. Restarts, elections
/// and rolling upgrades are over by then, and the partition is not held up for much longer.
const REFUSED_FOR: Duration = Duration::from_mins(5);
/// The same if nothing else was served since, so that nothing shows that the request is to blame. A
/// misconfigured server is usually noticed by then. Without this limit a single document would hold
/// up its partition forever.
const REFUSED_ALONE_FOR: Duration = Duration::from_hours(1);

/// The refusals of one request in a row. This is the only place that decides when a document is to
/// blame for them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refusals {
    count: u32,
    first: Option<Instant>,
}

impl Refusals {
    /// Counts a failure. Returns the permanent failure that it becomes, if it has repeated for long
    /// enough. `served_since` says whether the server has served another request since a time.
    fn record(
        &mut self,
        failure: &Failure,
        now: Instant,
        served_since: impl FnOnce(Instant) -> bool,
    ) -> Option<Failure> {
        if failure.cause == Cause::Server {
            // The server is in trouble: earlier refusals may be part of it.
            *self = Self::default();
            return None;
        }
        self.count = self.count.saturating_add(1);
        let first = *self.first.get_or_insert(now);
        let lasted = now.saturating_duration_since(first);
        let longest = if served_since(first) {
            REFUSED_FOR
        } else {
            REFUSED_ALONE_FOR
        };
        if self.count < REFUSALS_ALLOWED || lasted < longest {
            return None;
        }
        let (count, minutes) = (self.count, lasted.as_secs() / 60);
        let message = format!(
            "refused {count} times within {minutes} minutes: {}",
            failure.message
        );
        Some(Failure::permanent(failure.stage, failure.reason, message))
    }
}

/// Retries operations with exponential backoff.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    shutdown: CancellationToken,
    first_delay: Duration,
    /// How long one operation is retried. `None`: without limit.
    limit: Option<Duration>,
}

impl Retry {
    /// A policy that reports to `metrics` and `health`. Once `shutdown` is cancelled, it no
    /// longer waits.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            metrics,
            health,
            shutdown,
            first_delay: FIRST_DELAY,
            limit: None,
        }
    }

    /// Where retries are reported.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// The same policy, but [`run`](Self::run) gives up after `limit` and returns the transient
    /// failure: for work that must not wait in its place. Lost renderers have a limit of their own.
    pub(crate) fn limited_to(&self, limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..self.clone()
        }
    }

    /// Runs `operation` until it succeeds or its failure is not transient. `operation` gets the
    /// number of earlier attempts. `cancel` interrupts the wait between two attempts, never an
    /// attempt. The time from the first failure on is not work of the message.
    pub(crate) async fn run<T, Attempt>(
        &self,
        stage: Stage,
        cancel: &CancellationToken,
        mut operation: impl FnMut(u32) -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let mut retrying = None;
        // Dropped at the end; until then each failure replaces it.
        let mut _waiting = None;
        let mut refusals = Refusals::default();
        let started = Instant::now();
        for attempts in 0_u32.. {
            let failure = match operation(attempts).await {
                Err(failure) if failure.class == Class::Transient => failure,
                Ok(value) => {
                    let now = Instant::now();
                    self.health.served(stage, work::current_id(), now);
                    return Ok(value);
                }
                Err(failure) => return Err(failure),
            };
            let served = |then| self.serves_others_since(failure.stage, then);
            if let Some(refused) = refusals.record(&failure, Instant::now(), served) {
                return Err(refused);
            }
            let is_over = self.limit.is_some_and(|limit| started.elapsed() >= limit);
            if is_over && !failure.reason.is_lost_renderer() {
                return Err(failure);
            }
            _waiting = work::wait_after(&failure);
            let guard = retrying.get_or_insert_with(|| self.health.retrying(stage));
            guard.record(&failure);
            self.wait(stage, cancel, &failure, attempts).await?;
        }
        Err(Failure::stopped(stage))
    }

    /// Waits after a failure with `attempts` before it, for callers that retry without
    /// [`run`](Self::run). Fails if the failure has become permanent.
    pub(crate) async fn pause(
        &self,
        cancel: &CancellationToken,
        failure: &Failure,
        attempts: u32,
        refusals: &mut Refusals,
    ) -> Result<(), Failure> {
        let served = |then| self.serves_others_since(failure.stage, then);
        if let Some(refused) = refusals.record(failure, Instant::now(), served) {
            return Err(refused);
        }
        let retrying = self.health.retrying(failure.stage);
        retrying.record(failure);
        let _waiting = work::wait_after(failure);
        self.wait(failure.stage, cancel, failure, attempts).await
    }

    fn serves_others_since(&self, stage: Stage, then: Instant) -> bool {
        let message = work::current_id();
        self.health.has_served_others_since(stage, message, then)
    }

    async fn wait(
        &self,
        stage: Stage,
        cancel: &CancellationToken,
        failure: &Failure,
        attempts: u32,
    ) -> Result<(), Failure> {
        let pause = delay(self.first_delay, attempts, fastrand::f64());
        tracing::warn!(
            stage = stage.as_str(),
            reason = failure.reason.as_str(),
            error = failure.message,
            attempt = attempts + 1,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "attempt failed, retrying"
        );
        let retries = &self.metrics.retries;
        retries.with_label_values(&[stage.as_str()]).inc();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = cancel.cancelled() => Err(Failure::stopped(stage)),
            () = self.shutdown.cancelled() => Err(Failure::stopped(stage)),
        }
    }
}

/// The pause after a failed attempt with `attempts` before it. It doubles each time, up to half a
/// minute. Up to half of it is left out at random, so that many workers do not retry at once.
fn delay(first: Duration, attempts: u32, random: f64) -> Duration {
    let longest = first
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(LONGEST_DELAY);
    longest.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::runtime::failure::Reason;

    fn without_delay() -> Retry {
        Retry {
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            shutdown: CancellationToken::new(),
            first_delay: Duration::ZERO,
            limit: None,
        }
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_vary_by_half() {
        let first = Duration::from_millis(250);
        assert_eq!(delay(first, 0, 1.0), first);
        assert_eq!(delay(first, 0, 0.0), first / 2);
        assert_eq!(delay(first, 3, 1.0), 8 * first);
        assert_eq!(delay(first, 1000, 1.0), LONGEST_DELAY);
    }

    #[tokio::test]
    async fn retries_until_the_server_is_available() {
        let retry = without_delay();
        let calls = AtomicU32::new(0);
        let answer = retry
            .run(Stage::Milvus, &CancellationToken::new(), |attempts| {
                assert_eq!(attempts, calls.fetch_add(1, Ordering::Relaxed));
                async move {
                    if attempts < 20 {
                        Err(Failure::transient(
                            Stage::Milvus,
                            Reason::MilvusUnavailable,
                            "connection refused",
                        ))
                    } else {
                        Ok(attempts)
                    }
                }
            })
            .await;
        assert_eq!(answer, Ok(20));
        assert_eq!(
            retry.metrics.retries.with_label_values(&["milvus"]).get(),
            20
        );
        assert!(retry.health.retries().is_empty(), "the server is back");
    }

    #[tokio::test]
    async fn work_that_must_not_wait_gets_the_failure_back() {
        let retry = without_delay().limited_to(Duration::from_millis(20));
        let cancel = CancellationToken::new();
        let failure = Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, "refused");
        let started = Instant::now();
        let answer: Result<(), _> = retry
            .run(Stage::Milvus, &cancel, |_| async { Err(failure.clone()) })
            .await;
        assert_eq!(answer, Err(failure));
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert!(retry.health.retries().is_empty());
    }

    #[tokio::test]
    async fn the_time_of_retries_is_not_work() {
        let retry = Retry {
            first_delay: Duration::from_millis(40),
            ..without_delay()
        };
        let working = retry.health.working(Instant::now());
        let cancel = CancellationToken::new();
        let operation = |attempts| {
            let waiting_for = retry.health.waiting_for();
            async move {
                if attempts == 0 {
                    assert!(waiting_for.is_empty());
                    let message = "refused";
                    return Err(Failure::transient(
                        Stage::Milvus,
                        Reason::MilvusUnavailable,
                        message,
                    ));
                }
                Ok(waiting_for)
            }
        };
        let started = Instant::now();
        let run = retry.run(Stage::Milvus, &cancel, operation);
        let waited_for = work::process(Arc::clone(&working.work), run).await;
        assert_eq!(
            waited_for.unwrap().into_iter().collect::<Vec<_>>(),
            ["milvus"]
        );
        assert!(retry.health.waiting_for().is_empty());
        let worked = working.work.worked(Instant::now());
        assert!(
            started.elapsed() >= worked + Duration::from_millis(20),
            "{worked:?}"
        );
    }

    /// Repeats a failure every 30 s. Returns after how many seconds it becomes permanent.
    fn ends_after(failure: &Failure, serves_others: bool) -> Option<u64> {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        (0..=2 * 60 * 60).step_by(30).find(|seconds| {
            let now = start + Duration::from_secs(*seconds);
            let ended = refusals.record(failure, now, |_| serves_others);
            ended.is_some_and(|ended| {
                assert_eq!(ended.class, Class::Permanent);
                assert_eq!(ended.reason, failure.reason);
                assert!(ended.message.ends_with(": key too long"), "{ended}");
                true
            })
        })
    }

    #[test]
    fn only_a_request_that_is_refused_while_others_are_served_ends_soon() {
        let refused = Failure::refused(Stage::Objects, Reason::ObjectStoreRefused, "key too long");
        assert_eq!(ends_after(&refused, true), Some(REFUSED_FOR.as_secs()));
        assert_eq!(
            ends_after(&refused, false),
            Some(REFUSED_ALONE_FOR.as_secs())
        );
        let away = Failure::transient(Stage::Objects, Reason::ObjectStoreUnavailable, "refused");
        assert_eq!(ends_after(&away, true), None);
    }

    #[test]
    fn refusals_count_from_the_start_after_an_outage() {
        let refused = Failure::refused(Stage::Milvus, Reason::MilvusRefused, "1100");
        let away = Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, "no connection");
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let later = |minutes| start + Duration::from_mins(minutes);
        for _ in 0..2 * REFUSALS_ALLOWED {
            assert_eq!(refusals.record(&refused, start, |_| true), None, "too soon");
        }
        assert_eq!(refusals.record(&away, later(6), |_| true), None);
        assert_eq!(refusals.record(&refused, later(7), |_| true), None);
        for _ in 2..REFUSALS_ALLOWED {
            assert_eq!(refusals.record(&refused, later(30), |_| true), None, "few");
        }
        assert!(refusals.record(&refused, later(30), |_| true).is_some());
    }

    #[tokio::test]
    async fn a_success_shows_that_the_server_serves_others() {
        let retry = without_delay();
        let before = Instant::now();
        let served = |stage| retry.serves_others_since(stage, before);
        assert!(!served(Stage::Milvus));
        let cancel = CancellationToken::new();
        let answer = retry.run(Stage::Milvus, &cancel, |_| async { Ok(()) });
        answer.await.unwrap();
        assert!(served(Stage::Milvus) && !served(Stage::Objects));
        assert!(!retry.serves_others_since(Stage::Milvus, Instant::now()));
    }

    #[tokio::test]
    async fn a_permanent_failure_is_not_retried() {
        let calls = AtomicU32::new(0);
        let answer: Result<(), _> = without_delay()
            .run(Stage::Render, &CancellationToken::new(), |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Err(Failure::permanent(Stage::Render, Reason::Damaged, "broken")) }
            })
            .await;
        assert_eq!(answer.unwrap_err().reason, Reason::Damaged);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_pause_is_counted_visible_and_can_be_cancelled() {
        let slow = Retry {
            first_delay: Duration::from_mins(1),
            ..without_delay()
        };
        let failure = Failure::transient(Stage::Render, Reason::RendererKilled, "killed");
        let cancel = CancellationToken::new();
        let mut refusals = Refusals::default();
        let pause = slow.pause(&cancel, &failure, 0, &mut refusals);
        let observe = async {
            tokio::task::yield_now().await;
            let retries = slow.health.retries();
            cancel.cancel();
            retries
        };
        let (paused, retries) = tokio::join!(pause, observe);
        assert_eq!(paused.unwrap_err().class, Class::Stopped);
        assert_eq!(retries.len(), 1, "{retries:?}");
        assert!(slow.health.retries().is_empty());
        assert_eq!(slow.metrics.retries.with_label_values(&["render"]).get(), 1);
    }

    #[tokio::test]
    async fn cancelled_work_is_not_retried() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let answer: Result<(), _> = without_delay()
            .run(Stage::Mongodb, &cancel, |_| async {
                Err(Failure::transient(
                    Stage::Mongodb,
                    Reason::MongodbUnavailable,
                    "connection refused",
                ))
            })
            .await;
        assert_eq!(answer.unwrap_err().class, Class::Stopped);
    }
}
