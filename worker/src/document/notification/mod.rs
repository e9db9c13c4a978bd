//! Notifications of a bucket, as MinIO and Amazon S3 send them. No I/O.
//!
//! A notification says that an object has changed. What the object is now, the bucket says: the
//! kinds, times and sequencers of the events are not read, so they may come late, twice or in any
//! order.

use serde_json::{Map, Value, json};

use super::task::TaskError;

/// The families of events after which a key may hold another object, or none.
const CHANGES: [&str; 3] = ["ObjectCreated:", "ObjectRemoved:", "LifecycleExpiration:"];

/// A notification.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Notification {
    /// Its changes, one for each object.
    pub(crate) changes: Vec<Change>,
}

/// An object that has changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// The event, as it was sent.
    record: Value,
}

impl Change {
    /// Whether the event says that the object was removed. By now there may be one again.
    pub(crate) fn says_removed(&self) -> bool {
        let name = self.record["eventName"].as_str().unwrap_or_default();
        !name.contains("ObjectCreated:")
    }

    /// A notification of this change alone.
    pub(crate) fn to_message(&self) -> Vec<u8> {
        let records = [&self.record];
        json!({ "Records": records }).to_string().into_bytes()
    }
}

/// Reads a notification. `None`: the message is something else, for example a task that a worker
/// sends again.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Notification>, TaskError> {
    let value: Value =
        serde_json::from_slice(payload).map_err(|error| TaskError::NotJson(error.to_string()))?;
    let Value::Object(mut message) = value else {
        return Err(TaskError::NotAnObject);
    };
    match message.remove("Records") {
        Some(Value::Array(records)) => {
            let mut changes: Vec<Change> = Vec::new();
            for record in records {
                let Some(found) = change(record)? else {
                    continue;
                };
                let is_same =
                    |known: &Change| (&known.bucket, &known.key) == (&found.bucket, &found.key);
                if !changes.iter().any(is_same) {
                    changes.push(found);
                }
            }
            Ok(Some(Notification { changes }))
        }
        Some(_) => Err(wrong("Records", "an array")),
        // S3 sends it when the notifications are configured.
        None if message.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") => {
            Ok(Some(Notification::default()))
        }
        None if message.contains_key("type") || message.contains_key("file_meta") => Ok(None),
        None => Err(TaskError::Missing("Records")),
    }
}

/// Reads an event. `None`: it changes no content, for example tags.
fn change(record: Value) -> Result<Option<Change>, TaskError> {
    let Value::Object(event) = &record else {
        return Err(wrong("Records", "an array of objects"));
    };
    let name = text(event, "eventName", "Records.eventName")?;
    let name = name.strip_prefix("s3:").unwrap_or(name);
    if !CHANGES.iter().any(|family| name.starts_with(family)) {
        return Ok(None);
    }
    let s3 = object(event, "s3", "Records.s3")?;
    let bucket = object(s3, "bucket", "Records.s3.bucket")?;
    let bucket = text(bucket, "name", "Records.s3.bucket.name")?.to_owned();
    let key = object(s3, "object", "Records.s3.object")?;
    let key = text(key, "key", "Records.s3.object.key")?;
    let key = decode(key).ok_or(TaskError::Invalid {
        field: "Records.s3.object.key",
        problem: "is not the URL encoding of UTF-8 text",
    })?;
    Ok(Some(Change {
        bucket,
        key,
        record,
    }))
}

/// Decodes a key: notifications have it in the encoding of web forms.
fn decode(encoded: &str) -> Option<String> {
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn object<'a>(
    of: &'a Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<&'a Map<String, Value>, TaskError> {
    match of.get(key) {
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(wrong(field, "an object")),
        None => Err(TaskError::Missing(field)),
    }
}

fn text<'a>(
    of: &'a Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<&'a str, TaskError> {
    match of.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(Value::String(_)) => Err(TaskError::Invalid {
            field,
            problem: "is empty",
        }),
        Some(_) => Err(wrong(field, "a string")),
        None => Err(TaskError::Missing(field)),
    }
}

fn wrong(field: &'static str, expected: &'static str) -> TaskError {
    TaskError::WrongType { field, expected }
}

#[cfg(test)]
mod tests;
