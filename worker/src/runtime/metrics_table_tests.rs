//! The worker's part of `docs/metrics.md` is the one that its registry gives.

use std::time::Duration;

use layra_crds::metric_names::table::{self, Row};
use layra_rendering::PageWarning;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::metrics::Metrics;

const NAMES: &str = include_str!("../../../crds/src/metric_names/worker.rs");

/// Metrics in which each family has a series.
fn with_every_family() -> Metrics {
    let metrics = Metrics::new();
    metrics.count_page_warnings(&[PageWarning::MissingGlyphs("Thai".to_owned())]);
    metrics.set_assigned("tasks", vec![0]);
    metrics.record_work_time(Duration::from_secs(1));
    for counters in [
        &metrics.documents_opened,
        &metrics.pages_skipped,
        &metrics.retries,
        &metrics.dead_letters,
    ] {
        counters.with_label_values(&["x"]).inc();
    }
    let stores = &metrics.store_duration;
    stores.with_label_values(&["milvus"]).observe(1.0);
    metrics.quota_used.with_label_values(&["vectors"]).set(0.5);
    metrics.update_processes();
    metrics
}

fn row(family: &MetricFamily) -> Row {
    let labels = family.get_metric().iter().flat_map(Metric::get_label);
    let mut labels: Vec<String> = labels.map(|label| label.name().to_owned()).collect();
    labels.sort();
    labels.dedup();
    Row {
        name: family.name().to_owned(),
        kind: match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        },
        labels,
        help: family.help().to_owned(),
    }
}

#[test]
fn the_table_of_metrics_is_fresh() {
    let rows: Vec<Row> = with_every_family().gather().iter().map(row).collect();
    let missing: Vec<&str> = table::names_in(NAMES)
        .filter(|name| !rows.iter().any(|row| row.name == *name))
        .collect();
    assert_eq!(missing, [""; 0], "not registered, or without a series here");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let stored = std::fs::read_to_string(&path).unwrap();
    let fresh = table::with_table(&stored, "worker", &table::table(rows)).unwrap();
    if std::env::var_os("UPDATE_METRICS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
        return;
    }
    assert!(
        stored == fresh,
        "docs/metrics.md is stale: run \
         `UPDATE_METRICS=1 cargo test --workspace --lib --bins -- the_table_of_metrics`"
    );
}
