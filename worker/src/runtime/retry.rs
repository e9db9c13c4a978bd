//! Retries while a server is unavailable.
//!
//! There is no limit: a document is never rejected because of a server. The readiness, a metric and
//! the log report each retry. Only transient failures are retried.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::runtime::failure::{Class, Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Retries operations with exponential backoff.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    shutdown: CancellationToken,
    first_delay: Duration,
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
        }
    }

    /// Runs `operation` until it succeeds or its failure is not transient. `operation` gets the
    /// number of earlier attempts. `cancel` interrupts the wait between two attempts, never an
    /// attempt.
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
        for attempts in 0_u32.. {
            let failure = match operation(attempts).await {
                Err(failure) if failure.class == Class::Transient => failure,
                finished => return finished,
            };
            let guard = retrying.get_or_insert_with(|| self.health.retrying(stage));
            guard.record(&failure);
            self.wait(stage, cancel, &failure, attempts).await?;
        }
        Err(Failure::stopped(stage))
    }

    /// Waits after a failure with `attempts` before it, for callers that retry without
    /// [`run`](Self::run).
    pub(crate) async fn pause(
        &self,
        cancel: &CancellationToken,
        failure: &Failure,
        attempts: u32,
    ) -> Result<(), Failure> {
        let retrying = self.health.retrying(failure.stage);
        retrying.record(failure);
        self.wait(failure.stage, cancel, failure, attempts).await
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
        let pause = slow.pause(&cancel, &failure, 0);
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
