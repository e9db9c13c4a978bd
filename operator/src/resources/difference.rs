//! Whether an object in the cluster still matches what the operator applied, and where not. Pure.
//!
//! The API server adds defaults, other writers own other fields, and quantities are normalized.
//! Therefore only fields of the wanted object are compared.

use std::fmt;

use serde_json::{Map, Value};

/// A value longer than this is not shown.
const LONGEST_SHOWN: usize = 120;

/// A field of the wanted object with another value in the live one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    path: Vec<Step>,
    wanted: Value,
    /// `None`: it is absent.
    live: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Index in the wanted list.
    Entry(usize),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.path.iter().enumerate() {
            match step {
                Step::Field(name) if index == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Entry(index) => write!(f, "[{index}]")?,
            }
        }
        let shown = |value: &Value| {
            let text = value.to_string();
            (text.len() <= LONGEST_SHOWN).then_some(text)
        };
        match (shown(&self.wanted), self.live.as_ref().map(shown)) {
            (_, None) => f.write_str(" is absent"),
            (Some(wanted), Some(Some(live))) => write!(f, " is {live}, not {wanted}"),
            (_, Some(_)) => f.write_str(" has another value"),
        }
    }
}

/// The fields of `wanted` that [`is_applied`] does not find in `live`.
pub(crate) fn differences(wanted: &Value, live: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    collect(&mut Vec::new(), wanted, Some(live), &mut found);
    found
}

fn collect(
    path: &mut Vec<Step>,
    wanted: &Value,
    live: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    match (wanted, live) {
        (Value::Object(wanted), Some(Value::Object(live))) => {
            for (key, value) in wanted {
                path.push(Step::Field(key.clone()));
                collect(path, value, live.get(key), found);
                path.pop();
            }
        }
        (Value::Array(wanted), Some(Value::Array(live))) if wanted.iter().all(Value::is_object) => {
            for (index, entry) in wanted.iter().enumerate() {
                if live.iter().any(|other| is_applied(entry, other)) {
                    continue;
                }
                path.push(Step::Entry(index));
                collect(path, entry, counterpart(entry, index, live), found);
                path.pop();
            }
        }
        (wanted, live) => {
            if !live.map_or_else(|| is_empty(wanted), |live| is_applied(wanted, live)) {
                found.push(Difference {
                    path: path.clone(),
                    wanted: wanted.clone(),
                    live: live.cloned(),
                });
            }
        }
    }
}

/// The entry of the live list that has the same name, or else the same position.
fn counterpart<'a>(entry: &Value, index: usize, live: &'a [Value]) -> Option<&'a Value> {
    match entry.get("name") {
        Some(name) => live.iter().find(|other| other.get("name") == Some(name)),
        None => live.get(index),
    }
}

/// The wanted object with the live values of these differences, as far as it still wants the same.
pub(crate) fn with_differences(mut wanted: Value, differences: &[Difference]) -> Value {
    // From the end, so that a removed entry of a list moves none that is still to be changed.
    for difference in differences.iter().rev() {
        set(&mut wanted, &difference.path, difference);
    }
    wanted
}

fn set(value: &mut Value, path: &[Step], difference: &Difference) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    let child = match (step, &mut *value) {
        (Step::Field(name), Value::Object(map)) => map.get_mut(name),
        (Step::Entry(index), Value::Array(list)) => list.get_mut(*index),
        _ => None,
    };
    let Some(child) = child else {
        return;
    };
    if !rest.is_empty() {
        return set(child, rest, difference);
    }
    if *child != difference.wanted {
        return;
    }
    match (&difference.live, step, value) {
        (Some(live), Step::Field(name), value) => value[name] = live.clone(),
        (Some(live), Step::Entry(index), value) => value[*index] = live.clone(),
        (None, Step::Field(name), Value::Object(map)) => drop(map.remove(name)),
        (None, Step::Entry(index), Value::Array(list)) => drop(list.remove(*index)),
        (None, _, _) => {}
    }
}

/// Whether `live` contains every field of `wanted` with an equal value.
pub(crate) fn is_applied(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => contains(wanted, live),
        (Value::Array(wanted), Value::Array(live)) => {
            if wanted.iter().all(Value::is_object) {
                // The list may have entries of other writers, too.
                wanted
                    .iter()
                    .all(|entry| live.iter().any(|other| is_applied(entry, other)))
            } else {
                wanted == live
            }
        }
        (Value::String(wanted), Value::String(live)) => {
            wanted == live || same_quantity(wanted, live)
        }
        _ => wanted == live,
    }
}

fn contains(wanted: &Map<String, Value>, live: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, value)| match live.get(key) {
        Some(found) => is_applied(value, found),
        // The API server omits empty values.
        None => is_empty(value),
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

fn same_quantity(wanted: &str, live: &str) -> bool {
    match (quantity(wanted), quantity(live)) {
        (Some(wanted), Some(live)) => (wanted - live).abs() <= wanted.abs() * 1e-12,
        _ => false,
    }
}

/// The value of a Kubernetes quantity: `1500m` equals `1.5`, `1Gi` equals `1073741824`.
fn quantity(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_added_by_the_api_server_are_ignored() {
        let wanted = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
        let live = json!({"spec": {"dnsPolicy": "ClusterFirst",
            "containers": [{"name": "a", "image": "i", "terminationMessagePath": "/dev/log"}]}});
        assert!(is_applied(&wanted, &live));
    }

    #[test]
    fn a_changed_field_is_a_difference() {
        let wanted = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
        let live = json!({"spec": {"containers": [{"name": "a", "image": "other"}]}});
        assert!(!is_applied(&wanted, &live));
    }

    #[test]
    fn list_entries_of_other_writers_are_ignored() {
        let wanted = json!([{"name": "a"}]);
        assert!(is_applied(
            &wanted,
            &json!([{"name": "sidecar"}, {"name": "a"}])
        ));
        assert!(!is_applied(&wanted, &json!([{"name": "sidecar"}])));
    }

    #[test]
    fn lists_of_strings_must_be_equal() {
        assert!(!is_applied(&json!(["run"]), &json!(["run", "--debug"])));
    }

    #[test]
    fn equal_quantities_may_be_written_differently() {
        for (wanted, live) in [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1500000k", "1500M"),
        ] {
            assert!(is_applied(&json!(wanted), &json!(live)), "{wanted} {live}");
        }
        assert!(!is_applied(&json!("1"), &json!("2")));
        assert!(!is_applied(&json!("image:1"), &json!("image:2")));
    }

    #[test]
    fn the_changes_of_another_writer_are_named_and_can_be_expected() {
        let wanted = json!({"spec": {"replicas": 2, "containers": [
            {"name": "worker", "image": "worker:1", "env": [{"name": "A", "value": "1"}]},
            {"name": "helper", "image": "helper:1"}]}});
        let live = json!({"spec": {"replicas": 2, "containers": [
            {"name": "sidecar"},
            {"name": "worker", "image": "registry/worker:1", "env": []}]}});
        let found = differences(&wanted, &live);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "spec.containers[0].env[0] is absent",
                r#"spec.containers[0].image is "registry/worker:1", not "worker:1""#,
                "spec.containers[1] is absent",
            ]
        );
        assert!(is_applied(&with_differences(wanted.clone(), &found), &live));

        let mut edited = wanted;
        edited["spec"]["containers"][0]["image"] = json!("worker:2");
        let expected = with_differences(edited, &found);
        assert!(
            !is_applied(&expected, &live),
            "the new image is still wanted"
        );
    }

    #[test]
    fn an_applied_object_has_no_differences() {
        let wanted = json!({"a": {"b": ["x"], "c": [], "d": [{"cpu": "1000m"}]}});
        let live = json!({"a": {"b": ["x"], "d": [{"cpu": "1"}, {"cpu": "2"}]}, "e": 1});
        assert!(is_applied(&wanted, &live));
        assert_eq!(differences(&wanted, &live), []);
    }

    #[test]
    fn empty_values_may_be_omitted() {
        let wanted = json!({"a": {}, "b": [], "c": null, "d": "", "e": false, "f": {"g": null}});
        assert!(is_applied(&wanted, &json!({})));
        assert!(!is_applied(&json!({"a": 1}), &json!({})));
    }
}
