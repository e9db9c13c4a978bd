//! The objects that the README shows.

use layra_crds::IngestionPipeline;
use serde_json::Value;

const README: &str = include_str!("../../README.md");

/// The objects in blocks of YAML, in their order.
fn objects() -> Vec<Value> {
    let blocks = README.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let objects = blocks.filter(|block| block.contains("kind: IngestionPipeline"));
    objects
        .map(|block| serde_yaml_ng::from_str(block).expect("YAML"))
        .collect()
}

/// Fields of `shown` that `read` does not have.
fn unknown(shown: &Value, read: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in shown.as_object().into_iter().flatten() {
        match read.get(key) {
            Some(read) => unknown(value, read, &format!("{path}/{key}"), found),
            None => found.push(format!("{path}/{key}")),
        }
    }
}

#[test]
fn the_objects_of_the_readme_are_valid_and_the_first_one_needs_no_layra() {
    let objects = objects();
    let first = objects.first().expect("an object");
    assert_eq!(first["spec"]["source"]["kafka"]["format"], "S3Event");
    for shown in &objects {
        let pipeline: IngestionPipeline =
            serde_json::from_value(shown.clone()).expect("the fields have the right types");
        pipeline.validate_cel().expect("no rule refuses it");
        let read = serde_json::to_value(&pipeline).expect("JSON");
        let mut found = Vec::new();
        unknown(shown, &read, "", &mut found);
        assert!(found.is_empty(), "fields that do not exist: {found:?}");
    }
}
