//! Objects of earlier versions keep working: what is in `v1alpha1/` is accepted as the API server
//! accepts it, by the schema (strictly), by the CEL rules and by the types.

use kube::CustomResourceExt;
use layra_crds::IngestionPipeline;
use regex::Regex;
use serde_json::{Value, json};

/// File names and objects, the examples of the docs included.
fn kept() -> Vec<(String, Value)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut objects = Vec::new();
    for folder in ["tests/v1alpha1", "../docs/examples"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("the folder exists");
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a file");
            // Unlike JSON's, these values refuse a key that is there twice.
            let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let object = serde_json::to_value(yaml).expect("JSON");
            objects.push((path.display().to_string(), object));
        }
    }
    assert!(objects.len() >= 32, "found {}", objects.len());
    objects
}

fn schema() -> Value {
    let crd = serde_json::to_value(IngestionPipeline::crd()).expect("JSON");
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    // Every object has these; the definition does not repeat them.
    for known in ["apiVersion", "kind"] {
        schema["properties"][known] = json!({"type": "string"});
    }
    schema["properties"]["metadata"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    schema
}

/// What `kubectl apply --validate=strict` reports for a structural schema.
fn complaints(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut complain = |what: String| all.push(format!("{path}: {what}"));
    if value.is_null() {
        if schema["nullable"] != true {
            complain("null".into());
        }
        return all;
    }
    let is_type = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{path}: unknown type {other}"),
        None if schema["x-kubernetes-int-or-string"] == true => value.is_string() || value.is_i64(),
        None => schema["x-kubernetes-preserve-unknown-fields"] == true,
    };
    if !is_type {
        complain(format!("{value} is not of type {}", schema["type"]));
        return all;
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        complain(format!("{value} is none of {choices:?}"));
    }
    let size = match value {
        Value::String(text) => Some(("Length", text.chars().count())),
        Value::Array(list) => Some(("Items", list.len())),
        Value::Object(map) => Some(("Properties", map.len())),
        _ => None,
    };
    if let Some((what, size)) = size {
        let bound = |which: &str| schema[format!("{which}{what}")].as_u64();
        if bound("min").is_some_and(|least| (size as u64) < least)
            || bound("max").is_some_and(|most| (size as u64) > most)
        {
            complain(format!("{what} {size} is out of bounds"));
        }
    }
    if let Some(number) = value.as_f64()
        && (schema["minimum"]
            .as_f64()
            .is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most))
    {
        complain(format!("{number} is out of bounds"));
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str())
        && !Regex::new(pattern).expect("a pattern").is_match(text)
    {
        complain(format!("{text:?} does not match {pattern}"));
    }
    if let (Value::Object(map), Some(required)) = (value, schema["required"].as_array()) {
        for name in required.iter().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                complain(format!("{name} is required"));
            }
        }
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                let known = schema["properties"].get(key);
                let other = Some(&schema["additionalProperties"]).filter(|it| it.is_object());
                match known.or(other) {
                    Some(schema) => all.extend(complaints(schema, value, &path)),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                    None => all.push(format!("{path}: unknown field")),
                }
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                let path = format!("{path}[{index}]");
                all.extend(complaints(&schema["items"], value, &path));
            }
        }
        _ => {}
    }
    all
}

#[test]
fn kept_objects_are_valid() {
    let schema = schema();
    for (file, object) in kept() {
        assert_eq!(complaints(&schema, &object, ""), [""; 0], "{file}");
        let pipeline: IngestionPipeline = serde_json::from_value(object.clone())
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        if let Err(error) = pipeline.validate_cel() {
            panic!("{file}: {error}");
        }
    }
}

#[test]
fn every_example_is_explained() {
    let page = include_str!("../../docs/examples/README.md");
    let examples = kept().into_iter().map(|(file, _)| file);
    let examples = examples.filter(|file| file.contains("docs/examples"));
    for file in examples {
        let (_, name) = file.rsplit_once('/').expect("a file in a folder");
        assert!(
            page.contains(&format!("]({name})")),
            "README.md lacks {name}"
        );
    }
}

/// Every given value is still there, so that no field is ignored by the types.
#[test]
fn the_types_read_everything_that_the_schema_accepts() {
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
            // A quantity is text in the types.
            (Value::String(text), Value::Number(number)) => {
                assert_eq!(*text, number.to_string(), "{path}");
            }
            _ => assert_eq!(whole, part, "{path}"),
        }
    }
    for (file, object) in kept() {
        let pipeline: IngestionPipeline = serde_json::from_value(object.clone()).expect("valid");
        let written = serde_json::to_value(&pipeline.spec).expect("JSON");
        contains(&written, &object["spec"], &file);
    }
}

#[test]
fn the_checks_of_this_file_find_mistakes() {
    let schema = schema();
    let (_, good) = kept().swap_remove(0);
    for (pointer, key, value, word) in [
        ("/spec", "sauce", json!(1), "unknown field"),
        (
            "/spec/source/kafka",
            "partitions",
            json!("1"),
            "not of type",
        ),
        (
            "/spec/source/kafka",
            "partitions",
            json!(0),
            "out of bounds",
        ),
        (
            "/spec/source/kafka",
            "topic",
            json!("a b"),
            "does not match",
        ),
        ("/spec/embedding/model", "family", json!("bert"), "none of"),
        (
            "/spec/stores",
            "mongodb",
            json!({}),
            "uriSecretRef is required",
        ),
        (
            "/spec/worker",
            "podTemplate",
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "name is required",
        ),
    ] {
        let mut bad = good.clone();
        if bad["spec"]["worker"].is_null() {
            bad["spec"]["worker"] = json!({});
        }
        bad.pointer_mut(pointer).expect("an object")[key] = value;
        let found = complaints(&schema, &bad, "").join("; ");
        assert!(found.contains(word), "{pointer}/{key}: {found}");
    }
}
