//! The headers of messages that are made from other messages: page ranges, dead letters, and tasks
//! that are sent again. No I/O.

use std::str::FromStr;

use rdkafka::message::{Header, Headers, OwnedHeaders};

/// Prefix of the headers that describe a page range.
pub(crate) const RANGE_PREFIX: &str = "layra-range-";
/// Prefix of the headers that describe the request that a task repeats.
pub(crate) const REQUEST_PREFIX: &str = "layra-request-";
/// Prefix of the headers that describe a failure.
pub(crate) const FAILURE_PREFIX: &str = "layra-error-";
/// The number of dead letters that the task had so far. It stays with the task.
pub(crate) const ATTEMPTS: &str = "layra-error-attempts";

/// A task's own headers: those of its sender, and the number of attempts. `message` has the headers
/// of the task, of one of its page ranges, or of its dead letter. Each sender starts from these and
/// adds its own, so that no message describes two ranges, two requests or two failures.
pub(crate) fn task_headers(message: Option<&OwnedHeaders>) -> OwnedHeaders {
    let added = [RANGE_PREFIX, REQUEST_PREFIX, FAILURE_PREFIX];
    let is_own = |key: &str| key == ATTEMPTS || !added.iter().any(|prefix| key.starts_with(prefix));
    message
        .into_iter()
        .flat_map(Headers::iter)
        .filter(|header| is_own(header.key))
        .fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

/// Adds a header.
pub(crate) fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    let value = Some(value);
    headers.insert(Header { key, value })
}

/// The value of a header. `None`: it is missing. An error is a sentence about the header, which is
/// present more than once or has another kind of value.
pub(crate) fn value<T: FromStr>(
    headers: Option<&OwnedHeaders>,
    key: &str,
) -> Result<Option<T>, String> {
    let mut found = headers
        .into_iter()
        .flat_map(Headers::iter)
        .filter(|header| header.key == key);
    let Some(header) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(format!("header `{key}` is present more than once"));
    }
    let text = header
        .value
        .and_then(|value| std::str::from_utf8(value).ok());
    match text.and_then(|text| text.parse().ok()) {
        Some(value) => Ok(Some(value)),
        None => Err(format!("header `{key}` has no valid value")),
    }
}
