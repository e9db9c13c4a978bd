//! Trying again while a server is away.
//!
//! Waits without limit, because a document is never given up for a server's sake; says so in the
//! readiness, in a metric and in the log. It never retries what will fail again.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::runtime::failure::{Class, Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Repeats operations that fail for a while.
#[derive(Clone, Debug)]
pub struct Retry {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    leaving: CancellationToken,
    first_delay: Duration,
}

impl Retry {
    /// A policy that reports to `metrics` and `health`. Once the worker is `leaving` nothing is
    /// waited for any more.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>, leaving: CancellationToken) -> Self {
        Self {
            metrics,
            health,
            leaving,
            first_delay: FIRST_DELAY,
        }
    }

    /// Runs `operation` until it succeeds or fails for another reason than a transient one.
    /// `operation` gets the number of attempts made before. Only the waiting between two attempts
    /// is cut short by `cancel`, never an attempt.
    pub async fn run<T, Attempt>(
        &self,
        stage: Stage,
        cancel: &CancellationToken,
        mut operation: impl FnMut(u32) -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let mut waiting = None;
        for attempts in 0_u32.. {
            let failure = match operation(attempts).await {
                Err(failure) if failure.class == Class::Transient => failure,
                finished => return finished,
            };
            let guard = waiting.get_or_insert_with(|| self.health.waiting(stage));
            guard.explain(&failure);
            self.wait(stage, cancel, &failure, attempts).await?;
        }
        Err(Failure::stopped(stage))
    }

    /// Waits after a failure that had `attempts` before it, for what is tried again by other means
    /// than [`run`](Self::run).
    pub async fn pause(
        &self,
        cancel: &CancellationToken,
        failure: &Failure,
        attempts: u32,
    ) -> Result<(), Failure> {
        let waiting = self.health.waiting(failure.stage);
        waiting.explain(failure);
        self.wait(failure.stage, cancel, failure, attempts).await
    }

    async fn wait(
        &self,
        stage: Stage,
        cancel: &CancellationToken,
        failure: &Failure,
        attempts: u32,
    ) -> Result<(), Failure> {
        let pause = delay(self.first_delay, attempts, random_fraction());
        tracing::warn!(
            stage = stage.as_str(),
            reason = failure.reason,
            error = failure.message,
            attempt = attempts + 1,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "trying again"
        );
        let retries = &self.metrics.retries;
        retries.with_label_values(&[stage.as_str()]).inc();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = cancel.cancelled() => Err(Failure::stopped(stage)),
            () = self.leaving.cancelled() => Err(Failure::stopped(stage)),
        }
    }
}

/// The pause after a failed attempt with `attempts` before it: doubled each time up to half a
/// minute, of which a random half is left out so that many workers do not return at once.
fn delay(first: Duration, attempts: u32, random: f64) -> Duration {
    let longest = first
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(LONGEST_DELAY);
    longest.mul_f64(0.5 + random / 2.0)
}

/// A random number in 0..1.
fn random_fraction() -> f64 {
    // Every RandomState has its own random keys; an empty hash shows them.
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn impatient() -> Retry {
        Retry {
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::default()),
            leaving: CancellationToken::new(),
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
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random_fraction())));
    }

    #[tokio::test]
    async fn waits_out_a_server_that_is_away() {
        let retry = impatient();
        let calls = AtomicU32::new(0);
        let answer = retry
            .run(Stage::Milvus, &CancellationToken::new(), |attempts| {
                assert_eq!(attempts, calls.fetch_add(1, Ordering::Relaxed));
                async move {
                    if attempts < 20 {
                        Err(Failure::transient(
                            Stage::Milvus,
                            "MilvusUnavailable",
                            "away",
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
        assert!(retry.health.waits().is_empty(), "the server is back");
    }

    #[tokio::test]
    async fn does_not_repeat_what_fails_for_good() {
        let calls = AtomicU32::new(0);
        let answer: Result<(), _> = impatient()
            .run(Stage::Render, &CancellationToken::new(), |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Err(Failure::permanent(Stage::Render, "Damaged", "broken")) }
            })
            .await;
        assert_eq!(answer.unwrap_err().reason, "Damaged");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_pause_counts_is_visible_while_it_lasts_and_can_be_called_off() {
        let patient = Retry {
            first_delay: Duration::from_mins(1),
            ..impatient()
        };
        let failure = Failure::transient(Stage::Render, "RendererKilled", "killed");
        let cancel = CancellationToken::new();
        let pause = patient.pause(&cancel, &failure, 0);
        let look = async {
            tokio::task::yield_now().await;
            let waits = patient.health.waits();
            cancel.cancel();
            waits
        };
        let (paused, waits) = tokio::join!(pause, look);
        assert_eq!(paused.unwrap_err().class, Class::Stopped);
        assert_eq!(waits.len(), 1, "{waits:?}");
        assert!(patient.health.waits().is_empty());
        assert_eq!(
            patient.metrics.retries.with_label_values(&["render"]).get(),
            1
        );
    }

    #[tokio::test]
    async fn stops_waiting_when_the_work_is_called_off() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let answer: Result<(), _> = impatient()
            .run(Stage::Mongodb, &cancel, |_| async {
                Err(Failure::transient(
                    Stage::Mongodb,
                    "MongodbUnavailable",
                    "away",
                ))
            })
            .await;
        assert_eq!(answer.unwrap_err().class, Class::Stopped);
    }
}
