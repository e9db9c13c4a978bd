//! Whether an object in the cluster still matches what the operator applied. Pure.
//!
//! The API server adds defaults, other writers own other fields, and quantities are normalized.
//! Therefore only fields of the wanted object are compared.

use serde_json::{Map, Value};

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
    fn empty_values_may_be_omitted() {
        let wanted = json!({"a": {}, "b": [], "c": null, "d": "", "e": false, "f": {"g": null}});
        assert!(is_applied(&wanted, &json!({})));
        assert!(!is_applied(&json!({"a": 1}), &json!({})));
    }
}
