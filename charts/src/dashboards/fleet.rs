//! All pipelines of a Prometheus, and the operators.

use layra_crds::metric_names::{operator, worker};

use super::{Dashboard, Kind, Panel, Query, Row, WIDTH, query};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "fleet",
        title: "LAYRA pipelines",
        of_one_pipeline: false,
        annotations: Vec::new(),
        rows: vec![pipelines(), work(), operators()],
    }
}

/// A gauge of the operator, for each pipeline.
fn gauge(metric: &str) -> String {
    format!("max by (namespace, pipeline) ({metric})")
}

/// What a counter of the workers grows by, for each pipeline.
fn rate(metric: &str, matcher: &str, window: &str) -> String {
    format!("sum by (namespace, pipeline) (rate({metric}{{{matcher}}}[{window}]))")
}

fn ready() -> String {
    format!(
        "{}{{{}=\"Ready\"}}",
        operator::PIPELINE_CONDITION,
        operator::CONDITION_LABEL
    )
}

fn pipelines() -> Row {
    Row {
        title: "Pipelines",
        panels: vec![Panel {
            title: "Now",
            description: "Ready is 1, or 0 while the pipeline needs somebody.",
            kind: Kind::Table,
            unit: "short",
            width: WIDTH,
            queries: vec![
                query(gauge(&ready()), "Ready"),
                query(gauge(operator::DESIRED_REPLICAS), "Desired workers"),
                query(gauge(operator::READY_REPLICAS), "Ready workers"),
                query(gauge(operator::CONSUMER_LAG), "Messages"),
                query(gauge(operator::BACKLOG_PAGES), "Pages in backlog"),
                query(gauge(operator::BACKLOG_OLDEST_SECONDS), "Oldest (s)"),
                query(rate(worker::PAGES, "", "5m"), "Pages/s"),
                query(
                    format!(
                        "sum by (namespace, pipeline) (increase({}{{status=\"failed\"}}[1h]))",
                        worker::FILES
                    ),
                    "Failed in 1 h",
                ),
            ],
        }],
    }
}

fn lines(
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    queries: Vec<Query>,
) -> Panel {
    Panel {
        title,
        description,
        kind: Kind::Lines,
        unit,
        width: 8,
        queries,
    }
}

const NAME: &str = "{{namespace}}/{{pipeline}}";

fn work() -> Row {
    Row {
        title: "Work",
        panels: vec![
            lines(
                "Pages a second",
                "Pages made searchable.",
                "short",
                vec![query(rate(worker::PAGES, "", "$__rate_interval"), NAME)],
            ),
            lines(
                "Oldest document",
                "At least this old is the oldest document that waits.",
                "s",
                vec![query(gauge(operator::BACKLOG_OLDEST_SECONDS), NAME)],
            ),
            lines(
                "Ready workers",
                "Workers of each pipeline.",
                "short",
                vec![query(gauge(operator::READY_REPLICAS), NAME)],
            ),
        ],
    }
}

fn operators() -> Row {
    Row {
        title: "Operators",
        panels: vec![
            lines(
                "Leaders",
                "1 in the process that reconciles. No process at 1: nothing is scaled.",
                "short",
                vec![query(operator::LEADER, "{{pod}}")],
            ),
            lines(
                "Failed reconciles an hour",
                "By what failed. The operator tries again; its log has the error.",
                "short",
                vec![query(
                    format!(
                        "sum by (reason) (increase({}[1h]))",
                        operator::RECONCILE_ERRORS
                    ),
                    "{{reason}}",
                )],
            ),
            lines(
                "Duration of a reconcile",
                "99th percentile.",
                "s",
                vec![query(
                    format!(
                        "histogram_quantile(0.99, sum by (le) (rate({}_bucket[$__rate_interval])))",
                        operator::RECONCILE_DURATION
                    ),
                    "p99",
                )],
            ),
        ],
    }
}
