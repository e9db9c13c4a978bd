//! The worker's metrics, by the names of the operators' guide; further ones begin with
//! `ingestion_`.
//!
//! Each metric is described once, where it is made. Nothing here measures by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds of a whole document.
const DOCUMENT_BUCKETS: [f64; 8] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Seconds of one step.
const STEP_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// Tokens of a batch.
const TOKEN_BUCKETS: [f64; 9] = [
    128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
];

/// Every metric of a worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Documents by `status`: `success`, `failed` (dead letter), `retried` (seen before).
    pub files: IntCounterVec,
    /// Seconds from the task's arrival in the pipeline to its last vector.
    pub ingestion_duration: Histogram,
    /// Seconds to render one page.
    pub conversion_duration: Histogram,
    /// Seconds to embed one batch of pages.
    pub embedding_duration: Histogram,
    /// Tokens of one batch that was embedded.
    pub embedding_batch_tokens: Histogram,
    /// Batches that did not fit into the device's memory.
    pub embedding_out_of_memory: IntCounter,
    /// Bytes in use of the GPU's memory, by whomever; 0 on a CPU.
    pub gpu_memory_usage_bytes: IntGauge,
    /// Seconds to get one original.
    pub fetch_duration: Histogram,
    /// Seconds of one batch's write, by `store`: `objects`, `mongodb`, `milvus`.
    pub store_duration: HistogramVec,
    /// Pages that are searchable.
    pub pages: IntCounter,
    /// Vectors written to Milvus.
    pub vectors: IntCounter,
    /// Attempts that failed because a server was away, by `stage`.
    pub retries: IntCounterVec,
    /// Documents or ranges done again because a store did not hold them exactly once.
    pub repeats: IntCounter,
    /// Bytes of pages drawn and not yet stored.
    pub pages_in_flight_bytes: IntGauge,
    /// Documents that were split into ranges of pages.
    pub splits: IntCounter,
    /// Files and knowledge bases deleted, by `kind`: `file`, `knowledge_base`.
    pub deletions: IntCounterVec,
    /// Dead letters, by `reason`.
    pub dead_letters: IntCounterVec,
    /// Messages that are no document tasks, by `action`: `skip`, `forward`.
    pub foreign_messages: IntCounterVec,
    /// Documents taken from Kafka and not finished.
    pub documents_in_flight: IntGauge,
    /// Seconds in which there was at least one.
    pub busy_seconds: Counter,
    /// Seconds of the longest message so far.
    longest_work_seconds: Gauge,
    /// 1 for each partition that this worker owns, by `topic` and `partition`.
    partition_assigned: IntGaugeVec,
    assigned: Mutex<BTreeMap<String, Vec<i32>>>,
    /// Partitions that this worker owns.
    pub partitions_assigned: IntGauge,
    /// Rebalances of the consumer group that this worker took part in.
    pub rebalances: IntCounter,
}

impl Metrics {
    /// A new set, all zero.
    ///
    /// # Panics
    /// If two metrics had the same name.
    #[must_use]
    #[allow(clippy::too_many_lines, reason = "a list: one entry for each metric")]
    pub fn new() -> Self {
        let registry = Registry::new();
        Self {
            files: counters(
                &registry,
                "ingestion_files_total",
                "Documents finished.",
                "status",
            ),
            ingestion_duration: histogram(
                &registry,
                "ingestion_duration_seconds",
                "Time from a task's arrival to its last vector.",
                &DOCUMENT_BUCKETS,
            ),
            conversion_duration: histogram(
                &registry,
                "conversion_duration_seconds",
                "Time to render one page.",
                &STEP_BUCKETS,
            ),
            embedding_duration: histogram(
                &registry,
                "embedding_duration_seconds",
                "Time to embed one batch of pages.",
                &STEP_BUCKETS,
            ),
            embedding_batch_tokens: histogram(
                &registry,
                "ingestion_embedding_batch_tokens",
                "Tokens of one batch that was embedded.",
                &TOKEN_BUCKETS,
            ),
            embedding_out_of_memory: register(
                &registry,
                IntCounter::new(
                    "ingestion_embedding_out_of_memory_total",
                    "Batches that did not fit into the device's memory.",
                ),
            ),
            gpu_memory_usage_bytes: register(
                &registry,
                IntGauge::new("gpu_memory_usage_bytes", "Memory in use on the GPU."),
            ),
            fetch_duration: histogram(
                &registry,
                "ingestion_fetch_duration_seconds",
                "Time to get one original from the object store.",
                &STEP_BUCKETS,
            ),
            store_duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "ingestion_store_duration_seconds",
                        "Time of one batch's write to a store.",
                    )
                    .buckets(STEP_BUCKETS.to_vec()),
                    &["store"],
                ),
            ),
            pages: register(
                &registry,
                IntCounter::new("ingestion_pages_total", "Pages made searchable."),
            ),
            vectors: register(
                &registry,
                IntCounter::new("ingestion_vectors_total", "Vectors written to Milvus."),
            ),
            retries: counters(
                &registry,
                "ingestion_retries_total",
                "Attempts that failed because a server was away.",
                "stage",
            ),
            repeats: register(
                &registry,
                IntCounter::new(
                    "ingestion_repeats_total",
                    "Documents or ranges done again because a store did not hold them once.",
                ),
            ),
            pages_in_flight_bytes: register(
                &registry,
                IntGauge::new(
                    "ingestion_pages_in_flight_bytes",
                    "Memory of pages drawn and not yet stored.",
                ),
            ),
            splits: register(
                &registry,
                IntCounter::new(
                    "ingestion_splits_total",
                    "Documents split into ranges of pages.",
                ),
            ),
            deletions: counters(
                &registry,
                "ingestion_deletions_total",
                "Files and knowledge bases deleted.",
                "kind",
            ),
            dead_letters: counters(
                &registry,
                "ingestion_dead_letters_total",
                "Messages written to the dead-letter topic.",
                "reason",
            ),
            foreign_messages: counters(
                &registry,
                "ingestion_foreign_messages_total",
                "Messages that are no document tasks.",
                "action",
            ),
            documents_in_flight: register(
                &registry,
                IntGauge::new(
                    "ingestion_documents_in_flight",
                    "Documents taken, not finished.",
                ),
            ),
            busy_seconds: register(
                &registry,
                Counter::new(
                    "ingestion_busy_seconds_total",
                    "Time in which there was work in flight.",
                ),
            ),
            longest_work_seconds: register(
                &registry,
                Gauge::new(
                    "ingestion_longest_work_seconds",
                    "Time of the longest document or range of pages so far.",
                ),
            ),
            assigned: Mutex::default(),
            partition_assigned: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "ingestion_partition_assigned",
                        "1 for each partition of this worker.",
                    ),
                    &["topic", "partition"],
                ),
            ),
            partitions_assigned: register(
                &registry,
                IntGauge::new(
                    "ingestion_partitions_assigned",
                    "Partitions of this worker.",
                ),
            ),
            rebalances: register(
                &registry,
                IntCounter::new("ingestion_rebalances_total", "Rebalances of the group."),
            ),
            registry,
        }
    }

    /// Work on a message ended after this time.
    pub fn worked_for(&self, took: Duration) {
        let longest = self.longest_work_seconds.get().max(took.as_secs_f64());
        self.longest_work_seconds.set(longest);
    }

    /// The worker owns these partitions of the topic now, and no others of it.
    pub fn assigned(&self, topic: &str, partitions: Vec<i32>) {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        assigned.insert(topic.to_owned(), partitions);
        self.partition_assigned.reset();
        for (topic, partitions) in assigned.iter() {
            for partition in partitions {
                let labels = &[topic.as_str(), &partition.to_string()];
                self.partition_assigned.with_label_values(labels).set(1);
            }
        }
        let count = assigned.values().map(Vec::len).sum::<usize>();
        self.partitions_assigned
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> IntCounterVec {
    register(
        registry,
        IntCounterVec::new(Opts::new(name, help), &[label]),
    )
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options))
}

fn register<C>(registry: &Registry, collector: prometheus::Result<C>) -> C
where
    C: prometheus::core::Collector + Clone + 'static,
{
    let collector = collector.expect("names and labels above are valid");
    registry
        .register(Box::new(collector.clone()))
        .expect("names above are distinct");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_guides_names() {
        let metrics = Metrics::new();
        for status in ["success", "failed", "retried"] {
            metrics.files.with_label_values(&[status]).inc();
        }
        metrics.retries.with_label_values(&["milvus"]).inc();
        metrics
            .store_duration
            .with_label_values(&["milvus"])
            .observe(0.1);
        metrics.assigned("tasks", vec![0, 1]);
        metrics.assigned("tasks", vec![3]);
        metrics.assigned("tasks.ranges", vec![2]);
        metrics.worked_for(Duration::from_millis(2500));
        metrics.worked_for(Duration::from_millis(500));
        let text = metrics.render();
        assert!(!text.contains("partition=\"0\""), "it was given up");
        for line in [
            "ingestion_files_total{status=\"failed\"} 1",
            "ingestion_files_total{status=\"retried\"} 1",
            "ingestion_files_total{status=\"success\"} 1",
            "ingestion_duration_seconds_bucket{le=\"600\"} 0",
            "conversion_duration_seconds_count 0",
            "embedding_duration_seconds_count 0",
            "ingestion_store_duration_seconds_count{store=\"milvus\"} 1",
            "ingestion_retries_total{stage=\"milvus\"} 1",
            "ingestion_pages_total 0",
            "ingestion_embedding_out_of_memory_total 0",
            "gpu_memory_usage_bytes 0",
            "ingestion_busy_seconds_total 0",
            "ingestion_longest_work_seconds 2.5",
            "ingestion_partition_assigned{partition=\"3\",topic=\"tasks\"} 1",
            "ingestion_partition_assigned{partition=\"2\",topic=\"tasks.ranges\"} 1",
            "ingestion_partitions_assigned 2",
            "ingestion_repeats_total 0",
            "ingestion_splits_total 0",
            "ingestion_pages_in_flight_bytes 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
