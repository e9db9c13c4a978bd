//! The headers of messages that are made from other messages: page ranges, dead letters, and tasks
//! that are sent again. No I/O.

use rdkafka::message::{Headers, OwnedHeaders};

/// Prefix of the headers that describe a page range.
pub(crate) const RANGE_PREFIX: &str = "layra-range-";
/// Prefix of the headers that describe a failure.
pub(crate) const FAILURE_PREFIX: &str = "layra-error-";
/// The number of dead letters that the task had so far. It stays with the task.
pub(crate) const ATTEMPTS: &str = "layra-error-attempts";

/// A task's own headers: those of its sender, and the number of attempts. `message` has the headers
/// of the task, of one of its page ranges, or of its dead letter. Each sender starts from these and
/// adds its own, so that no message describes two ranges or two failures.
pub(crate) fn task_headers(message: Option<&OwnedHeaders>) -> OwnedHeaders {
    let is_own = |key: &str| {
        key == ATTEMPTS || !(key.starts_with(RANGE_PREFIX) || key.starts_with(FAILURE_PREFIX))
    };
    message
        .into_iter()
        .flat_map(Headers::iter)
        .filter(|header| is_own(header.key))
        .fold(OwnedHeaders::new(), OwnedHeaders::insert)
}
