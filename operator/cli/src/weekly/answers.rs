//! The answer of a command in its log. Pure.

use serde_json::Value;

/// The first array or object that is no event of the log.
pub(super) fn json_in(log: &str) -> Option<Value> {
    let mut start = 0;
    for line in log.split_inclusive('\n') {
        let rest = &log[start..];
        start += line.len();
        if !line.starts_with(['{', '[']) {
            continue;
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            let is_event = value.get("level").is_some() && value.get("message").is_some();
            if !is_event {
                return Some(value);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_found_among_the_lines_of_the_log() {
        let event = r#"{"timestamp":"t","level":"WARN","message":"words"}"#;
        let log = format!("words\n{event}\n{{\n  \"left\": 2\n}}\n{event}\n");
        assert_eq!(json_in(&log), Some(json!({"left": 2})));
        assert_eq!(json_in("[]\n"), Some(json!([])));
        assert_eq!(json_in(event), None);
        assert_eq!(json_in("{\n"), None);
    }
}
