//! The rules of `source.kafka.format` and `s3Event`. Patterns are tested by the schema.

use kube::CustomResourceExt;
use layra_crds::IngestionPipeline;
use regex::Regex;
use serde_json::{Value, json};

const BUCKET: &str = include_str!("../../docs/examples/s3-bucket.yaml");
const MINIMAL: &str = include_str!("../../docs/examples/minimal.yaml");

fn object(yaml: &str, s3_event: &Value) -> IngestionPipeline {
    let mut object: Value = serde_yaml_ng::from_str(yaml).expect("YAML");
    object["spec"]["source"]["kafka"]["s3Event"] = s3_event.clone();
    serde_json::from_value(object).expect("the right types")
}

fn complaint(object: &IngestionPipeline) -> Option<String> {
    let invalid = object.validate_cel().err()?;
    Some(format!("{invalid:?}"))
}

#[test]
fn the_knowledge_base_comes_from_a_folder_or_from_the_object() {
    for valid in [
        Value::Null,
        json!({}),
        json!({"keyTemplate": "{knowledgeBase}/"}),
        json!({"keyTemplate": "uploads/{knowledgeBase}/drafts/"}),
        json!({"knowledgeBase": "everything"}),
        json!({"keyTemplate": "inbox/", "knowledgeBase": "everything"}),
    ] {
        assert_eq!(complaint(&object(BUCKET, &valid)), None, "{valid}");
    }
    for invalid in [
        json!({"keyTemplate": "inbox/"}),
        json!({"keyTemplate": "{knowledgeBase}/", "knowledgeBase": "everything"}),
    ] {
        let complaint = complaint(&object(BUCKET, &invalid)).expect("a complaint");
        assert!(complaint.contains("Set one of the two"), "{complaint}");
    }
}

#[test]
fn layras_tasks_need_no_template() {
    let template = json!({"keyTemplate": "{knowledgeBase}/"});
    let complaint = complaint(&object(MINIMAL, &template)).expect("a complaint");
    assert!(
        complaint.contains("needs source.kafka.format: S3Event"),
        "{complaint}"
    );
}

#[test]
fn the_format_cannot_be_changed() {
    let crd = serde_json::to_value(IngestionPipeline::crd()).expect("JSON");
    let kafka = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/source/properties/kafka/properties";
    let kafka = crd.pointer(kafka).expect("the schema");
    let rules = kafka["format"]["x-kubernetes-validations"].as_array();
    let rules = rules.expect("rules of the format");
    assert!(rules.iter().any(|rule| rule["rule"] == "self == oldSelf"));
    assert_eq!(kafka["format"]["default"], "Layra");

    let pattern = &kafka["s3Event"]["properties"]["keyTemplate"]["pattern"];
    let pattern = Regex::new(pattern.as_str().expect("a pattern")).expect("valid");
    for valid in [
        "{knowledgeBase}/",
        "a/{knowledgeBase}/",
        "a b/{knowledgeBase}/c/",
        "inbox/",
    ] {
        assert!(pattern.is_match(valid), "{valid}");
    }
    for invalid in [
        "{knowledgeBase}",
        "/{knowledgeBase}/",
        "a//",
        "{other}/",
        "x{knowledgeBase}/",
        "{knowledgeBase}/{knowledgeBase}/",
    ] {
        assert!(!pattern.is_match(invalid), "{invalid}");
    }
}
