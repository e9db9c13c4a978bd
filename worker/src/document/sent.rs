//! When a document was requested. No I/O.
//!
//! A worker that sends a task again names the request that it repeats, in headers. The message's own
//! position and time are those of the repetition, and the file may have been deleted in between.

use mongodb::bson::DateTime;
use rdkafka::message::OwnedHeaders;

use crate::document::Origin;
use crate::document::headers::{self, task_headers};
use crate::runtime::failure::{Failure, Reason, Stage};

const ORIGIN: &str = "layra-request-origin";
/// Milliseconds since 1970.
const AT: &str = "layra-request-at";

/// The last millisecond of the year 9999. The ledger does not hold later times exactly.
const LAST: i64 = 253_402_300_799_999;

/// The time of a message, in milliseconds since 1970. Nothing checks what a sender writes.
pub(crate) fn from_millis(milliseconds: i64) -> DateTime {
    DateTime::from_millis(milliseconds.clamp(0, LAST))
}

/// A request for a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The message, `topic/partition/offset`, or the command that it came with.
    pub(crate) origin: String,
    /// The time of the message or command.
    pub(crate) at: DateTime,
}

impl Sent {
    /// Reads the request of a task from its message, which may repeat an earlier one. A message
    /// with a header twice describes two requests, so it is refused.
    pub(crate) fn of_message(
        headers: Option<&OwnedHeaders>,
        position: &Origin,
        written_at: DateTime,
    ) -> Result<Self, Failure> {
        let invalid = |problem| Failure::permanent(Stage::Intake, Reason::InvalidTask, problem);
        let origin = headers::value(headers, ORIGIN).map_err(invalid)?;
        let at = headers::value(headers, AT).map_err(invalid)?;
        Ok(Self {
            origin: origin.unwrap_or_else(|| position.to_string()),
            at: at.map_or(written_at, from_millis),
        })
    }

    /// The headers of a message that repeats this request: the task's own, and those of the
    /// request. `message` has the headers of the task or of one of its page ranges.
    pub(crate) fn headers(&self, message: Option<&OwnedHeaders>) -> OwnedHeaders {
        let headers = headers::with(task_headers(message), ORIGIN, &self.origin);
        headers::with(headers, AT, &self.at.timestamp_millis().to_string())
    }

    /// The position of the request's message. `None`: it came with a command.
    pub(crate) fn position(&self) -> Option<Origin> {
        Origin::parse(&self.origin)
    }

    /// Whether the request was made after another one: by their offsets in the same partition,
    /// otherwise by their times.
    pub(crate) fn is_after(&self, other: &Self) -> bool {
        match (self.position(), other.position()) {
            (Some(own), Some(other))
                if (&own.topic, own.partition) == (&other.topic, other.partition) =>
            {
                own.offset > other.offset
            }
            _ => self.at > other.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rdkafka::message::{Header, Headers};

    use super::*;
    use crate::document::page_range::Range;

    fn at(partition: i32, offset: i64) -> Origin {
        Origin {
            topic: "tasks".into(),
            partition,
            offset,
        }
    }

    fn sent(partition: i32, offset: i64, ms: i64) -> Sent {
        Sent {
            origin: at(partition, offset).to_string(),
            at: DateTime::from_millis(ms),
        }
    }

    fn read(headers: &OwnedHeaders) -> Result<Sent, Failure> {
        Sent::of_message(Some(headers), &at(9, 99), DateTime::from_millis(999))
    }

    #[test]
    fn a_message_is_a_request_of_its_own_unless_it_repeats_one() {
        assert_eq!(read(&OwnedHeaders::new()), Ok(sent(9, 99, 999)));
        let repeated = sent(1, 7, 500).headers(None);
        assert_eq!(read(&repeated), Ok(sent(1, 7, 500)));
        let command = Sent {
            origin: "tasks/ingest/u_f/a-call".into(),
            ..sent(1, 7, 500)
        };
        assert_eq!(read(&command.headers(None)), Ok(command.clone()));
        assert_eq!(command.position(), None);
    }

    #[test]
    fn an_absurd_time_is_the_nearest_that_the_ledger_holds() {
        for (written, ms) in [(i64::MIN, 0), (-1, 0), (7, 7), (i64::MAX, LAST)] {
            let headers = headers::with(OwnedHeaders::new(), AT, &written.to_string());
            assert_eq!(read(&headers).unwrap().at.timestamp_millis(), ms);
            let stored = mongodb::bson::doc! { "at": from_millis(ms) };
            let bytes = stored.to_vec().unwrap();
            let again = mongodb::bson::Document::from_reader(bytes.as_slice()).unwrap();
            assert_eq!(again.get_datetime("at").unwrap().timestamp_millis(), ms);
        }
    }

    #[test]
    fn a_message_that_repeats_two_requests_is_refused() {
        for name in [ORIGIN, AT] {
            let twice = headers::with(sent(1, 7, 500).headers(None), name, "8");
            let failure = read(&twice).unwrap_err();
            assert!(failure.rejects_document(), "{failure}");
            assert_eq!(failure.reason, Reason::InvalidTask);
            assert!(failure.message.contains("more than once"), "{failure}");
            assert!(failure.message.contains(name), "{failure}");
        }
        let words = headers::with(OwnedHeaders::new(), AT, "yesterday");
        let failure = read(&words).unwrap_err();
        assert!(failure.message.contains("no valid value"), "{failure}");
    }

    proptest! {
        /// However often a task is sent again, from a page range or from a repetition, it names the
        /// one request that is repeated, and keeps its own headers.
        #[test]
        fn a_repetition_of_a_repetition_names_one_request(
            (partition, offset, ms) in (0..9_i32, any::<i64>(), 0..4_000_000_000_000_i64),
            own in proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,12}"), 0..4),
            with_range in any::<bool>(),
        ) {
            let task = own.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let mut headers = sent(1, 7, 500).headers(Some(&task));
            if with_range {
                let origin = at(1, 7);
                let range = Range { round: "r".into(), first: 0, count: 1, origin, at: 500 };
                headers = range.headers(Some(&headers));
                prop_assert_eq!(read(&headers), Ok(sent(9, 99, 999)), "a range has its own");
            }
            let later = sent(partition, offset, ms);
            let headers = later.headers(Some(&headers));
            prop_assert_eq!(read(&headers), Ok(later));
            prop_assert_eq!(headers.count(), own.len() + 2);
            prop_assert_eq!(task_headers(Some(&headers)).count(), own.len());
        }

        /// Of two different messages of a partition one is the later, whatever their times. An
        /// order by time alone does not have that.
        #[test]
        fn messages_of_a_partition_are_in_the_order_of_their_offsets(
            (first, second) in (any::<i64>(), any::<i64>()),
            (one, other) in (any::<i64>(), any::<i64>()),
        ) {
            let (a, b) = (sent(1, first, one), sent(1, second, other));
            prop_assert_eq!(a.is_after(&b), first > second);
            prop_assert_eq!(b.is_after(&a), first < second);
            let elsewhere = sent(2, second, other);
            prop_assert_eq!(a.is_after(&elsewhere), one > other);
        }

        #[test]
        fn a_position_is_read_as_it_was_written(
            topic in "[a-zA-Z0-9._-]{1,20}", partition in any::<i32>(), offset in any::<i64>(),
        ) {
            let position = Origin { topic, partition, offset };
            prop_assert_eq!(Origin::parse(&position.to_string()), Some(position));
        }
    }
}
