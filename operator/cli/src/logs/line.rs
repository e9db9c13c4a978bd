//! A line of a worker's log. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::style::{Colour, Style, clean};

/// A line, with the time at which the container wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) time: Timestamp,
    pub(super) pod: String,
    /// Of lines of a pod with the same time.
    pub(super) number: u64,
    pub(super) text: String,
}

/// Fields that have a place of their own, or say nothing to people.
const NOT_SHOWN: [&str; 6] = ["timestamp", "level", "message", "target", "span", "spans"];
/// Fields of the work in progress, which each line of it has.
const OF_SPANS: [&str; 2] = ["file", "first_page"];

/// Splits what the API server puts before each line.
pub(super) fn split(line: &str) -> Option<(Timestamp, &str)> {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    Some((time.parse().ok()?, text))
}

/// Whether a line is about a document: its id stands in it, and not as part of a longer id.
pub(super) fn is_about(text: &str, document: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    text.match_indices(document).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + document.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

impl Line {
    /// For people: time, worker, level, message, fields.
    pub(super) fn text(&self, style: Style) -> String {
        let time = self.time.strftime("%H:%M:%S%.3f").to_string();
        let time = style.paint(Some(Colour::Dim), &time);
        let pod = &self.pod;
        let Some(event) = self.event() else {
            return format!("{time}  {pod}  {}", clean(&self.text));
        };
        let word = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
        let level = word("level");
        let colour = match level {
            "ERROR" => Some(Colour::Red),
            "WARN" => Some(Colour::Yellow),
            "DEBUG" | "TRACE" => Some(Colour::Dim),
            _ => None,
        };
        let level = style.paint(colour, &format!("{level:<5}"));
        let mut text = format!("{time}  {pod}  {level}  {}", clean(word("message")));
        for (name, value) in fields(&event) {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&style.paint(Some(Colour::Dim), &format!("  {name}=")));
            text.push_str(&clean(&value));
        }
        text
    }

    /// For programs: the worker's JSON, with the pod.
    pub(super) fn json(&self) -> String {
        let mut event = self.event().unwrap_or_else(|| {
            let mut event = Map::new();
            event.insert("timestamp".to_owned(), json!(self.time.to_string()));
            event.insert("message".to_owned(), json!(self.text));
            event
        });
        event.insert("pod".to_owned(), json!(self.pod));
        Value::Object(event).to_string()
    }

    fn event(&self) -> Option<Map<String, Value>> {
        let event: Map<String, Value> = serde_json::from_str(&self.text).ok()?;
        event.contains_key("message").then_some(event)
    }
}

/// The fields of the event itself, then those of the work that it belongs to.
fn fields(event: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<(&String, &Value)> = event
        .iter()
        .filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str()))
        .collect();
    let spans = event.get("spans").and_then(Value::as_array);
    let spans = spans
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .rev();
    for (name, value) in spans.flatten() {
        let is_new = !fields.iter().any(|(known, _)| *known == name);
        if OF_SPANS.contains(&name.as_str()) && is_new {
            fields.push((name, value));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            time: "2026-11-28T02:13:04.5Z".parse().unwrap(),
            pod: "w-abcde".to_owned(),
            number: 0,
            text: text.to_owned(),
        }
    }

    const EVENT: &str = r#"{"timestamp":"t","level":"WARN","message":"page skipped","page":3,"target":"layra","span":{"name":"message"},"spans":[{"file":"f-1","name":"message","offset":7}]}"#;

    #[test]
    fn the_time_is_that_of_the_container() {
        let (time, text) = split("2026-11-28T02:13:04.123456789Z some words").unwrap();
        assert_eq!(
            (time.subsec_nanosecond(), text),
            (123_456_789, "some words")
        );
        assert_eq!(split("2026-11-28T02:13:04Z").unwrap().1, "");
        assert!(split("some words").is_none());
    }

    #[test]
    fn a_document_is_not_confused_with_one_whose_id_is_longer() {
        for (text, expected) in [
            (r#"{"file":"f-1"}"#, true),
            ("rejected f-1: damaged", true),
            (r#"{"file":"f-10"}"#, false),
            (r#"{"file":"af-1"}"#, false),
            (r#"{"file":"f-10","other":"f-1"}"#, true),
            ("", false),
        ] {
            assert_eq!(is_about(text, "f-1"), expected, "{text}");
        }
    }

    #[test]
    fn people_read_the_message_and_the_fields() {
        let text = line(EVENT).text(Style::default());
        assert_eq!(
            text,
            "02:13:04.500  w-abcde  WARN   page skipped  page=3  file=f-1"
        );
        let plain = line("thread panicked\x1b[2J").text(Style::default());
        assert_eq!(plain, "02:13:04.500  w-abcde  thread panicked [2J");
    }

    #[test]
    fn programs_read_what_the_worker_wrote_and_where() {
        let event: Value = serde_json::from_str(&line(EVENT).json()).unwrap();
        assert_eq!(
            (&event["pod"], &event["page"]),
            (&json!("w-abcde"), &json!(3))
        );
        let plain: Value = serde_json::from_str(&line("words").json()).unwrap();
        assert_eq!(plain["message"], "words");
        assert_eq!(plain["timestamp"], "2026-11-28T02:13:04.5Z");
    }
}
