//! The worker's metrics. Their names are in [`layra_crds::metric_names::worker`].
//!
//! Nothing here measures anything: other modules report to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layra_crds::ProcessedAhead;
use layra_crds::metric_names::worker as names;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::runtime::longest::Longest;
use crate::runtime::process_metrics::ProcessMetrics;
use crate::runtime::registration::{counter, counters, gauge, histogram, register};

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
    pub(super) open_rechecks: IntGauge,
    pub(super) rechecks_counted: AtomicBool,
    /// Seconds of the longest recent work on a message.
    pub(super) longest_work_seconds: Gauge,
    longest: Mutex<Longest>,
    /// 1 for each partition assigned to this worker, by topic and partition.
    pub(super) partition_assigned: IntGaugeVec,
    pub(super) assigned: Mutex<BTreeMap<String, Vec<i32>>>,
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
    pub(super) fn update_longest(&self) {
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
