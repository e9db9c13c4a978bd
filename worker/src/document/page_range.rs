//! A page range, as a message of the pipeline's internal topic.
//!
//! The message has the value, the key and the [headers](super::headers) of the task, so that a
//! byte-exact dead letter can be sent from any range. Further headers describe the range.

use std::str::FromStr;

use rdkafka::message::OwnedHeaders;

use crate::document::Origin;
use crate::document::headers::{self, RANGE_PREFIX as PREFIX, task_headers};
use crate::runtime::failure::{Failure, Reason, Stage};

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
    /// The task's own headers and those of the range. `message` has the headers of the task or of
    /// any of its ranges: a document can be split again from a range of an earlier round.
    pub(crate) fn headers(&self, message: Option<&OwnedHeaders>) -> OwnedHeaders {
        let mut headers = task_headers(message);
        for (name, value) in [
            ("round", self.round.clone()),
            ("first", self.first.to_string()),
            ("count", self.count.to_string()),
            ("topic", self.origin.topic.clone()),
            ("partition", self.origin.partition.to_string()),
            ("offset", self.origin.offset.to_string()),
            ("at", self.at.to_string()),
        ] {
            headers = headers::with(headers, &format!("{PREFIX}{name}"), &value);
        }
        headers
    }

    /// Reads a range from a message's headers. A message with a header twice describes two ranges,
    /// so it is refused.
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

/// The length of the ranges of a document with `pages` pages, if none may have more than `longest`:
/// as few ranges as possible, of nearly the same length. Only the last one may be shorter.
pub(crate) fn even_length(pages: u32, longest: u32) -> u32 {
    let ranges = pages.div_ceil(longest.max(1)).max(1);
    pages.div_ceil(ranges)
}

fn value<T: FromStr>(headers: Option<&OwnedHeaders>, name: &str) -> Result<T, Failure> {
    let key = format!("{PREFIX}{name}");
    headers::value(headers, &key)
        .and_then(|found| found.ok_or_else(|| format!("header `{key}` is missing")))
        .map_err(|problem| Failure::permanent(Stage::Intake, Reason::InvalidRange, problem))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rdkafka::message::{Header, Headers};

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
    fn a_document_one_page_too_long_is_cut_in_halves() {
        assert_eq!(even_length(65, 64), 33);
        assert_eq!(even_length(130, 64), 44);
        assert_eq!(even_length(128, 64), 64);
        assert_eq!(even_length(2000, 64), 63);
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
        assert!(names[1..].iter().all(|name| name.starts_with(PREFIX)));
    }

    fn any_range() -> impl Strategy<Value = Range> {
        (
            ("[a-z0-9-]{1,36}", 0..10_000_u32, 1..500_u32),
            ("[a-z.]{1,20}", 0..100_i32, 0..i64::MAX, any::<i64>()),
        )
            .prop_map(|((round, first, count), (topic, partition, offset, at))| {
                let origin = Origin {
                    topic,
                    partition,
                    offset,
                };
                Range {
                    round,
                    first,
                    count,
                    origin,
                    at,
                }
            })
    }

    proptest! {
        /// No more ranges than needed, and every range but the last is full.
        #[test]
        fn ranges_are_as_few_as_possible(pages in 1_u32..5000, longest in 1_u32..300) {
            let length = even_length(pages, longest);
            prop_assert!(length <= longest);
            prop_assert!(pages.div_ceil(length) <= pages.div_ceil(longest));
        }

        /// A split that starts from a range of an earlier round describes the new range alone.
        #[test]
        fn a_range_of_a_range_is_read_as_it_was_written(
            earlier in any_range(),
            later in any_range(),
            own in proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,12}"), 0..4),
        ) {
            let task = own.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let headers = later.headers(Some(&earlier.headers(Some(&task))));
            prop_assert_eq!(Range::from_headers(Some(&headers)), Ok(later.clone()));
            let from_task = later.headers(Some(&task));
            let texts = |headers: &OwnedHeaders| -> Vec<(String, Vec<u8>)> {
                let pair = |header: Header<'_, &[u8]>| {
                    (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
                };
                headers.iter().map(pair).collect()
            };
            prop_assert_eq!(texts(&headers), texts(&from_task), "the task's own headers remain");
        }
    }

    #[test]
    fn a_message_with_two_sets_of_range_headers_is_refused() {
        let twice = range().headers(None).insert(Header {
            key: "layra-range-round",
            value: Some("another"),
        });
        let failure = Range::from_headers(Some(&twice)).unwrap_err();
        assert!(failure.rejects_document(), "{failure}");
        assert_eq!(failure.reason, Reason::InvalidRange);
        assert!(failure.message.contains("more than once"), "{failure}");
    }

    #[test]
    fn an_error_names_the_missing_header() {
        let failure = Range::from_headers(Some(&OwnedHeaders::new())).unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidRange);
        assert!(failure.message.contains("layra-range-round"), "{failure}");
        assert!(Range::from_headers(None).is_err());
    }
}
