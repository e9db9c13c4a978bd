//! The reconcile of a pipeline, in four phases: observe (all reads), plan (pure), apply (all
//! writes), report (status, events, metrics).

mod apply;
mod controller;
mod counts;
mod dry_run;
mod observe;
mod pipelines;
mod plan;
mod pods;
mod reason;
mod report;
mod rivals;
mod secrets;
mod secrets_hash;
mod state;
mod stores;
mod world;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    runtime::{controller::Action, events::Reporter},
};
use layra_crds::{ConfigError, IngestionPipeline};

use tokio::sync::OnceCell;

use crate::{kafka::KafkaClients, milvus::MilvusClients, resources::Kind, telemetry::Metrics};
use secrets::SecretCache;
use state::PipelineState;
use stores::{Stores, Triggers};

pub(crate) use controller::run;
pub(crate) use counts::client as worker_client;
pub(crate) use pipelines::Pipelines;
#[cfg(test)]
pub(crate) use pods::WorkerPod;

/// Field manager of everything that the operator applies.
pub(crate) const FIELD_MANAGER: &str = "layra-operator";

/// How often a pipeline with a backlog or workers is reconciled, in addition to every change.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How often an idle pipeline is reconciled: every change of it triggers a reconcile anyway.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest and the longest wait after a failed reconcile.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Shared by the pipelines of all namespaces.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) kafka: KafkaClients,
    pub(crate) milvus: MilvusClients,
    /// The source of published events.
    pub(crate) reporter: Reporter,
    pub(crate) metrics: Metrics,
    /// Reads the workers' counts.
    pub(crate) http: reqwest::Client,
    /// Image of workers whose spec names none.
    pub(crate) worker_image: String,
    /// The pipelines of all watched namespaces.
    pub(crate) pipelines: Pipelines,
}

/// Shared by the reconciles of one namespace.
pub(crate) struct Context {
    shared: Arc<Shared>,
    namespace: String,
    stores: Stores,
    triggers: Triggers,
    states: Mutex<HashMap<String, PipelineState>>,
    secrets: SecretCache,
    others_listed: OnceCell<()>,
}

impl std::ops::Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A reconcile that failed and is retried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The configuration of the workers cannot be serialised.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The API server refused an object.
    #[error("{kind:?} {name} cannot be applied: {source}")]
    Apply {
        kind: Kind,
        name: String,
        source: Box<kube::Error>,
    },
    /// The API server refused the status.
    #[error("the status cannot be written: {0}")]
    Status(Box<kube::Error>),
}

impl ReconcileError {
    /// The label of the error in metrics.
    fn metric_label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Apply { .. } => "apply",
            Self::Status(_) => "status",
        }
    }
}

/// Reconciles one pipeline.
async fn reconcile(
    pipeline: Arc<IngestionPipeline>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if pipeline.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes the owned objects. Topics, collections and documents are kept.
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
        result.as_ref().err().map(ReconcileError::metric_label),
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
    let world = observe::observe(context, pipeline, &mut state.reads, past_writes, now).await;
    let memory = state.autoscaler.as_ref();
    let mut plan = plan::plan(pipeline, &world, memory, &context.worker_image, now)?;
    state.autoscaler = plan.autoscaler.take();
    let applied = apply::apply(context, pipeline, &plan, past_writes, now).await;
    // The observed state is reported even after a failed write.
    let topic_events = applied.as_deref().unwrap_or_default();
    let events: Vec<_> = plan.events.iter().chain(topic_events).cloned().collect();
    report::report(context, pipeline, &plan, &events, &mut state.reported, now).await?;
    applied?;

    let is_settled = plan.is_ready() && world.lag() == Some(0) && world.pods.is_empty();
    let idle = pipeline.spec.paused || is_settled;
    let wait = if !plan.topic_actions.is_empty() {
        FIRST_RETRY
    } else if idle {
        IDLE_INTERVAL
    } else {
        ACTIVE_INTERVAL
    };
    Ok(Action::requeue(jittered(wait)))
}

/// When to retry after a failure: later with each consecutive one.
fn retry(
    pipeline: &Arc<IngestionPipeline>,
    error: &ReconcileError,
    context: &Arc<Context>,
) -> Action {
    tracing::warn!(
        namespace = context.namespace,
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

/// Up to a tenth more or less, so that a thousand pipelines are not reconciled at the same moment.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.2 * fastrand::f64())
}

impl Context {
    fn new(shared: Arc<Shared>, namespace: String, stores: Stores, triggers: Triggers) -> Self {
        Self {
            shared,
            namespace,
            stores,
            triggers,
            states: Mutex::default(),
            secrets: SecretCache::default(),
            others_listed: OnceCell::new(),
        }
    }

    /// Waits, once, until the pipelines of all namespaces are listed.
    async fn others_listed(&self) {
        let listed = || self.pipelines.wait_until_listed();
        self.others_listed.get_or_init(listed).await;
    }

    /// Takes the state of a pipeline. The runtime never runs two reconciles of one pipeline at once.
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

    /// Drops the state and the metrics of a deleted pipeline.
    fn forget(&self, name: &str) {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.metrics.forget(&self.namespace, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_with_each_failure_up_to_a_minute() {
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
