//! The operator's metrics. Their names are part of the API: a test lists them.

use std::time::Duration;

use kube::ResourceExt;
use layra_autoscaler::Decision;
use layra_crds::{IngestionPipeline, IngestionPipelineStatus};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::scaling::ScalingMetrics;
use crate::resources::Kind;

/// Labels of the metrics of a pipeline.
const PIPELINE: &[&str] = &["namespace", "pipeline"];

/// All metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    errors: IntCounterVec,
    duration: Histogram,
    applied: IntCounterVec,
    leader: IntGauge,
    lag: IntGaugeVec,
    desired: IntGaugeVec,
    ready: IntGaugeVec,
    condition: IntGaugeVec,
    scaling: ScalingMetrics,
}

impl Metrics {
    /// Registers every metric.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            reconciles: IntCounter::new("layra_operator_reconciles_total", "Reconciles done.")?,
            errors: IntCounterVec::new(
                Opts::new(
                    "layra_operator_reconcile_errors_total",
                    "Reconciles that failed, by the phase that failed.",
                ),
                &["reason"],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    "layra_operator_reconcile_duration_seconds",
                    "How long a reconcile took, the reads of Kafka and Milvus included.",
                )
                .buckets(vec![
                    0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                ]),
            )?,
            applied: IntCounterVec::new(
                Opts::new(
                    "layra_operator_applied_objects_total",
                    "Objects written because they were absent or not as they should be.",
                ),
                &["kind"],
            )?,
            leader: IntGauge::new(
                "layra_operator_leader",
                "1 while this process holds the lease and reconciles.",
            )?,
            lag: pipeline_gauge(
                "kafka_consumer_lag",
                "Tasks that are not done. Absent while unknown.",
            )?,
            desired: pipeline_gauge("layra_operator_desired_replicas", "Workers asked for.")?,
            ready: pipeline_gauge("layra_operator_ready_replicas", "Workers that are ready.")?,
            condition: IntGaugeVec::new(
                Opts::new(
                    "layra_operator_pipeline_condition",
                    "1 if the condition of the pipeline is true, 0 if it is false, -1 if it is unknown.",
                ),
                &["namespace", "pipeline", "condition"],
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
        registry.register(Box::new(metrics.lag.clone()))?;
        registry.register(Box::new(metrics.desired.clone()))?;
        registry.register(Box::new(metrics.ready.clone()))?;
        registry.register(Box::new(metrics.condition.clone()))?;
        Ok(metrics)
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// This process leads, or no longer does.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A reconcile ended; `error` is the reason of one that failed.
    pub(crate) fn reconciled(&self, took: Duration, error: Option<&str>) {
        self.reconciles.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(reason) = error {
            self.errors.with_label_values(&[reason]).inc();
        }
    }

    /// An object was written.
    pub(crate) fn applied(&self, kind: Kind) {
        self.applied.with_label_values(&[format!("{kind:?}")]).inc();
    }

    /// What a reconcile saw of a pipeline.
    pub(crate) fn observe(
        &self,
        pipeline: &IngestionPipeline,
        status: &IngestionPipelineStatus,
        decision: Option<&Decision>,
    ) {
        let namespace = pipeline.namespace().unwrap_or_default();
        let name = pipeline.name_any();
        let labels = &[namespace.as_str(), name.as_str()];
        match status.lag {
            Some(lag) => self.lag.with_label_values(labels).set(lag),
            // A number that nobody knows must not look like a good one.
            None => drop(self.lag.remove_label_values(labels)),
        }
        let desired = status
            .scaling
            .as_ref()
            .map_or(0, |scaling| scaling.desired_replicas);
        self.desired.with_label_values(labels).set(desired.into());
        self.ready
            .with_label_values(labels)
            .set(status.ready_replicas.unwrap_or(0).into());
        self.scaling.observe(labels, decision);
        for condition in &status.conditions {
            let value = match condition.status.as_str() {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            let labels = &[namespace.as_str(), name.as_str(), condition.type_.as_str()];
            self.condition.with_label_values(labels).set(value);
        }
        for absent in ["Reconciling", "Stalled"] {
            if status
                .conditions
                .iter()
                .all(|condition| condition.type_ != absent)
            {
                let labels = &[namespace.as_str(), name.as_str(), absent];
                self.condition.with_label_values(labels).set(0);
            }
        }
    }

    /// A pipeline is gone.
    pub(crate) fn forget(&self, namespace: &str, pipeline: &str) {
        let labels = &[namespace, pipeline];
        for gauge in [&self.lag, &self.desired, &self.ready] {
            // It fails only for a pipeline that had no metrics.
            let _ = gauge.remove_label_values(labels);
        }
        self.scaling.forget(labels);
        for type_ in [
            "Ready",
            "TopicReady",
            "VectorStoreReady",
            "WorkersAvailable",
            "Scaling",
            "Reconciling",
            "Stalled",
        ] {
            let _ = self
                .condition
                .remove_label_values(&[namespace, pipeline, type_]);
        }
    }
}

fn pipeline_gauge(name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(name, help), PIPELINE)
}

#[cfg(test)]
mod tests {
    use layra_crds::ScalingStatus;

    use super::*;
    use crate::fixtures;

    fn status(lag: Option<i64>) -> IngestionPipelineStatus {
        IngestionPipelineStatus {
            lag,
            ready_replicas: Some(1),
            scaling: Some(ScalingStatus {
                desired_replicas: 2,
                ..ScalingStatus::default()
            }),
            ..IngestionPipelineStatus::default()
        }
    }

    #[test]
    fn the_names_are_stable() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled(Duration::from_millis(3), Some("apply"));
        metrics.applied(Kind::Deployment);
        metrics.observe(&fixtures::pipeline(), &status(Some(7)), None);
        let text = metrics.text();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        names.sort_unstable();
        insta::assert_snapshot!(names.join("\n"));
    }

    #[test]
    fn an_unknown_lag_is_absent_and_a_gone_pipeline_too() {
        let metrics = Metrics::new().unwrap();
        let lag = "kafka_consumer_lag{namespace=\"rag\",pipeline=\"contracts\"} 7";
        metrics.observe(&fixtures::pipeline(), &status(Some(7)), None);
        assert!(metrics.text().contains(lag));
        metrics.observe(&fixtures::pipeline(), &status(None), None);
        assert!(!metrics.text().contains("kafka_consumer_lag{"));
        metrics.forget("rag", "contracts");
        assert!(!metrics.text().contains("pipeline=\"contracts\""));
    }
}
