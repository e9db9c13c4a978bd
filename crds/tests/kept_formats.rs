//! What operators of earlier and later versions write is read: the configuration by workers, which start
//! again with the image that they have, and the status by operators, which remember there what they have
//! learned.

use std::path::{Path, PathBuf};

use layra_crds::{IngestionPipelineStatus, WorkerConfig};
use serde_json::Value;

fn tests(below: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests").join(below)
}

/// File names and texts in `worker-config/`.
fn kept() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(tests("worker-config")).expect("the folder exists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let configs = paths.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    let mut kept: Vec<_> = configs
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (
                name.into_owned(),
                std::fs::read_to_string(&path).expect("a file"),
            )
        })
        .collect();
    kept.sort();
    assert!(kept.len() >= 3, "found {}", kept.len());
    kept
}

fn read(name: &str, text: &str) -> WorkerConfig {
    WorkerConfig::from_yaml(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every value of `part` is in `whole`.
fn contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, part) in part {
                let path = format!("{path}.{key}");
                let value = whole.get(key).unwrap_or_else(|| panic!("{path} is lost"));
                contains(value, part, &path);
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            for (whole, part) in whole.iter().zip(part) {
                contains(whole, part, path);
            }
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn what_an_earlier_operator_has_written_is_read_completely() {
    for (name, text) in kept() {
        if name == "later.yaml" {
            continue;
        }
        let written: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let again = serde_json::to_value(read(&name, &text)).expect("JSON");
        contains(&again, &written, &name);
    }
}

/// They mean the same in all versions: what is missing in the earlier ones has its default.
#[test]
fn the_kept_configurations_are_the_same_one() {
    let configs: Vec<_> = kept()
        .iter()
        .map(|(name, text)| (name.clone(), read(name, text)))
        .collect();
    let (first, config) = &configs[0];
    for (name, other) in &configs[1..] {
        assert_eq!(other, config, "{name} and {first}");
    }
}

fn status(name: &str) -> (IngestionPipelineStatus, Value) {
    let text = std::fs::read_to_string(tests("status").join(name)).expect("a file");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    let read = serde_json::from_value(written.clone());
    (
        read.unwrap_or_else(|error| panic!("{name}: {error}")),
        written,
    )
}

#[test]
fn a_status_of_an_earlier_version_is_read_completely() {
    for name in ["2026-11-27.json", "2026-11-28.json"] {
        let (read, written) = status(name);
        let again = serde_json::to_value(&read).expect("JSON");
        contains(&again, &written, name);
    }
}

#[test]
fn a_status_of_a_later_version_is_read_without_what_is_unknown() {
    let (read, _) = status("later.json");
    let scaling = read.scaling.expect("scaling");
    assert_eq!(scaling.desired_replicas, 2);
    let learned = scaling.learned.expect("learned");
    assert!((learned.pages_per_second - 3.5).abs() < 1e-9);
    assert_eq!(read.conditions[0].reason, "ReasonOfALaterVersion");
}
