//! Every value is in `values.yaml` with its default, and in the schema with a description.

use layra_charts::helm::template;
use layra_charts::path;
use serde_json::Value;

/// What Helm itself may set.
const WITHOUT_DEFAULT: [&str; 1] = ["global"];

fn read(file: &str) -> Value {
    let text = std::fs::read_to_string(path(file)).expect("a file of the chart");
    serde_yaml_ng::from_str(&text).expect("YAML")
}

/// A schema with its reference to a definition resolved.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => root
            .pointer(reference.trim_start_matches('#'))
            .expect("a definition"),
        None => schema,
    }
}

fn check(
    key: &str,
    schema: &Value,
    values: Option<&Value>,
    root: &Value,
    faults: &mut Vec<String>,
) {
    let Some(properties) = resolved(schema, root)["properties"].as_object() else {
        return;
    };
    for (name, property) in properties {
        let key = format!("{key}.{name}").trim_start_matches('.').to_owned();
        let description = property["description"].as_str().unwrap_or_default();
        if description.len() < 10 || !description.ends_with('.') {
            faults.push(format!("{key} has no description"));
        }
        check(
            &key,
            property,
            values.and_then(|it| it.get(name)),
            root,
            faults,
        );
    }
    for name in values
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|it| it.keys())
    {
        if !properties.contains_key(name) {
            faults.push(format!("{key}.{name} is in values.yaml only"));
        }
    }
}

#[test]
fn every_key_has_a_description_and_every_value_a_key() {
    for chart in ["layra-operator", "layra-crds"] {
        let schema = read(&format!("{chart}/values.schema.json"));
        let values = read(&format!("{chart}/values.yaml"));
        let mut faults = Vec::new();
        check("", &schema, Some(&values), &schema, &mut faults);
        assert!(faults.is_empty(), "{chart}: {faults:#?}");
        for name in schema["properties"].as_object().unwrap().keys() {
            let has_default =
                values.get(name).is_some() || WITHOUT_DEFAULT.contains(&name.as_str());
            assert!(has_default, "{chart}: {name} is in the schema only");
        }
    }
}

#[test]
fn the_values_in_the_page_about_air_gaps_are_those_of_the_chart() {
    let page = std::fs::read_to_string(path("../docs/air-gapped.md")).expect("the page");
    let (_, rest) = page.split_once("`offline.yaml`:").expect("the file");
    let (_, rest) = rest.split_once("```yaml\n").expect("its text");
    let (text, _) = rest.split_once("```").expect("its end");
    let mut values: Value = serde_yaml_ng::from_str(text).expect("YAML");
    let digest = format!("sha256:{}", "ab".repeat(32));
    for image in ["image", "workerImage"] {
        values[image]["digest"] = digest.clone().into();
    }
    // The schema refuses what it does not know.
    let rendered = template("layra-operator", "layra-operator", "rag", &values).expect("objects");
    for text in [
        format!("REGISTRY/layra-operator@{digest}"),
        format!("REGISTRY/layra-worker@{digest}"),
        "imagePullSecrets:".to_owned(),
    ] {
        assert!(rendered.contains(&text), "{text}");
    }
}
