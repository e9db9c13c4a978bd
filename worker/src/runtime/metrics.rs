//! The worker's metrics. Their names are in [`layra_crds::metric_names::worker`].
//!
//! Nothing here measures anything: other modules report to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layra_crds::metric_names::worker as names;
use layra_crds::{AssignedPartition, ProcessedAhead, WorkerCounts};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::runtime::longest::Longest;
use crate::runtime::process_metrics::ProcessMetrics;

/// Buckets for a whole document, in seconds.
const DOCUMENT_BUCKETS: [f64; 8] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets for one step, in seconds.
const STEP_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
/// Buckets for a batch, in tokens.
const TOKEN_BUCKETS: [f64; 9] = [
    128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
];

/// Buckets for a batch, in pages.
const PAGE_BUCKETS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Buckets for a resolution, in dots per inch.
const DPI_BUCKETS: [f64; 8] = [50.0, 72.0, 100.0, 150.0, 200.0, 250.0, 300.0, 600.0];

/// Every metric of a worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Documents processed, by outcome.
    pub(crate) files: IntCounterVec,
    /// Seconds from the task's arrival in the pipeline to its last vector.
    pub(crate) ingestion_duration: Histogram,
    /// Seconds to render one page.
    pub(crate) conversion_duration: Histogram,
    /// Seconds to embed one batch of pages.
    pub(crate) embedding_duration: Histogram,
    /// Tokens of one embedded batch.
    pub(crate) embedding_batch_tokens: Histogram,
    /// Pages of one embedded batch.
    pub(crate) embedding_batch_pages: Histogram,
    /// Batches that did not fit into the device's memory.
    pub(crate) embedding_out_of_memory: IntCounter,
    /// Bytes of the GPU's memory in use, by all processes; 0 on a CPU.
    pub(crate) gpu_memory_usage_bytes: IntGauge,
    /// Bytes of the GPU's whole memory; 0 on a CPU.
    pub(crate) gpu_memory_total_bytes: IntGauge,
    /// Seconds to fetch one original.
    pub(crate) fetch_duration: Histogram,
    /// Seconds to write one batch, by store.
    pub(crate) store_duration: HistogramVec,
    /// Pages that became searchable.
    pub(crate) pages: IntCounter,
    /// Pages that were skipped, by reason.
    pub(crate) pages_skipped: IntCounterVec,
    /// Stored pages on which something is missing, by warning.
    pub(super) page_warnings: IntCounterVec,
    /// Documents on which something is missing, by warning.
    pub(super) document_warnings: IntCounterVec,
    /// Stored pages with letters that were not drawn, by script.
    pub(super) missing_glyphs: IntCounterVec,
    /// Dots per inch of one rendered page.
    pub(super) page_dpi: Histogram,
    /// Documents whose first page was rendered, by format.
    pub(super) documents_opened: IntCounterVec,
    /// Renderers that ended before their document was done, by reason.
    pub(super) renderers_lost: IntCounterVec,
    /// Vectors written to Milvus.
    pub(crate) vectors: IntCounter,
    /// Attempts that failed because a server was unavailable, by stage.
    pub(crate) retries: IntCounterVec,
    /// Documents or page ranges repeated because a store did not hold them exactly once.
    pub(crate) repeats: IntCounter,
    /// Bytes of pages that are rendered and not yet stored.
    pub(crate) pages_in_flight_bytes: IntGauge,
    /// Documents split into page ranges.
    pub(crate) splits: IntCounter,
    /// Page ranges of split documents that were stored.
    pub(crate) ranges: IntCounter,
    /// Pages of those ranges.
    pub(crate) range_pages: IntCounter,
    /// Files and knowledge bases deleted by message, by kind.
    pub(crate) deletions: IntCounterVec,
    /// Dead letters, by reason.
    pub(crate) dead_letters: IntCounterVec,
    /// Foreign messages, by action.
    pub(crate) foreign_messages: IntCounterVec,
    /// Changes that the notifications of a bucket named, by result.
    pub(crate) bucket_changes: IntCounterVec,
    /// Documents and page ranges in progress.
    pub(super) documents_in_flight: IntGauge,
    /// Messages that were read and not started.
    pub(super) read_ahead: IntGauge,
    /// Seconds in which at least one document was in progress and did not wait for a server.
    pub(crate) busy_seconds: Counter,
    /// Documents of the pipeline whose recheck is due or near.
    open_rechecks: IntGauge,
    rechecks_counted: AtomicBool,
    /// Seconds of the longest recent work on a message.
    longest_work_seconds: Gauge,
    longest: Mutex<Longest>,
    /// 1 for each partition assigned to this worker, by topic and partition.
    partition_assigned: IntGaugeVec,
    assigned: Mutex<BTreeMap<String, Vec<i32>>>,
    pub(super) processed_ahead: Mutex<Vec<ProcessedAhead>>,
    /// Number of partitions assigned to this worker.
    pub(crate) partitions_assigned: IntGauge,
    /// Rebalances of the consumer group.
    pub(crate) rebalances: IntCounter,
    /// Used part of the quotas, by quota.
    pub(crate) quota_used: GaugeVec,
    /// Documents of the pipeline that wait for room.
    pub(crate) without_room: IntGauge,
    /// Pages with more vectors than LAYRA reads.
    pub(crate) pages_cut: IntCounter,
    /// Indexes of MongoDB that do not exist.
    pub(crate) missing_indexes: IntGauge,
    /// 1 if the model reads images, 0 if it reads text only.
    pub(crate) model_reads_images: IntGauge,
    processes: ProcessMetrics,
}

impl Metrics {
    /// A new set, all zero.
    ///
    /// # Panics
    /// If two metrics had the same name.
    #[allow(clippy::too_many_lines, reason = "a list: one entry for each metric")]
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let metrics = Self {
            files: counters(
                &registry,
                names::FILES,
                "Documents processed, by outcome.",
                names::STATUS,
            ),
            ingestion_duration: histogram(
                &registry,
                names::INGESTION_DURATION,
                "Time from a task's arrival to its last vector.",
                &DOCUMENT_BUCKETS,
            ),
            conversion_duration: histogram(
                &registry,
                names::CONVERSION_DURATION,
                "Time to render one page.",
                &STEP_BUCKETS,
            ),
            embedding_duration: histogram(
                &registry,
                names::EMBEDDING_DURATION,
                "Time to embed one batch of pages.",
                &STEP_BUCKETS,
            ),
            embedding_batch_tokens: histogram(
                &registry,
                names::EMBEDDING_BATCH_TOKENS,
                "Tokens of one embedded batch.",
                &TOKEN_BUCKETS,
            ),
            embedding_batch_pages: histogram(
                &registry,
                names::EMBEDDING_BATCH_PAGES,
                "Pages of one embedded batch.",
                &PAGE_BUCKETS,
            ),
            embedding_out_of_memory: counter(
                &registry,
                names::EMBEDDING_OUT_OF_MEMORY,
                "Batches that did not fit into the device's memory.",
            ),
            gpu_memory_usage_bytes: gauge(
                &registry,
                names::GPU_MEMORY_USAGE,
                "GPU memory in use, by all processes; 0 on a CPU.",
            ),
            gpu_memory_total_bytes: gauge(
                &registry,
                names::GPU_MEMORY_TOTAL,
                "The GPU's whole memory; 0 on a CPU.",
            ),
            fetch_duration: histogram(
                &registry,
                names::FETCH_DURATION,
                "Time to fetch one original from the object store.",
                &STEP_BUCKETS,
            ),
            store_duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        names::STORE_DURATION,
                        "Time to write one batch to a store.",
                    )
                    .buckets(STEP_BUCKETS.to_vec()),
                    &[names::STORE],
                ),
            ),
            pages: counter(&registry, names::PAGES, "Pages that became searchable."),
            pages_skipped: counters(
                &registry,
                names::PAGES_SKIPPED,
                "Pages that were skipped because they cannot be rendered or embedded.",
                names::REASON,
            ),
            page_warnings: counters(
                &registry,
                names::PAGE_WARNINGS,
                "Stored pages that are blank, have no text, or lack letters.",
                names::WARNING,
            ),
            document_warnings: counters(
                &registry,
                names::DOCUMENT_WARNINGS,
                "Documents that can be stored in part only.",
                names::WARNING,
            ),
            missing_glyphs: counters(
                &registry,
                names::MISSING_GLYPHS,
                "Stored pages with letters that were not drawn.",
                names::SCRIPT,
            ),
            page_dpi: histogram(
                &registry,
                names::PAGE_DPI,
                "Resolution of one rendered page; images have none.",
                &DPI_BUCKETS,
            ),
            documents_opened: counters(
                &registry,
                names::DOCUMENTS_OPENED,
                "Documents whose first page was rendered, by format.",
                names::FORMAT,
            ),
            renderers_lost: counters(
                &registry,
                names::RENDERERS_LOST,
                "Renderers that ended before their document was done.",
                names::REASON,
            ),
            vectors: counter(&registry, names::VECTORS, "Vectors written to Milvus."),
            retries: counters(
                &registry,
                names::RETRIES,
                "Attempts that failed because a server was unavailable.",
                names::STAGE,
            ),
            repeats: counter(
                &registry,
                names::REPEATS,
                "Documents or page ranges repeated because a store did not hold them exactly once.",
            ),
            pages_in_flight_bytes: gauge(
                &registry,
                names::PAGES_IN_FLIGHT,
                "Memory of pages that are rendered and not yet stored.",
            ),
            splits: counter(
                &registry,
                names::SPLITS,
                "Documents split into page ranges.",
            ),
            ranges: counter(
                &registry,
                names::RANGES,
                "Page ranges of split documents that were stored.",
            ),
            range_pages: counter(
                &registry,
                names::RANGE_PAGES,
                "Pages of the stored page ranges.",
            ),
            deletions: counters(
                &registry,
                names::DELETIONS,
                "Files and knowledge bases deleted by message.",
                names::KIND,
            ),
            dead_letters: counters(
                &registry,
                names::DEAD_LETTERS,
                "Messages written to the dead-letter topic.",
                names::REASON,
            ),
            foreign_messages: counters(
                &registry,
                names::FOREIGN_MESSAGES,
                "Foreign messages: skipped or forwarded.",
                names::ACTION,
            ),
            bucket_changes: counters(
                &registry,
                names::BUCKET_CHANGES,
                "Changes that the notifications of a bucket named, by what became of them.",
                names::RESULT,
            ),
            documents_in_flight: gauge(
                &registry,
                names::DOCUMENTS_IN_FLIGHT,
                "Documents and page ranges in progress.",
            ),
            read_ahead: gauge(
                &registry,
                names::READ_AHEAD,
                "Messages that were read and wait for their turn.",
            ),
            busy_seconds: register(
                &registry,
                Counter::new(
                    names::BUSY_SECONDS,
                    "Time in which a document was in progress and did not wait for a server.",
                ),
            ),
            longest_work_seconds: register(
                &registry,
                Gauge::new(
                    names::LONGEST_WORK,
                    "Longest work on a recent document or page range, without waits; fades.",
                ),
            ),
            longest: Mutex::default(),
            open_rechecks: gauge(
                &registry,
                names::OPEN_RECHECKS,
                "Documents of the pipeline whose recheck is due, or will be within 15 minutes.",
            ),
            rechecks_counted: AtomicBool::default(),
            assigned: Mutex::default(),
            processed_ahead: Mutex::default(),
            partition_assigned: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        names::PARTITION_ASSIGNED,
                        "1 for each partition assigned to this worker.",
                    ),
                    &[names::TOPIC, names::PARTITION],
                ),
            ),
            partitions_assigned: gauge(
                &registry,
                names::PARTITIONS_ASSIGNED,
                "Partitions assigned to this worker.",
            ),
            rebalances: counter(
                &registry,
                names::REBALANCES,
                "Rebalances of the consumer group.",
            ),
            quota_used: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        names::QUOTA_USED,
                        "Used part of a quota, or of a limit of LAYRA: 1 is the limit.",
                    ),
                    &[names::QUOTA],
                ),
            ),
            without_room: gauge(
                &registry,
                names::WITHOUT_ROOM,
                "Documents of the pipeline that wait until their knowledge base has room.",
            ),
            pages_cut: counter(
                &registry,
                names::PAGES_CUT,
                "Pages with more vectors than LAYRA reads.",
            ),
            missing_indexes: gauge(
                &registry,
                names::MISSING_INDEXES,
                "Indexes of MongoDB that workers or LAYRA need and that do not exist.",
            ),
            model_reads_images: gauge(
                &registry,
                names::MODEL_READS_IMAGES,
                "1 if the model reads images, 0 if it reads text only.",
            ),
            processes: ProcessMetrics::new(&registry),
            registry,
        };
        metrics.start_at_zero();
        metrics
    }

    /// Records how long a message was worked on.
    pub(crate) fn record_work_time(&self, took: Duration) {
        self.longest().record(took, Instant::now());
        self.update_longest();
    }

    /// Shows what is left of the longest work by now.
    fn update_longest(&self) {
        let longest = self.longest().at(Instant::now());
        // Milliseconds, so that the value does not change all the time.
        let seconds = (longest.as_secs_f64() * 1000.0).round() / 1000.0;
        self.longest_work_seconds.set(seconds);
    }

    fn longest(&self) -> MutexGuard<'_, Longest> {
        self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the number of documents of the pipeline whose recheck is due or near.
    pub(crate) fn set_open_rechecks(&self, count: u64) {
        self.open_rechecks
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        self.rechecks_counted.store(true, Ordering::Relaxed);
    }

    /// Records all partitions of a topic that are assigned to this worker.
    pub(crate) fn set_assigned(&self, topic: &str, partitions: Vec<i32>) {
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

    /// The counts that the operator reads.
    pub(crate) fn counts(&self) -> WorkerCounts {
        self.update_longest();
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = assigned.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(|partition| AssignedPartition {
                topic: topic.clone(),
                partition: *partition,
            })
        });
        WorkerCounts {
            pages: self.pages.get(),
            documents: self.documents(),
            ranges: self.ranges.get(),
            range_pages: self.range_pages.get(),
            busy_seconds: self.busy_seconds.get(),
            longest_work_seconds: self.longest_work_seconds.get(),
            documents_in_flight: u32::try_from(self.documents_in_flight.get()).unwrap_or(0),
            partitions: partitions.collect(),
            processed_ahead: self.processed_ahead().clone(),
            blank_pages: self.pages_with("Blank"),
            pages_without_text: self.pages_with("NoText"),
            pages_with_missing_glyphs: self.pages_with("MissingGlyphs"),
            open_rechecks: self
                .rechecks_counted
                .load(Ordering::Relaxed)
                .then(|| u64::try_from(self.open_rechecks.get()).unwrap_or(0)),
            without_room: u64::try_from(self.without_room.get()).unwrap_or(0),
            ..WorkerCounts::default()
        }
    }

    /// Documents that were completed or failed for good.
    fn documents(&self) -> u64 {
        // Reading a counter by its label would create it.
        let families = self.files.collect();
        let counters = families.iter().flat_map(MetricFamily::get_metric);
        let ended = counters.filter(|counter| {
            let mut labels = counter.get_label().iter();
            labels.all(|label| label.value() != names::STATUS_RETRIED)
        });
        whole(ended.map(|counter| counter.get_counter().get_value()).sum())
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        self.update_longest();
        self.processes.update();
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
impl Metrics {
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    pub(super) fn update_processes(&self) {
        self.processes.update();
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value of a counter of whole numbers"
)]
pub(super) fn whole(count: f64) -> u64 {
    count as u64
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

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(options))
}

pub(super) fn register<C>(registry: &Registry, collector: prometheus::Result<C>) -> C
where
    C: Collector + Clone + 'static,
{
    let collector = collector.expect("names and labels above are valid");
    registry
        .register(Box::new(collector.clone()))
        .expect("names above are distinct");
    collector
}

#[cfg(test)]
mod tests {
    use layra_rendering::{DocumentWarning, PageWarning};

    use super::*;

    #[test]
    fn metrics_have_the_names_of_the_operators_guide() {
        let metrics = Metrics::new();
        for status in [
            names::STATUS_SUCCESS,
            names::STATUS_FAILED,
            names::STATUS_RETRIED,
        ] {
            metrics.files.with_label_values(&[status]).inc();
        }
        metrics.retries.with_label_values(&["milvus"]).inc();
        metrics.pages_skipped.with_label_values(&["TimedOut"]).inc();
        let missing = ["Hangul", "Thai"].map(|script| PageWarning::MissingGlyphs(script.into()));
        metrics.count_page_warnings(&missing);
        metrics.count_document_warnings(&[DocumentWarning::XfaForm]);
        metrics
            .store_duration
            .with_label_values(&["milvus"])
            .observe(0.1);
        metrics.set_assigned("tasks", vec![0, 1]);
        metrics.set_assigned("tasks", vec![3]);
        metrics.set_assigned("tasks.ranges", vec![2]);
        metrics.record_work_time(Duration::from_millis(2500));
        metrics.record_work_time(Duration::from_millis(500));
        let text = metrics.render();
        assert!(!text.contains("partition=\"0\""), "it was revoked");
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
            "ingestion_pages_skipped_total{reason=\"TimedOut\"} 1",
            "ingestion_page_warnings_total{warning=\"MissingGlyphs\"} 1",
            "ingestion_pages_missing_glyphs_total{script=\"Hangul\"} 1",
            "ingestion_pages_missing_glyphs_total{script=\"Thai\"} 1",
            "ingestion_document_warnings_total{warning=\"XfaForm\"} 1",
            "ingestion_embedding_out_of_memory_total 0",
            "gpu_memory_usage_bytes 0",
            "ingestion_busy_seconds_total 0",
            "ingestion_longest_work_seconds 2.5",
            "ingestion_open_rechecks 0",
            "ingestion_partition_assigned{partition=\"3\",topic=\"tasks\"} 1",
            "ingestion_partition_assigned{partition=\"2\",topic=\"tasks.ranges\"} 1",
            "ingestion_partitions_assigned 2",
            "ingestion_repeats_total 0",
            "ingestion_splits_total 0",
            "ingestion_ranges_total 0",
            "ingestion_range_pages_total 0",
            "ingestion_pages_in_flight_bytes 0",
            "ingestion_documents_without_room 0",
            "ingestion_pages_cut_total 0",
            "ingestion_missing_indexes 0",
            "ingestion_messages_read_ahead 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn counts_are_those_of_the_metrics() {
        let metrics = Metrics::new();
        assert_eq!(metrics.counts(), WorkerCounts::default());
        for (status, count) in [
            (names::STATUS_SUCCESS, 4),
            (names::STATUS_FAILED, 2),
            (names::STATUS_RETRIED, 9),
        ] {
            metrics.files.with_label_values(&[status]).inc_by(count);
        }
        metrics.pages.inc_by(120);
        for warning in [PageWarning::NoText, PageWarning::Blank, PageWarning::NoText] {
            metrics.count_page_warnings(&[warning]);
        }
        metrics.ranges.inc_by(2);
        metrics.range_pages.inc_by(65);
        metrics.busy_seconds.inc_by(61.5);
        metrics.set_messages(3, 40);
        metrics.set_open_rechecks(2);
        metrics.record_work_time(Duration::from_millis(12_250));
        metrics.set_assigned("tasks.ranges", vec![2]);
        metrics.set_assigned("tasks", vec![0, 1]);
        metrics.set_processed_ahead(vec![(("tasks".to_owned(), 1), 40)]);
        let partition = |topic: &str, partition| AssignedPartition {
            topic: topic.to_owned(),
            partition,
        };
        assert_eq!(
            metrics.counts(),
            WorkerCounts {
                pages: 120,
                documents: 6,
                ranges: 2,
                range_pages: 65,
                busy_seconds: 61.5,
                longest_work_seconds: 12.25,
                blank_pages: 1,
                pages_without_text: 2,
                documents_in_flight: 3,
                partitions: vec![
                    partition("tasks", 0),
                    partition("tasks", 1),
                    partition("tasks.ranges", 2),
                ],
                processed_ahead: vec![ProcessedAhead {
                    topic: "tasks".to_owned(),
                    partition: 1,
                    messages: 40,
                }],
                open_rechecks: Some(2),
                ..WorkerCounts::default()
            }
        );
    }
}
