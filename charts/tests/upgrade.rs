//! The chart of the operator is upgraded from what earlier versions have installed, which `kept/` has:
//! `helm template` with default values. Kubernetes refuses changes of some fields, and Helm deletes
//! objects that are not rendered any more.

use std::collections::BTreeMap;

use layra_charts::helm;
use serde_json::{Value, json};

/// Objects by kind and name.
fn by_name(text: &str) -> BTreeMap<String, Value> {
    let objects = helm::objects(text).expect("YAML").into_iter();
    objects
        .map(|object| {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            (name, object)
        })
        .collect()
}

#[test]
fn installed_objects_keep_their_names_and_what_cannot_be_changed() {
    let now = helm::template("layra-operator", "layra-operator", "rag", &json!({})).unwrap();
    let now = by_name(&now);
    let folder = layra_charts::path("tests/kept");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let installed = by_name(&std::fs::read_to_string(&file).unwrap());
        for (name, before) in installed {
            let after = now
                .get(&name)
                .unwrap_or_else(|| panic!("{}: {name} would be deleted", file.display()));
            let fixed: &[&str] = match before["kind"].as_str() {
                Some("Deployment") => &["/apiVersion", "/spec/selector"],
                Some("RoleBinding") => &["/apiVersion", "/roleRef"],
                _ => &["/apiVersion"],
            };
            for pointer in fixed {
                let (before, after) = (before.pointer(pointer), after.pointer(pointer));
                assert!(before.is_some(), "{name} has no {pointer}");
                assert_eq!(after, before, "{}: {name} {pointer}", file.display());
            }
            count += 1;
        }
    }
    assert!(count >= 5, "{count} objects");
}

/// Objects that are stored in the cluster can be read, whichever version of the chart wrote the
/// definition.
#[test]
fn the_definition_serves_and_stores_the_version_of_all_objects() {
    let text = helm::template("layra-crds", "layra-crds", "rag", &json!({})).unwrap();
    let objects = by_name(&text);
    let name = "\"CustomResourceDefinition\" \"ingestionpipelines.ingest.layra.io\"";
    let versions = objects[name]["spec"]["versions"].as_array().unwrap();
    let stored: Vec<_> = versions
        .iter()
        .filter(|version| version["served"] == true && version["storage"] == true)
        .map(|version| &version["name"])
        .collect();
    assert_eq!(stored, ["v1alpha1"]);
}
