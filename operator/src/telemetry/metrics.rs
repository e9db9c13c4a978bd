//! The operator's metrics. Their names are part of the API: they are in [`layra_crds::metric_names`],
//! and a test lists them.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_autoscaler::Decision;
use layra_crds::{IngestionPipelineStatus, condition_types, metric_names::operator as names};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::{gauges::PipelineGauge, scaling::ScalingMetrics};
use crate::{milvus::CollectionSizes, reconcile::Reason, resources::Kind};

/// Labels of the metrics of a pipeline.
const PIPELINE_LABELS: &[&str] = &[names::NAMESPACE_LABEL, names::PIPELINE_LABEL];

/// What can fail in a reconcile.
pub(crate) const ERROR_LABELS: [&str; 4] = ["config", "apply", "status", "timeout"];

#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    errors: IntCounterVec,
    duration: Histogram,
    applied: IntCounterVec,
    leader: IntGauge,
    tasks: IntGauge,
    lag: PipelineGauge,
    desired: PipelineGauge,
    ready: PipelineGauge,
    condition: PipelineGauge,
    reason: PipelineGauge,
    deadline: PipelineGauge,
    collections: PipelineGauge,
    entities: PipelineGauge,
    drifted: PipelineGauge,
    rebuilding: PipelineGauge,
    lost: IntCounterVec,
    scaling: ScalingMetrics,
}

impl Metrics {
    #[allow(clippy::too_many_lines, reason = "a list: one entry for each metric")]
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name, help, label| PipelineGauge::new(&registry, name, help, label);
        let metrics = Self {
            reconciles: IntCounter::new(
                names::RECONCILES,
                "Reconciles that finished, successful or not.",
            )?,
            errors: IntCounterVec::new(
                Opts::new(
                    names::RECONCILE_ERRORS,
                    "Reconciles that failed, by pipeline and by what failed.",
                ),
                &[
                    names::NAMESPACE_LABEL,
                    names::PIPELINE_LABEL,
                    names::REASON_LABEL,
                ],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    names::RECONCILE_DURATION,
                    "Duration of a reconcile, including writes to the API server and to Kafka.",
                )
                .buckets(vec![
                    0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                ]),
            )?,
            applied: IntCounterVec::new(
                Opts::new(
                    names::APPLIED_OBJECTS,
                    "Objects applied because they were absent or differed from the spec.",
                ),
                &[names::KIND_LABEL],
            )?,
            leader: IntGauge::new(
                names::LEADER,
                "1 while this process holds the lease and reconciles.",
            )?,
            tasks: IntGauge::new(
                names::ASYNC_TASKS,
                "Tasks of the asynchronous runtime that have not ended.",
            )?,
            lag: gauge(
                names::CONSUMER_LAG,
                "Tasks and page ranges that are not processed yet. A lower bound while some partitions cannot be read. Absent while unknown.",
                None,
            )?,
            desired: gauge(
                names::DESIRED_REPLICAS,
                "Desired worker replicas, set by the autoscaler or the user.",
                None,
            )?,
            ready: gauge(
                names::READY_REPLICAS,
                "Worker replicas that are ready.",
                None,
            )?,
            condition: gauge(
                names::PIPELINE_CONDITION,
                "1 if the condition of the pipeline is true, 0 if it is false, -1 if it is unknown.",
                Some(names::CONDITION_LABEL),
            )?,
            reason: gauge(
                names::PIPELINE_REASON,
                "1 for each reason that a condition of the pipeline has now.",
                Some(names::REASON_LABEL),
            )?,
            deadline: gauge(
                names::DEADLINE_SECONDS,
                "Time until the oldest message in the backlog misses the drain target, at most; negative when it has. Absent without a backlog.",
                None,
            )?,
            collections: gauge(
                names::COLLECTION_ENTITIES,
                "Vectors in each of the 20 largest collections, as Milvus last counted them.",
                Some(names::COLLECTION_LABEL),
            )?,
            entities: gauge(
                names::ENTITIES,
                "Vectors in all collections of the pipeline.",
                None,
            )?,
            drifted: gauge(
                names::DRIFTED_COLLECTIONS,
                "Collections whose index differs from the spec. Absent until they were checked.",
                None,
            )?,
            rebuilding: gauge(
                names::REBUILDING_COLLECTIONS,
                "Collections that are being rebuilt with the index of the spec. Absent until they were checked.",
                None,
            )?,
            lost: IntCounterVec::new(
                Opts::new(
                    names::LOST_RECORDS,
                    "Records that Kafka deleted before they were processed. An upper bound.",
                ),
                PIPELINE_LABELS,
            )?,
            scaling: ScalingMetrics::new(&registry)?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.applied.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.tasks.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        Ok(metrics)
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        // Unit tests have no runtime.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics not encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn set_leader(&self, is_leader: bool) {
        self.leader.set(is_leader.into());
    }

    /// Counts a reconcile; `error` is the label of the error if it failed, one of
    /// [`ERROR_LABELS`].
    pub(crate) fn reconciled(
        &self,
        namespace: &str,
        pipeline: &str,
        duration: Duration,
        error: Option<&str>,
    ) {
        self.reconciles.inc();
        self.duration.observe(duration.as_secs_f64());
        if let Some(reason) = error {
            let labels = &[namespace, pipeline, reason];
            self.errors.with_label_values(labels).inc();
        }
    }

    /// Counts an object that was applied.
    pub(crate) fn applied(&self, kind: Kind) {
        self.applied.with_label_values(&[kind.word()]).inc();
    }

    /// Sets the metrics of a pipeline.
    pub(crate) fn observe(
        &self,
        namespace: &str,
        pipeline: &str,
        drain_target_seconds: u32,
        status: &IngestionPipelineStatus,
        decision: Option<&Decision>,
    ) {
        let labels = &[namespace, pipeline];
        let oldest = decision
            .filter(|decision| decision.inputs.pages.is_some_and(|pages| pages > 0.0))
            .and_then(|decision| decision.inputs.oldest_seconds);
        let left = oldest.map(|oldest| f64::from(drain_target_seconds) - oldest);
        self.deadline.set(labels, left);
        let reasons: BTreeSet<&str> = status
            .conditions
            .iter()
            .filter_map(|condition| Reason::from_word(&condition.reason))
            .map(Reason::as_str)
            .collect();
        let reasons = reasons.into_iter();
        self.reason
            .set_all(labels, reasons.map(|reason| (reason, 1.0)));
        // An unknown lag must not look like a small one.
        self.lag.set(labels, status.lag.map(|lag| lag as f64));
        let desired = status
            .scaling
            .as_ref()
            .map_or(0, |scaling| scaling.desired_replicas);
        self.desired.set(labels, Some(desired.into()));
        let ready = status.ready_replicas.unwrap_or(0);
        self.ready.set(labels, Some(ready.into()));
        self.scaling.observe(labels, decision);
        let index = status.index.as_ref();
        self.drifted
            .set(labels, index.map(|index| index.drifted as f64));
        self.rebuilding
            .set(labels, index.map(|index| index.rebuilding as f64));
        let known = condition_types::PERMANENT.into_iter();
        let known = known.chain([condition_types::QUERY_READY]);
        let conditions = known.filter_map(|type_| {
            let condition = find(status, type_)?;
            Some((type_, value(condition)))
        });
        let transient = condition_types::TRANSIENT
            .into_iter()
            .map(|type_| (type_, find(status, type_).map_or(0.0, value)));
        self.condition.set_all(labels, conditions.chain(transient));
    }

    /// Sets the sizes of a pipeline's collections; `None` while they are unknown.
    pub(crate) fn collections(
        &self,
        namespace: &str,
        pipeline: &str,
        sizes: Option<&CollectionSizes>,
    ) {
        let labels = &[namespace, pipeline];
        self.entities
            .set(labels, sizes.map(|sizes| sizes.vectors as f64));
        let largest = sizes.into_iter().flat_map(|sizes| &sizes.largest);
        let largest = largest.map(|(name, vectors)| (name.clone(), *vectors as f64));
        self.collections.set_all(labels, largest);
    }

    /// Counts records that Kafka deleted before they were processed. The series exists from the
    /// first call on, so that `increase` sees the first loss.
    pub(crate) fn lost(&self, namespace: &str, pipeline: &str, records: u64) {
        self.lost
            .with_label_values(&[namespace, pipeline])
            .inc_by(records);
    }

    /// Removes the metrics of a deleted pipeline.
    pub(crate) fn forget(&self, namespace: &str, pipeline: &str) {
        let labels = &[namespace, pipeline];
        for gauge in [
            &self.lag,
            &self.desired,
            &self.ready,
            &self.condition,
            &self.reason,
            &self.deadline,
            &self.collections,
            &self.entities,
            &self.drifted,
            &self.rebuilding,
        ] {
            gauge.remove(labels);
        }
        // Fails only for a pipeline that had no metrics.
        let _ = self.lost.remove_label_values(labels);
        self.scaling.forget(labels);
        for reason in ERROR_LABELS {
            let _ = self
                .errors
                .remove_label_values(&[namespace, pipeline, reason]);
        }
    }
}

fn find<'a>(status: &'a IngestionPipelineStatus, type_: &str) -> Option<&'a Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

fn value(condition: &Condition) -> f64 {
    match condition.status.as_str() {
        "True" => 1.0,
        "False" => 0.0,
        _ => -1.0,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use layra_crds::{IndexStatus, ScalingStatus};

    use super::*;

    pub(in crate::telemetry) fn status(lag: Option<i64>) -> IngestionPipelineStatus {
        IngestionPipelineStatus {
            lag,
            ready_replicas: Some(1),
            conditions: vec![Condition {
                type_: condition_types::READY.to_owned(),
                status: "False".to_owned(),
                reason: "SecretNotFound".to_owned(),
                message: String::new(),
                last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    jiff::Timestamp::UNIX_EPOCH,
                ),
                observed_generation: None,
            }],
            scaling: Some(ScalingStatus {
                desired_replicas: 2,
                ..ScalingStatus::default()
            }),
            index: Some(IndexStatus {
                drifted: 3,
                ..IndexStatus::default()
            }),
            ..IngestionPipelineStatus::default()
        }
    }

    pub(in crate::telemetry) fn sizes() -> CollectionSizes {
        CollectionSizes {
            vectors: 7,
            largest: vec![("kb1".to_owned(), 7)],
        }
    }

    #[test]
    fn the_names_are_stable() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled("rag", "contracts", Duration::from_millis(3), Some("apply"));
        metrics.applied(Kind::Deployment);
        metrics.observe("rag", "contracts", 600, &status(Some(7)), None);
        metrics.lost("rag", "contracts", 0);
        metrics.collections("rag", "contracts", Some(&sizes()));
        let text = metrics.text();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        names.sort_unstable();
        insta::assert_snapshot!(names.join("\n"));
    }

    #[tokio::test]
    async fn tasks_that_have_not_ended_are_counted() {
        let metrics = Metrics::new().unwrap();
        let waiting = tokio::spawn(std::future::pending::<()>());
        let count = |count| format!("{} {count}\n", names::ASYNC_TASKS);
        assert!(metrics.text().contains(&count(1)), "{}", metrics.text());
        waiting.abort();
        let _ = waiting.await;
        assert!(metrics.text().contains(&count(0)), "{}", metrics.text());
    }

    #[test]
    fn the_metrics_of_an_unknown_lag_and_of_a_deleted_pipeline_are_removed() {
        let metrics = Metrics::new().unwrap();
        let lag = "kafka_consumer_lag{namespace=\"rag\",pipeline=\"contracts\"} 7";
        metrics.observe("rag", "contracts", 600, &status(Some(7)), None);
        metrics.collections("rag", "contracts", Some(&sizes()));
        let size = "milvus_collection_entities{collection=\"kb1\",namespace=\"rag\",pipeline=\"contracts\"} 7";
        assert!(metrics.text().contains(size), "{}", metrics.text());
        let reason = "{namespace=\"rag\",pipeline=\"contracts\",reason=\"SecretNotFound\"} 1";
        assert!(metrics.text().contains(reason), "{}", metrics.text());
        metrics.lost("rag", "contracts", 3);
        assert!(metrics.text().contains(lag));
        metrics.observe("rag", "contracts", 600, &status(None), None);
        assert!(!metrics.text().contains("kafka_consumer_lag{"));
        metrics.reconciled("rag", "contracts", Duration::ZERO, Some("status"));
        metrics.forget("rag", "contracts");
        assert!(!metrics.text().contains("pipeline=\"contracts\""));
    }
}
