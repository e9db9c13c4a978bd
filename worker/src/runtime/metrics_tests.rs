//! The names of the metrics, and the counts that the operator reads.

use std::time::Duration;

use layra_crds::metric_names::worker as names;
use layra_crds::{AssignedPartition, ProcessedAhead, WorkerCounts};
use layra_rendering::{DocumentWarning, PageWarning};

use super::metrics::Metrics;

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
