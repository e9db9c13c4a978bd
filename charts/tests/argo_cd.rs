//! The health script of Argo CD, run on its test data, on the kept objects, and on every state that
//! conditions can have.

use std::collections::BTreeSet;

use layra_charts::argo_cd::{FOLDER, Health, health};
use layra_charts::path;
use layra_crds::IngestionPipeline;
use serde::Deserialize;
use serde_json::{Value, json};

/// The format of Argo CD's own tests.
#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    health_status: Health,
    input_path: String,
}

fn read<T: serde::de::DeserializeOwned>(file: &std::path::Path) -> T {
    let text = std::fs::read_to_string(file).expect("a file of the tests");
    serde_yaml_ng::from_str(&text).expect("YAML")
}

#[test]
fn the_test_data_has_the_health_that_is_written_beside_it() {
    let tests: Tests = read(&path(FOLDER).join("health_test.yaml"));
    let mut seen = BTreeSet::new();
    for test in tests.tests {
        let object: Value = read(&path(FOLDER).join(&test.input_path));
        // A status of this version of the operator, not one that only looks like it.
        let pipeline: IngestionPipeline = serde_json::from_value(object.clone()).unwrap();
        let conditions = pipeline.status.unwrap_or_default().conditions;
        let written = object["status"]["conditions"]
            .as_array()
            .map_or(0, Vec::len);
        assert_eq!(conditions.len(), written, "{}", test.input_path);
        assert_eq!(
            health(&object).unwrap(),
            test.health_status,
            "{}",
            test.input_path
        );
        seen.insert(test.health_status.status);
    }
    assert_eq!(seen.len(), 4, "every health: {seen:?}");
}

/// The objects that earlier versions accepted, before and after the operator has seen them.
#[test]
fn the_kept_objects_have_a_health() {
    let folder = path("../crds/tests/v1alpha1");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let mut object: Value = read(&file);
        object["metadata"]["generation"] = json!(1);
        let paused = object["spec"]["paused"] == true;
        let expected = |status: &'static str| if paused { "Suspended" } else { status };
        assert_eq!(
            health(&object).unwrap().status,
            expected("Progressing"),
            "{}",
            file.display()
        );
        object["status"] = json!({"observedGeneration": 1, "conditions": [
            {"type": "Ready", "status": "True", "message": "Everything is in order."}]});
        assert_eq!(
            health(&object).unwrap().status,
            expected("Healthy"),
            "{}",
            file.display()
        );
        count += 1;
    }
    assert!(count > 10, "{count} objects");
}

/// Healthy only while Ready is True, whatever else the status has; never an error.
#[test]
fn healthy_is_ready_and_nothing_else() {
    for ready in [None, Some("True"), Some("False"), Some("Unknown")] {
        for transient in [None, Some("Reconciling"), Some("Stalled")] {
            for observed in [None, Some(1), Some(2)] {
                let mut conditions = Vec::new();
                for (kind, status) in [
                    ("Ready", ready),
                    (transient.unwrap_or(""), transient.map(|_| "True")),
                ] {
                    if let Some(status) = status {
                        conditions
                            .push(json!({"type": kind, "status": status, "message": "words"}));
                    }
                }
                let object = json!({"metadata": {"generation": 2}, "spec": {},
                    "status": {"observedGeneration": observed, "conditions": conditions}});
                let expected = match (observed, transient, ready) {
                    (Some(2), Some("Stalled"), _) | (Some(2), None, Some("False")) => "Degraded",
                    (Some(2), None, Some("True")) => "Healthy",
                    _ => "Progressing",
                };
                assert_eq!(health(&object).unwrap().status, expected, "{object}");
            }
        }
    }
}
