//! The dashboards are generated, and ask only for what the programs measure.

use std::collections::BTreeSet;

use layra_charts::{dashboards, path};
use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr, LabelModifier};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

/// Where the names of all metrics and labels are.
const NAMES: [&str; 2] = [
    include_str!("../../crds/src/metric_names/operator.rs"),
    include_str!("../../crds/src/metric_names/worker.rs"),
];
/// Labels that Prometheus, its histograms or the monitors of the chart add.
const ADDED: [&str; 4] = ["pod", "instance", "le", "pipeline"];

#[test]
fn the_files_are_what_the_descriptions_give() {
    for dashboard in dashboards::all() {
        let fresh = dashboard.json().unwrap();
        let file = path(&dashboard.file());
        if std::env::var_os("UPDATE_DASHBOARDS").is_some() {
            std::fs::write(&file, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(&file).unwrap_or_default() == fresh,
            "{} is stale: run `UPDATE_DASHBOARDS=1 cargo test --workspace --test dashboards`",
            file.display()
        );
    }
}

/// The text of every constant, be it a metric or a label.
fn names() -> BTreeSet<&'static str> {
    let lines = NAMES.iter().flat_map(|file| file.lines());
    let constants = lines.filter(|line| line.starts_with("pub const"));
    let texts = constants.filter_map(|line| line.split('"').nth(1));
    texts.collect()
}

/// Metrics and labels of a query.
#[derive(Default)]
struct Used {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Used {
    fn matchers(&mut self, matchers: &Matchers) {
        let all = matchers.matchers.iter();
        self.labels.extend(all.map(|matcher| matcher.name.clone()));
    }
}

impl ExprVisitor for Used {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        match expression {
            Expr::VectorSelector(selector) => {
                self.metrics.extend(selector.name.clone());
                self.matchers(&selector.matchers);
            }
            Expr::MatrixSelector(selector) => {
                self.metrics.extend(selector.vs.name.clone());
                self.matchers(&selector.vs.matchers);
            }
            Expr::Aggregate(aggregate) => {
                let labels = aggregate.modifier.iter().map(LabelModifier::labels);
                self.labels
                    .extend(labels.flat_map(|labels| labels.labels.clone()));
            }
            _ => {}
        }
        Ok(true)
    }
}

fn parsed(query: &str) -> Used {
    let query = query.replace("$__rate_interval", "5m");
    let expression = parser::parse(&query);
    let expression = expression.unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut used = Used::default();
    walk_expr(&mut used, &expression).expect("it visits every expression");
    used
}

#[test]
fn every_query_asks_for_metrics_and_labels_that_exist() {
    let names = names();
    assert!(names.len() > 50, "{names:?}");
    for query in dashboards::all()
        .iter()
        .flat_map(dashboards::Dashboard::queries)
    {
        let used = parsed(query);
        assert!(!used.metrics.is_empty(), "{query}");
        for metric in &used.metrics {
            let base = metric.trim_end_matches("_bucket");
            assert!(names.contains(base), "{metric} in {query}");
        }
        for label in &used.labels {
            let known = names.contains(label.as_str()) || ADDED.contains(&label.as_str());
            assert!(known, "{label} in {query}");
        }
    }
}

#[test]
fn a_query_with_a_metric_that_does_not_exist_would_be_noticed() {
    let used =
        parsed("sum by (pipeline) (rate(ingestion_nothing_total{x=\"y\"}[$__rate_interval]))");
    assert_eq!(
        used.metrics,
        BTreeSet::from(["ingestion_nothing_total".to_owned()])
    );
    assert_eq!(
        used.labels,
        BTreeSet::from(["pipeline".to_owned(), "x".to_owned()])
    );
    assert!(!names().contains("ingestion_nothing_total"));
}

/// What a person sees first: every panel has a title, and a sentence that says what it shows.
#[test]
fn panels_are_described_and_do_not_overlap() {
    for dashboard in dashboards::all() {
        let json: Value = serde_json::from_str(&dashboard.json().unwrap()).unwrap();
        let mut taken = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                assert!(x < 24, "{panel}");
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{} overlaps", panel["title"]);
                }
            }
            if panel["type"] != "row" {
                let description = panel["description"].as_str().unwrap();
                assert!(description.ends_with('.'), "{}", panel["title"]);
                assert!(!panel["targets"].as_array().unwrap().is_empty());
            }
        }
    }
}
