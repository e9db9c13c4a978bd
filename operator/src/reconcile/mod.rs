//! The reconcile of a pipeline, in four phases: observe (all reads), plan (pure), apply (all
//! writes), report (status, events, metrics).

mod apply;
mod controller;
mod counts;
mod dry_run;
mod observe;
mod plan;
mod pods;
mod report;
mod secrets;
mod state;
mod stores;
mod world;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    runtime::{controller::Action, events::Reporter},
};
use layra_crds::{ConfigError, IngestionPipeline};

use crate::{kafka::KafkaClients, milvus::MilvusClients, resources::Kind, telemetry::Metrics};
use secrets::SecretCache;
use state::PipelineState;
use stores::{Stores, Triggers};

pub(crate) use controller::run;
pub(crate) use counts::client as metrics_client;
#[cfg(test)]
pub(crate) use pods::WorkerPod;

/// The owner of every field that the operator writes.
pub(crate) const FIELD_MANAGER: &str = "layra-operator";

/// How often a pipeline with work or workers is looked at, beside every change that is seen.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How often one without is: whatever happens to it triggers a look of its own.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// The first and the longest wait after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// What the pipelines of all namespaces share.
pub(crate) struct Shared {
    /// For Kubernetes.
    pub(crate) client: Client,
    /// For Kafka.
    pub(crate) kafka: KafkaClients,
    /// For Milvus.
    pub(crate) milvus: MilvusClients,
    /// Whom events come from.
    pub(crate) reporter: Reporter,
    /// For Prometheus.
    pub(crate) metrics: Metrics,
    /// For the workers' metrics.
    pub(crate) http: reqwest::Client,
    /// The image of workers whose spec names none.
    pub(crate) worker_image: String,
}

/// What the reconciles of one namespace have at hand.
pub(crate) struct Context {
    shared: Arc<Shared>,
    stores: Stores,
    triggers: Triggers,
    states: Mutex<HashMap<String, PipelineState>>,
    secrets: SecretCache,
}

impl std::ops::Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A reconcile that failed and is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The worker's configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API server refused an object.
    #[error("{kind:?} {name} cannot be applied: {source}")]
    Apply {
        /// The object's kind.
        kind: Kind,
        /// The object's name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server refused the status.
    #[error("the status cannot be written: {0}")]
    Status(Box<kube::Error>),
}

impl ReconcileError {
    /// A short word for metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Apply { .. } => "apply",
            Self::Status(_) => "status",
        }
    }
}

/// Brings one pipeline a step closer to its spec.
async fn reconcile(
    pipeline: Arc<IngestionPipeline>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if pipeline.metadata.deletion_timestamp.is_some() {
        // Owner references clean up. Topics, collections and documents stay.
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let mut state = context.take_state(&pipeline);
    let result = phases(&context, &pipeline, &mut state).await;
    state.failures = if result.is_ok() {
        0
    } else {
        state.failures.saturating_add(1)
    };
    context.keep_state(&pipeline, state);
    context.metrics.reconciled(
        started.elapsed(),
        result.as_ref().err().map(ReconcileError::reason),
    );
    result
}

async fn phases(
    context: &Context,
    pipeline: &IngestionPipeline,
    state: &mut PipelineState,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    let past_writes = &mut state.past_writes;
    let world = observe::observe(context, pipeline, &mut state.seen, past_writes, now).await;
    let memory = state.autoscaler.as_ref();
    let mut plan = plan::plan(pipeline, &world, memory, &context.worker_image, now)?;
    state.autoscaler = plan.autoscaler.take();
    let applied = apply::apply(context, pipeline, &plan, past_writes, now).await;
    // A failed write is no reason not to report what was seen.
    let told = applied.as_deref().unwrap_or_default();
    let notes: Vec<_> = plan.notes.iter().chain(told).cloned().collect();
    report::report(context, pipeline, &plan, &notes, &mut state.reported, now).await?;
    applied?;

    let in_order = plan.is_ready() && world.lag() == Some(0) && world.pods.is_empty();
    let idle = pipeline.spec.paused || in_order;
    let wait = if !plan.topic_actions.is_empty() {
        FIRST_RETRY
    } else if idle {
        IDLE_INTERVAL
    } else {
        ACTIVE_INTERVAL
    };
    Ok(Action::requeue(jittered(wait)))
}

/// When to try again after a failure: later with each one in a row.
fn retry(
    pipeline: &Arc<IngestionPipeline>,
    error: &ReconcileError,
    context: &Arc<Context>,
) -> Action {
    tracing::warn!(
        namespace = pipeline.namespace(),
        pipeline = pipeline.name_any(),
        %error,
        "reconcile failed"
    );
    let state = context.take_state(pipeline);
    let failures = state.failures;
    context.keep_state(pipeline, state);
    Action::requeue(jittered(backoff(failures)))
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_RETRY
        .saturating_mul(1 << doublings)
        .min(LONGEST_RETRY)
}

/// Up to a tenth more or less, so that a thousand pipelines do not ask at the same moment.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 201;
    wait.mul_f64(0.9 + 0.001 * random as f64)
}

impl Context {
    fn new(shared: Arc<Shared>, stores: Stores, triggers: Triggers) -> Self {
        Self {
            shared,
            stores,
            triggers,
            states: Mutex::default(),
            secrets: SecretCache::default(),
        }
    }

    /// Takes the state of a pipeline out. The runtime never reconciles a pipeline twice at once.
    fn take_state(&self, pipeline: &IngestionPipeline) -> PipelineState {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.remove(&pipeline.name_any());
        state
            .filter(|state| state.uid == pipeline.uid())
            .unwrap_or_else(|| PipelineState {
                uid: pipeline.uid(),
                ..PipelineState::default()
            })
    }

    fn keep_state(&self, pipeline: &IngestionPipeline, state: PipelineState) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(pipeline.name_any(), state);
    }

    /// Forgets a pipeline that is gone.
    fn forget(&self, namespace: &str, name: &str) {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.metrics.forget(namespace, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_and_longer() {
        let seconds: Vec<u64> = (1..9).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), LONGEST_RETRY);
    }

    #[test]
    fn waits_are_spread_by_a_tenth() {
        for _ in 0..100 {
            let wait = jittered(IDLE_INTERVAL).as_secs_f64();
            assert!((27.0..=33.0).contains(&wait), "{wait}");
        }
    }
}
