//! `docs/fields.md` is the one that the definition gives.

use std::fmt::Write as _;

use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fields.md");

const HEAD: &str = "\
# Every field

Generated from the definition, as `kubectl explain ipl --recursive` knows it.
`UPDATE_CRD=1 cargo test --workspace --test fields` writes this page; a test fails when it is stale.
[full.yaml](examples/full.yaml) is an object with every default. What follows from a change of a
field: [Changing a pipeline](changing-a-pipeline.md).
";

/// Fields with a type of Kubernetes, whose own reference describes what is in them.
const OF_KUBERNETES: [&str; 2] = ["podTemplate", "resources"];

#[test]
fn the_page_of_all_fields_is_fresh() {
    let fresh = page(&definition());
    if std::env::var_os("UPDATE_CRD").is_some() {
        std::fs::write(PAGE, &fresh).expect("the page can be written");
    }
    let stored = std::fs::read_to_string(PAGE).expect("the page exists");
    assert!(
        stored == fresh,
        "docs/fields.md is stale: run `UPDATE_CRD=1 cargo test --workspace --test fields`"
    );
}

/// The schema of the object.
fn definition() -> Value {
    let yaml = layra_crds::crd_yaml().expect("the definition is YAML");
    let definition: Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn page(object: &Value) -> String {
    let mut page = HEAD.to_owned();
    let spec = &object["properties"]["spec"];
    section(&mut page, "spec", spec, false);
    for (name, part) in properties(spec) {
        if part["properties"].is_object() {
            section(&mut page, &format!("spec.{name}"), part, true);
        }
    }
    section(&mut page, "status", &object["properties"]["status"], true);
    page
}

fn section(page: &mut String, title: &str, schema: &Value, is_deep: bool) {
    let _ = write!(
        page,
        "\n## {title}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"
    );
    rows(page, "", schema, is_deep);
}

fn rows(page: &mut String, prefix: &str, schema: &Value, is_deep: bool) {
    for (name, field) in properties(schema) {
        let path = format!("{prefix}{name}");
        let is_required = list(&schema["required"]).any(|required| required == name.as_str());
        let default = if is_required {
            "required".to_owned()
        } else {
            default(&field["default"])
        };
        let meaning = field["description"].as_str().unwrap_or_default();
        let words: Vec<&str> = meaning.split_whitespace().collect();
        let meaning = words.join(" ").replace('|', "\\|");
        let _ = writeln!(
            page,
            "| `{path}` | {} | {default} | {meaning} |",
            kind(field)
        );
        if is_deep && !OF_KUBERNETES.contains(&name.as_str()) {
            rows(page, &format!("{path}."), field, true);
            rows(page, &format!("{path}[]."), &field["items"], true);
        }
    }
}

/// The type, with the values or bounds that the API server checks.
fn kind(field: &Value) -> String {
    let values: Vec<String> = list(&field["enum"])
        .filter_map(Value::as_str)
        .map(|value| format!("`{value}`"))
        .collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    let name = match field["type"].as_str() {
        Some("array") => "list",
        Some("object") if field["additionalProperties"].is_object() => "map",
        Some(name) => name,
        None => "integer or string",
    };
    let bound = |key: &str| field[key].as_f64();
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("{name}, {least} to {most}"),
        (Some(least), None) => format!("{name}, at least {least}"),
        (None, Some(most)) => format!("{name}, at most {most}"),
        (None, None) => name.to_owned(),
    }
}

/// An object has no default of its own here: its fields have theirs.
fn default(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => format!("`{text}`"),
        Value::Null | Value::Object(_) | Value::String(_) => String::new(),
        other => format!("`{other}`"),
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
