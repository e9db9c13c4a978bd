//! A range of pages as a message of the pipeline's internal topic.
//!
//! Its value, key and headers are those of the task that it is a part of, so that a dead letter
//! can be written from any range, byte for byte. What the range is stands in headers of its own.

use std::str::FromStr;

use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::document::Origin;
use crate::runtime::failure::{Failure, Stage};

/// All headers that describe a range begin so.
const PREFIX: &str = "layra-range-";

/// Pages of one document, to be worked on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The document's round, as the ledger has it.
    pub round: String,
    /// The first page, from 0.
    pub first: u32,
    /// How many pages.
    pub count: u32,
    /// Where the task lies.
    pub origin: Origin,
    /// When the task was written, in milliseconds since 1970.
    pub at: i64,
}

impl Range {
    /// The task's own headers and the range's.
    #[must_use]
    pub fn headers(&self, task: Option<&OwnedHeaders>) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new();
        for header in task.into_iter().flat_map(Headers::iter) {
            headers = headers.insert(header);
        }
        for (name, value) in [
            ("round", self.round.clone()),
            ("first", self.first.to_string()),
            ("count", self.count.to_string()),
            ("topic", self.origin.topic.clone()),
            ("partition", self.origin.partition.to_string()),
            ("offset", self.origin.offset.to_string()),
            ("at", self.at.to_string()),
        ] {
            let key = &format!("{PREFIX}{name}");
            headers = headers.insert(Header {
                key,
                value: Some(&value),
            });
        }
        headers
    }

    /// Reads a range from a message's headers.
    pub fn from_headers(headers: Option<&OwnedHeaders>) -> Result<Self, Failure> {
        Ok(Self {
            round: value(headers, "round")?,
            first: value(headers, "first")?,
            count: value(headers, "count")?,
            origin: Origin {
                topic: value(headers, "topic")?,
                partition: value(headers, "partition")?,
                offset: value(headers, "offset")?,
            },
            at: value(headers, "at")?,
        })
    }
}

/// Whether a header belongs to a range and not to the task.
#[must_use]
pub fn is_range_header(key: &str) -> bool {
    key.starts_with(PREFIX)
}

fn value<T: FromStr>(headers: Option<&OwnedHeaders>, name: &str) -> Result<T, Failure> {
    let key = format!("{PREFIX}{name}");
    headers
        .into_iter()
        .flat_map(Headers::iter)
        .find(|header| header.key == key)
        .and_then(|header| std::str::from_utf8(header.value?).ok()?.parse().ok())
        .ok_or_else(|| {
            let message = format!("header `{key}` is missing or unreadable");
            Failure::permanent(Stage::Intake, "InvalidRange", message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        Range {
            round: "r".into(),
            first: 64,
            count: 36,
            origin: Origin {
                topic: "tasks".into(),
                partition: 3,
                offset: 41,
            },
            at: 1_700_000_000_000,
        }
    }

    #[test]
    fn travels_in_headers_beside_the_tasks_own() {
        let own = OwnedHeaders::new().insert(Header {
            key: "priority",
            value: Some("1"),
        });
        let headers = range().headers(Some(&own));
        assert_eq!(Range::from_headers(Some(&headers)), Ok(range()));
        let names: Vec<&str> = headers.iter().map(|header| header.key).collect();
        assert_eq!(names[0], "priority");
        assert!(names[1..].iter().all(|name| is_range_header(name)));
    }

    #[test]
    fn names_the_header_that_is_missing() {
        let failure = Range::from_headers(Some(&OwnedHeaders::new())).unwrap_err();
        assert_eq!(failure.reason, "InvalidRange");
        assert!(failure.message.contains("layra-range-round"), "{failure}");
        assert!(Range::from_headers(None).is_err());
    }
}
