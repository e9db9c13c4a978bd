//! The dashboards and the alerts ask only for metrics that the programs have, and for labels that
//! these metrics have. What exists is read from `docs/metrics.md`, which is generated from the
//! programs.

use std::collections::{BTreeMap, BTreeSet};

use layra_charts::{dashboards, path};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use serde_json::Value;

const METRICS: &str = include_str!("../../docs/metrics.md");
/// Labels that Prometheus and the monitors of the chart add, by program.
const ADDED: [(&str, &[&str]); 3] = [
    ("worker", &["namespace", "pod", "instance", "pipeline"]),
    ("query", &["namespace", "pod", "instance", "pipeline"]),
    ("operator", &["namespace", "pod", "instance"]),
];

type Labels = BTreeSet<String>;

/// The labels of each series, by its name.
struct Metrics(BTreeMap<String, Labels>);

impl Metrics {
    fn documented() -> Self {
        let mut series = BTreeMap::new();
        for (program, added) in ADDED {
            let begin = format!("<!-- {program} -->");
            let (_, rest) = METRICS.split_once(&begin).expect("a table");
            let (table, _) = rest.split_once("<!-- end").expect("its end");
            for line in table.lines().filter(|line| line.starts_with("| `")) {
                let cells: Vec<&str> = line.split(" | ").collect();
                let name = cells[0].trim_matches(['|', ' ', '`']);
                let own = cells[2].split('`').skip(1).step_by(2);
                let labels: Labels = own
                    .chain(added.iter().copied())
                    .map(str::to_owned)
                    .collect();
                if cells[1] == "histogram" {
                    for part in ["_sum", "_count"] {
                        series.insert(format!("{name}{part}"), labels.clone());
                    }
                    let mut labels = labels;
                    labels.insert("le".to_owned());
                    series.insert(format!("{name}_bucket"), labels);
                } else {
                    series.insert(name.to_owned(), labels);
                }
            }
        }
        assert!(series.len() > 80, "{series:?}");
        Self(series)
    }

    /// The labels that the result of a query has, or what it asks for in vain.
    fn result(&self, query: &str) -> Result<Labels, String> {
        let query = query.replace("$__rate_interval", "5m");
        self.labels(&parser::parse(&query)?)
    }

    fn labels(&self, expression: &Expr) -> Result<Labels, String> {
        match expression {
            Expr::VectorSelector(selector) => self.selected(selector),
            Expr::MatrixSelector(selector) => self.selected(&selector.vs),
            Expr::Paren(inner) => self.labels(&inner.expr),
            Expr::Unary(inner) => self.labels(&inner.expr),
            Expr::Subquery(inner) => self.labels(&inner.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(Labels::new()),
            Expr::Binary(binary) => {
                let (left, right) = (self.labels(&binary.lhs)?, self.labels(&binary.rhs)?);
                // A number has no labels. Of two vectors the left one gives them.
                Ok(if left.is_empty() { right } else { left })
            }
            Expr::Call(call) => {
                let mut labels = Labels::new();
                for argument in &call.args.args {
                    labels.extend(self.labels(argument)?);
                }
                if call.func.name == "histogram_quantile" && !labels.remove("le") {
                    return Err(format!("{expression} has no buckets"));
                }
                Ok(labels)
            }
            Expr::Aggregate(aggregate) => {
                let inner = self.labels(&aggregate.expr)?;
                let Some(modifier) = &aggregate.modifier else {
                    return Ok(Labels::new());
                };
                let named: Labels = modifier.labels().labels.iter().cloned().collect();
                let absent: Vec<&String> = named.difference(&inner).collect();
                if !absent.is_empty() {
                    return Err(format!("{absent:?} of {expression}"));
                }
                Ok(match modifier {
                    LabelModifier::Include(_) => named,
                    LabelModifier::Exclude(_) => inner.difference(&named).cloned().collect(),
                })
            }
            Expr::Extension(_) => Err(format!("{expression} is not of Prometheus")),
        }
    }

    fn selected(&self, selector: &VectorSelector) -> Result<Labels, String> {
        let name = selector.name.as_deref().unwrap_or_default();
        let labels = self
            .0
            .get(name)
            .ok_or_else(|| format!("{selector}: no such metric"))?;
        let every = selector.matchers.matchers.iter();
        match every.map(|it| &it.name).find(|it| !labels.contains(*it)) {
            Some(absent) => Err(format!("{absent} of {selector}")),
            None => Ok(labels.clone()),
        }
    }
}

/// The names between each of these brackets.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let rest = text.split("{{").skip(1);
    rest.filter_map(|rest| Some(rest.split_once("}}")?.0.trim()))
}

#[test]
fn every_query_asks_for_metrics_and_labels_that_exist() {
    let metrics = Metrics::documented();
    for dashboard in dashboards::all() {
        let json: Value = serde_json::from_str(&dashboard.json().unwrap()).unwrap();
        let panels = json["panels"].as_array().unwrap().iter();
        let targets = panels
            .filter_map(|panel| panel["targets"].as_array())
            .flatten();
        let marks = json["annotations"]["list"].as_array().unwrap();
        let mut count = 0;
        for (target, legend) in targets
            .map(|target| (target, "legendFormat"))
            .chain(marks.iter().map(|mark| (mark, "titleFormat")))
        {
            let query = target["expr"].as_str().unwrap();
            let labels = metrics
                .result(query)
                .unwrap_or_else(|error| panic!("{query}: {error}"));
            for label in named(target[legend].as_str().unwrap()) {
                assert!(labels.contains(label), "the legend {label} of {query}");
            }
            count += 1;
        }
        assert_eq!(count, dashboard.queries().len());
    }
}

#[test]
fn every_alert_asks_for_metrics_and_labels_that_exist() {
    let metrics = Metrics::documented();
    let rules = std::fs::read_to_string(path("layra-operator/rules/alerts.yaml")).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&rules).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules: Vec<&Value> = groups
        .flat_map(|it| it["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() > 20);
    for rule in rules {
        let query = rule["expr"].as_str().unwrap();
        let labels = metrics
            .result(query)
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        for text in rule["annotations"].as_object().unwrap().values() {
            for label in named(text.as_str().unwrap()).filter_map(|it| it.strip_prefix("$labels."))
            {
                let name = label.split_whitespace().next().unwrap();
                assert!(labels.contains(name), "{label} in an annotation of {query}");
            }
        }
    }
}

#[test]
fn what_does_not_exist_is_noticed() {
    let metrics = Metrics::documented();
    for (query, error) in [
        (
            "rate(ingestion_nothing_total[$__rate_interval])",
            "no such metric",
        ),
        ("ingestion_pages_total{store=\"x\"}", "store of"),
        ("sum by (reason) (ingestion_pages_total)", "reason"),
        (
            "histogram_quantile(0.5, sum by (pod) (rate(ingestion_duration_seconds_bucket[5m])))",
            "no buckets",
        ),
        ("layra_operator_leader{pipeline=\"x\"}", "pipeline of"),
        ("ingestion_duration_seconds", "no such metric"),
    ] {
        let found = metrics.result(query).unwrap_err();
        assert!(found.contains(error), "{query}: {found}");
    }
    let query = "sum by (pod, stage) (rate(ingestion_retries_total{namespace=\"x\"}[5m])) > 0";
    assert_eq!(
        metrics.result(query).unwrap(),
        Labels::from(["pod".to_owned(), "stage".to_owned()])
    );
}
