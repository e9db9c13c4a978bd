//! The worker's part of `docs/metrics.md` is the one that its registry gives.

use std::time::Duration;

use layra_crds::metric_names::documented;
use layra_rendering::PageWarning;

use super::metrics::Metrics;

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
    metrics
}

#[test]
fn the_table_of_metrics_is_fresh() {
    assert_eq!(
        documented::check("worker", &with_every_family().render()),
        Ok(())
    );
}
