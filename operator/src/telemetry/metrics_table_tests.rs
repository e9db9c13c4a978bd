//! The operator's part of `docs/metrics.md` is the one that its registry gives.

use std::time::Duration;

use layra_autoscaler::Decision;
use layra_crds::metric_names::documented;

use super::{
    Metrics,
    metrics::tests::{sizes, status},
    scaling::tests::decision,
};
use crate::resources::Kind;

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

#[test]
fn the_table_of_metrics_is_fresh() {
    assert_eq!(
        documented::check("operator", &with_every_family().text()),
        Ok(())
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
