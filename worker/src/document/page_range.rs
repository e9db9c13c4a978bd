//! A page range, as a message of the pipeline's internal topic.
//!
//! The message has the value and the headers of the task, so that a byte-exact dead letter can be
//! sent from any range. Further headers describe the range.

use std::str::FromStr;

use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::document::Origin;
use crate::runtime::failure::{Failure, Reason, Stage};

/// Prefix of the headers that describe a range.
const PREFIX: &str = "layra-range-";

/// A page range of a document. It is processed on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The document's round in the ledger.
    pub(crate) round: String,
    /// The first page, from 0.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Position of the task.
    pub(crate) origin: Origin,
    /// Time of the task's message, in milliseconds since 1970.
    pub(crate) at: i64,
}

impl Range {
    /// The task's own headers and those of the range.
    pub(crate) fn headers(&self, task: Option<&OwnedHeaders>) -> OwnedHeaders {
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
    pub(crate) fn from_headers(headers: Option<&OwnedHeaders>) -> Result<Self, Failure> {
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

/// Whether a header describes a range. Other headers are the task's own.
pub(crate) fn is_range_header(key: &str) -> bool {
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
            let message = format!("header `{key}` is missing or has no valid value");
            Failure::permanent(Stage::Intake, Reason::InvalidRange, message)
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
    fn headers_hold_the_range_and_those_of_the_task() {
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
    fn an_error_names_the_missing_header() {
        let failure = Range::from_headers(Some(&OwnedHeaders::new())).unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidRange);
        assert!(failure.message.contains("layra-range-round"), "{failure}");
        assert!(Range::from_headers(None).is_err());
    }
}
