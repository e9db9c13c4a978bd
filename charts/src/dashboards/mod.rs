//! Dashboards for Grafana, generated from a short description: rows of panels, each with its queries.

mod fleet;
pub mod picture;
mod pipeline;
mod resources;

use anyhow::Result;
use serde_json::{Value, json};

/// A dashboard as it is described.
pub struct Dashboard {
    /// Part of the file's name, and of the dashboard's id in Grafana.
    pub name: &'static str,
    title: &'static str,
    /// Whether one namespace and pipeline are chosen.
    of_one_pipeline: bool,
    annotations: Vec<Annotation>,
    rows: Vec<Row>,
}

/// Marks on the time axis, at which the query has a value.
struct Annotation {
    name: &'static str,
    query: Query,
}

struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

struct Panel {
    title: &'static str,
    /// What it shows, and what to do about it.
    description: &'static str,
    kind: Kind,
    /// Grafana's name of the unit.
    unit: &'static str,
    /// Of 24.
    width: u32,
    queries: Vec<Query>,
}

/// How the values are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lines,
    /// The last value as a number.
    Number,
    /// A bar for each series, with the state's colour.
    States,
    /// The last values, a row for each pipeline, a column for each query.
    Table,
}

/// A query in `PromQL` and the name of its series.
struct Query {
    promql: String,
    legend: &'static str,
}

const HEIGHT: u32 = 8;
const WIDTH: u32 = 24;
/// Only the chosen pipeline.
const CHOSEN: &str = r#"namespace="$namespace",pipeline="$pipeline""#;

/// Every dashboard.
#[must_use]
pub fn all() -> Vec<Dashboard> {
    vec![pipeline::dashboard(), fleet::dashboard()]
}

impl Dashboard {
    /// Path below `charts/`.
    #[must_use]
    pub fn file(&self) -> String {
        format!("layra-operator/dashboards/{}.json", self.name)
    }

    /// Every query.
    #[must_use]
    pub fn queries(&self) -> Vec<&str> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        let queries = panels.flat_map(|panel| &panel.queries);
        let marks = self.annotations.iter().map(|annotation| &annotation.query);
        queries
            .chain(marks)
            .map(|query| query.promql.as_str())
            .collect()
    }

    /// The JSON that Grafana imports.
    pub fn json(&self) -> Result<String> {
        let dashboard = json!({
            "uid": format!("layra-{}", self.name),
            "title": self.title,
            "tags": ["layra"],
            "schemaVersion": 39,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": self.variables()},
            "annotations": {"list": self.marks()},
            "panels": self.panels(),
        });
        Ok(serde_json::to_string_pretty(&dashboard)? + "\n")
    }

    fn variables(&self) -> Vec<Value> {
        let mut variables = vec![json!({
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        })];
        if self.of_one_pipeline {
            let lag = layra_crds::metric_names::operator::READY_REPLICAS;
            for (name, label, query) in [
                (
                    "namespace",
                    "Namespace",
                    format!("label_values({lag}, namespace)"),
                ),
                (
                    "pipeline",
                    "Pipeline",
                    format!("label_values({lag}{{namespace=\"$namespace\"}}, pipeline)"),
                ),
            ] {
                variables.push(json!({
                    "name": name, "label": label, "type": "query", "datasource": source(),
                    "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
                }));
            }
        }
        variables
    }

    fn marks(&self) -> Vec<Value> {
        let mark = |annotation: &Annotation| {
            json!({
                "name": annotation.name, "enable": true, "iconColor": "blue",
                "datasource": source(), "expr": annotation.query.promql,
                "titleFormat": annotation.query.legend,
            })
        };
        self.annotations.iter().map(mark).collect()
    }

    /// Rows from the top, and in each the panels from the left.
    fn panels(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let mut y = 0;
        for row in &self.rows {
            panels.push(json!({
                "id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false,
                "panels": [], "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }));
            y += 1;
            for line in row.lines() {
                for (x, panel) in line {
                    let place = json!({"x": x, "y": y, "w": panel.width, "h": HEIGHT});
                    panels.push(panel.json(panels.len() + 1, &place));
                }
                y += HEIGHT;
            }
        }
        panels
    }
}

impl Row {
    /// Its panels from the left, in as many lines as they need, each with its left edge.
    fn lines(&self) -> Vec<Vec<(u32, &Panel)>> {
        let mut lines = vec![Vec::new()];
        let mut x = 0;
        for panel in &self.panels {
            if x + panel.width > WIDTH {
                lines.push(Vec::new());
                x = 0;
            }
            let line = lines.len() - 1;
            lines[line].push((x, panel));
            x += panel.width;
        }
        lines
    }
}

impl Panel {
    fn json(&self, id: usize, place: &Value) -> Value {
        let (kind, custom, options) = self.kind.settings();
        let mut panel = json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.description,
            "gridPos": place,
            "datasource": source(),
            "fieldConfig": {
                "defaults": {"unit": self.unit, "custom": custom, "min": 0},
                "overrides": [],
            },
            "options": options,
            "targets": self.targets(),
        });
        match self.kind {
            Kind::Table => panel["transformations"] = self.columns(),
            Kind::States => {
                panel["fieldConfig"]["defaults"]["mappings"] = json!([{"type": "value", "options": {
                    "-1": {"text": "unknown", "color": "yellow"},
                    "0": {"text": "no", "color": "text"},
                    "1": {"text": "yes", "color": "blue"},
                }}]);
                panel["fieldConfig"]["defaults"]["min"] = json!(-1);
            }
            Kind::Lines | Kind::Number => {}
        }
        panel
    }

    fn targets(&self) -> Vec<Value> {
        let target = |(query, id): (&Query, char)| {
            let mut target = json!({
                "refId": id.to_string(), "datasource": source(),
                "expr": query.promql, "legendFormat": query.legend,
            });
            if matches!(self.kind, Kind::Table) {
                target["format"] = json!("table");
            }
            if matches!(self.kind, Kind::Table | Kind::Number) {
                target["instant"] = json!(true);
            }
            target
        };
        self.queries.iter().zip('A'..='Z').map(target).collect()
    }

    /// One table of all queries: without the time, each value under its query's name.
    fn columns(&self) -> Value {
        let named = self.queries.iter().zip('A'..='Z');
        let fields: serde_json::Map<String, Value> = named
            .map(|(query, id)| (format!("Value #{id}"), json!(query.legend)))
            .collect();
        json!([
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {
                "excludeByName": {"Time": true}, "renameByName": fields}},
        ])
    }
}

impl Kind {
    /// Grafana's type of panel, the settings of its series, and its options.
    fn settings(self) -> (&'static str, Value, Value) {
        let legend = json!({"legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"}});
        match self {
            Self::Lines => (
                "timeseries",
                json!({"fillOpacity": 0, "lineWidth": 1}),
                legend,
            ),
            Self::Number => (
                "stat",
                json!({}),
                json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none"}),
            ),
            Self::States => (
                "state-timeline",
                json!({"fillOpacity": 70}),
                json!({"mergeValues": true, "showValue": "never", "rowHeight": 0.8}),
            ),
            Self::Table => ("table", json!({}), json!({"showHeader": true})),
        }
    }
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A metric of the chosen pipeline, with more matchers of labels.
fn of(metric: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!("{metric}{{{CHOSEN}{comma}{more}}}")
}

fn query(promql: impl Into<String>, legend: &'static str) -> Query {
    Query {
        promql: promql.into(),
        legend,
    }
}
