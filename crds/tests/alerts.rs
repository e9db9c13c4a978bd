//! Each alert has a runbook and tests. `charts/tests/queries.rs` compares their metrics and labels with
//! those that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

const RULES: &str = "charts/layra-operator/rules/alerts.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_yaml_ng::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_sequence().into_iter().flatten()
}

fn rules() -> Vec<Value> {
    let file = yaml(RULES);
    let groups = list(&file["groups"]);
    groups
        .flat_map(|group| list(&group["rules"]).cloned())
        .collect()
}

fn text<'a>(rule: &'a Value, key: &str) -> &'a str {
    rule[key].as_str().unwrap_or_default()
}

#[test]
fn every_alert_says_whom_it_wakes_and_has_a_runbook_of_its_own() {
    let mut names = BTreeSet::from(["README".to_owned()]);
    let index = read("docs/runbooks/README.md");
    for rule in rules() {
        let name = text(&rule, "alert");
        assert!(names.insert(name.to_owned()), "{name} twice");
        assert!(matches!(
            text(&rule["labels"], "severity"),
            "critical" | "warning"
        ));
        assert!(matches!(
            text(&rule["labels"], "owner"),
            "cluster" | "pipeline" | "stores"
        ));
        assert!(rule["for"].is_string(), "{name}");
        for annotation in ["summary", "impact"] {
            assert!(
                text(&rule["annotations"], annotation).ends_with('.'),
                "{name}"
            );
        }
        let url = text(&rule["annotations"], "runbook_url");
        assert!(url.ends_with(&format!("/docs/runbooks/{name}.md")), "{url}");
        let page = read(&format!("docs/runbooks/{name}.md"));
        for heading in [
            format!("# {name}").as_str(),
            "## What it means",
            "## How to see it",
            "## What to do",
            "## Whom to wake",
        ] {
            assert!(
                page.lines().any(|line| line == heading),
                "{name}: {heading}"
            );
        }
        assert!(index.contains(&format!("[{name}]({name}.md)")), "{name}");
    }
    for page in fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let page = page.unwrap().path();
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(names.contains(&name), "{name}.md belongs to no alert");
    }
}

/// `promtool` runs them in the end-to-end tests.
#[test]
fn every_alert_is_tested_silent_then_firing_then_resolved() {
    let mut tested = BTreeSet::new();
    for file in fs::read_dir(root().join("charts/layra-operator/tests")).unwrap() {
        let file = fs::read_to_string(file.unwrap().path()).unwrap();
        let file: Value = serde_yaml_ng::from_str(&file).unwrap();
        for test in list(&file["tests"]) {
            let checks = || list(&test["alert_rule_test"]);
            let fires: Vec<bool> = checks()
                .map(|check| list(&check["exp_alerts"]).next().is_some())
                .collect();
            let names: BTreeSet<&str> = checks().map(|check| text(check, "alertname")).collect();
            if fires == [false, true, false] {
                tested.extend(names.into_iter().map(str::to_owned));
            }
        }
    }
    let all: BTreeSet<String> = rules()
        .iter()
        .map(|rule| text(rule, "alert").to_owned())
        .collect();
    assert_eq!(tested, all);
}
