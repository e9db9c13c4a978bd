//! The reconcile of a pipeline, in four phases: observe (all reads), plan (pure), apply (all
//! writes), report (status, events, metrics).

mod apply;
mod bursts;
mod compact;
mod controller;
mod counts;
mod dry_run;
mod lost_records;
mod manual;
mod observe;
mod pipelines;
mod plan;
mod pods;
mod query_writes;
mod reason;
mod rebuild_job;
mod rebuild_writes;
mod report;
mod requests;
mod retention_runs;
mod retention_writes;
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
    runtime::{
        controller::Action,
        events::Reporter,
        reflector::{ObjectRef, Store},
    },
};
use layra_crds::{ConfigError, IngestionPipeline, QuerySpec};
use tokio::sync::{OnceCell, Semaphore};

use crate::{kafka::KafkaClients, milvus::MilvusClients, resources::Kind, telemetry::Metrics};
use lost_records::LostRecords;
use manual::NotRecorded;
use plan::PipelineEvent;
use rebuild_job::RebuildJob;
use secrets::SecretCache;
use state::PipelineState;
use stores::{Stores, Triggers};
use world::World;

pub(crate) use controller::run;
pub(crate) use counts::client as worker_client;
pub(crate) use pipelines::Pipelines;
#[cfg(test)]
pub(crate) use pods::WorkerPod;
pub(crate) use reason::Reason;

/// Field manager of everything that the operator applies.
pub(crate) const FIELD_MANAGER: &str = "layra-operator";

/// How often a pipeline with a backlog or workers is reconciled, in addition to every change.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How often an idle pipeline is reconciled: every change of it, and of its backlog, triggers a
/// reconcile anyway. The autoscaler takes more than 150 s between two observations for a gap.
const IDLE_INTERVAL: Duration = Duration::from_mins(2);
/// The same where the clock changes the number of workers.
const SCHEDULED_INTERVAL: Duration = Duration::from_secs(30);
/// Every request has a timeout of its own, and changes of topics wait for others for a minute. A
/// reconcile that takes longer than all of that has hung: it is dropped and started again.
const LONGEST_RECONCILE: Duration = Duration::from_mins(5);
/// The shortest and the longest wait after a failed reconcile.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Plans that are carried out at the same time. Each holds all objects of its pipeline, some hundred
/// kilobytes, while it waits for the API server, which gets 16 requests at a time.
const CONCURRENT_PLANS: usize = 32;

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
    plans: Semaphore,
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
    /// A request did not return.
    #[error("the reconcile did not end within {} seconds", LONGEST_RECONCILE.as_secs())]
    Timeout,
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
            Self::Timeout => "timeout",
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
    let phases = Box::pin(phases(&context, &pipeline, &mut state));
    let result = tokio::time::timeout(LONGEST_RECONCILE, phases)
        .await
        .unwrap_or(Err(ReconcileError::Timeout));
    state.failures = if result.is_ok() {
        0
    } else {
        state.failures.saturating_add(1)
    };
    context.keep_state(&pipeline, state);
    context.metrics.reconciled(
        &context.namespace,
        &pipeline.name_any(),
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
    // Each phase has its own allocation, which lives no longer than the phase.
    let reads = &mut state.reads;
    let mut world = Box::pin(observe::observe(context, pipeline, reads, past_writes, now)).await;
    let topic_changes = Box::pin(apply::change_topics(
        context,
        pipeline,
        &world,
        past_writes,
        now,
    ));
    let topic_events = topic_changes.await;
    // The semaphore is never closed.
    let _permit = context.plans.acquire().await;
    observe::add_objects(context, pipeline, now, &mut world);
    let memory = state.autoscaler.as_ref();
    let mut plan = plan::plan(pipeline, &world, memory, &context.worker_image, now)?;
    state.autoscaler = plan.autoscaler.take();
    let outcome = Box::pin(apply::apply(context, pipeline, &plan, past_writes, now)).await;
    for (kind, action) in plan.job_actions() {
        Box::pin(rebuild_writes::apply(
            context,
            pipeline,
            kind,
            action,
            past_writes,
            now,
        ))
        .await;
    }
    let unwanted = plan.unwanted_cron_job.as_deref();
    Box::pin(retention_writes::delete(context, pipeline, unwanted)).await;
    Box::pin(query_writes::delete(context, &plan.unwanted_query)).await;
    if outcome.is_rollout_futile {
        plan.forget_rollout();
    }
    // Before the status is written, which changes the version of the pipeline.
    let recorded = match plan.recorded_replicas {
        None => Ok(()),
        Some(count) if outcome.result.is_ok() => {
            Box::pin(manual::record_replicas(context, pipeline, count)).await
        }
        Some(_) => Err(NotRecorded::Failed),
    };
    if recorded.is_err() {
        plan.forget_record(pipeline);
    }
    // The observed state is reported even after a failed write.
    let mut events: Vec<_> = plan.events.iter().cloned().chain(topic_events).collect();
    events.extend(lost_records(
        context,
        pipeline,
        &world,
        &mut state.lost_records,
    ));
    let sizes = state.reads.collection_sizes();
    let (namespace, name) = (&context.namespace, pipeline.name_any());
    context
        .metrics
        .collections(namespace, &name, sizes.as_ref());
    let reported = &mut state.reported;
    Box::pin(report::report(
        context, pipeline, &plan, &events, reported, now,
    ))
    .await?;
    outcome.result?;

    let is_rebuilding = plan.job_actions().into_iter().any(|(kind, action)| {
        action.is_some() || world.job(kind).is_some_and(RebuildJob::is_running)
    });
    let is_settled =
        plan.is_ready() && world.lag() == Some(0) && world.pods.is_empty() && !is_rebuilding;
    let query = pipeline.spec.query.as_ref();
    let follows_requests = query.is_some_and(QuerySpec::follows_requests);
    let idle = pipeline.spec.paused || is_settled && !follows_requests;
    let wait = if recorded == Err(NotRecorded::Changed) || !plan.topic_actions.is_empty() {
        FIRST_RETRY
    } else if idle && pipeline.spec.scaling.floors.is_empty() {
        IDLE_INTERVAL
    } else if idle {
        SCHEDULED_INTERVAL
    } else {
        ACTIVE_INTERVAL
    };
    Ok(Action::requeue(jittered(wait)))
}

/// Counts the records that Kafka deleted unprocessed since the last reconcile, and returns an event
/// if there are any.
fn lost_records(
    context: &Context,
    pipeline: &IngestionPipeline,
    world: &World,
    records: &mut LostRecords,
) -> Option<PipelineEvent> {
    let lost = records.observe(world.backlog.as_ref().ok()?);
    context
        .metrics
        .lost(&context.namespace, &pipeline.name_any(), lost);
    (lost > 0).then(|| lost_records::event(lost, &pipeline.spec.source.kafka.topic))
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
            plans: Semaphore::new(CONCURRENT_PLANS),
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

    /// Drops what is kept of pipelines that are not in `pipelines`: the watch does not report a
    /// deletion that happened while it was interrupted.
    fn forget_absent(&self, pipelines: &Store<IngestionPipeline>) {
        let known: Vec<String> = {
            let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            states.keys().cloned().collect()
        };
        for name in known {
            self.forget_if_absent(&name, pipelines);
        }
    }

    /// Drops what is kept of one pipeline if it is not in `pipelines`: a reconcile that was running
    /// during the deletion keeps its state, and shows its metrics, once more.
    fn forget_if_absent(&self, name: &str, pipelines: &Store<IngestionPipeline>) {
        if !contains(pipelines, &self.namespace, name) {
            self.forget(name);
        }
    }

    /// Drops the state, the metrics and the question to Kafka of a deleted pipeline.
    fn forget(&self, name: &str) {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.metrics.forget(&self.namespace, name);
        self.kafka
            .forget(&observe::subscriber_name(&self.namespace, name));
    }
}

fn contains(pipelines: &Store<IngestionPipeline>, namespace: &str, name: &str) -> bool {
    let reference = ObjectRef::new(name).within(namespace);
    pipelines.get(&reference).is_some()
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};

    use super::*;
    use crate::fixtures;
    use crate::telemetry::ERROR_LABELS;

    /// A thousand reconciles may wait at the same time.
    #[test]
    fn a_waiting_reconcile_is_small() {
        fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(reconcile);
        assert!(bytes < 4096, "{bytes}");
    }

    #[test]
    fn a_pipeline_that_a_new_list_lacks_is_absent() {
        let (pipelines, mut writer) = reflector::store();
        let pipeline = fixtures::pipeline();
        let (namespace, name) = (pipeline.namespace().unwrap(), pipeline.name_any());
        let is_known = || contains(&pipelines, &namespace, &name);
        writer.apply_watcher_event(&Event::Apply(pipeline));
        assert!(is_known());
        writer.apply_watcher_event(&Event::Init);
        assert!(is_known(), "the list has only begun");
        writer.apply_watcher_event(&Event::InitDone);
        assert!(!is_known());
    }

    #[test]
    fn every_error_has_a_label_that_is_removed_with_its_pipeline() {
        let error = || kube::Error::LinesCodecMaxLineLengthExceeded;
        for error in [
            ReconcileError::Timeout,
            ReconcileError::Status(Box::new(error())),
            ReconcileError::Apply {
                kind: Kind::Service,
                name: "a".to_owned(),
                source: Box::new(error()),
            },
        ] {
            assert!(ERROR_LABELS.contains(&error.metric_label()), "{error}");
        }
    }

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
            assert!((108.0..=132.0).contains(&wait), "{wait}");
        }
    }
}
