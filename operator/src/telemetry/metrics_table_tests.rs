//! The operator's part of `docs/metrics.md` is the one that its registry gives.

use std::time::Duration;

use layra_autoscaler::Decision;
use layra_crds::metric_names::table::{self, Row};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{
    Metrics,
    metrics::tests::{sizes, status},
    scaling::tests::decision,
};
use crate::resources::Kind;

const NAMES: &str = include_str!("../../../crds/src/metric_names/operator.rs");

/// Metrics in which each family has a series.
fn with_every_family() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.reconciled("rag", "contracts", Duration::ZERO, Some("apply"));
    metrics.applied(Kind::Deployment);
    metrics.lost("rag", "contracts", 0);
    metrics.collections("rag", "contracts", Some(&sizes()));
    let mut decision: Decision = decision();
    decision.inputs.arriving = Some(1.0);
    decision.inputs.ranges = Some(1);
    decision.inputs.oldest_seconds = Some(30.0);
    decision.inputs.partitions_with_work = Some(1);
    metrics.observe("rag", "contracts", 600, &status(Some(7)), Some(&decision));
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
    let fresh = table::with_table(&stored, "operator", &table::table(rows)).unwrap();
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

#[test]
fn the_deadline_is_what_the_drain_target_leaves() {
    let metrics = with_every_family();
    let line = "layra_operator_deadline_seconds{namespace=\"rag\",pipeline=\"contracts\"} 570";
    assert!(metrics.text().contains(line), "{}", metrics.text());
    metrics.observe("rag", "contracts", 600, &status(Some(0)), None);
    assert!(!metrics.text().contains("layra_operator_deadline_seconds{"));
}
