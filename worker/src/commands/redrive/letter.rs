//! What a dead letter says about itself. No I/O.

use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;

use crate::document::task::{self, Message};
use crate::kafka::outbox::failure_header;

/// A dead letter, as far as people and the choice need it.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) file_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) reason: String,
    pub(super) message: String,
    /// Whether this pipeline has sent it.
    pub(super) is_own: bool,
    /// Whether it holds the task.
    pub(super) is_complete: bool,
}

impl std::fmt::Display for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file_id.as_deref().unwrap_or("(no file)");
        let name = self.name.as_deref().unwrap_or_default();
        write!(f, "{file}  {name}  {}: {}", self.reason, self.message)
    }
}

impl Letter {
    /// Reads a message of the dead-letter topic. `own_topics` are those of the pipeline's tasks and
    /// page ranges: a message of either may have been rejected.
    pub(super) fn read(message: &OwnedMessage, own_topics: &[String; 2]) -> Self {
        let header = |name| failure_header(message, name);
        let text = |name| header(name).unwrap_or_default().to_owned();
        let payload = message.payload();
        let parsed = match task::parse(payload.unwrap_or_default()) {
            Ok(Message::Task(task)) => Some(task),
            _ => None,
        };
        Self {
            file_id: parsed.as_ref().map(|task| task.file.file_id.clone()),
            name: parsed.map(|task| task.file.name),
            reason: text("reason"),
            message: text("message"),
            is_own: header("origin-topic")
                .is_some_and(|origin| own_topics.iter().any(|topic| topic == origin)),
            is_complete: header("payload").is_none() && payload.is_some(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    pub(in crate::commands::redrive) const TASK: &str = r#"{"task_id": "t", "username": "u", "knowledge_db_id": "u_kb",
        "file_meta": {"file_id": "f", "minio_filename": "k", "original_filename": "a.pdf"}}"#;

    pub(in crate::commands::redrive) fn message(
        payload: Option<&str>,
        offset: i64,
        headers: &[(&str, &str)],
    ) -> OwnedMessage {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
        let payload = payload.map(|text| text.as_bytes().to_vec());
        let time = Timestamp::CreateTime(offset);
        OwnedMessage::new(payload, None, "dead".into(), time, 0, offset, Some(headers))
    }

    pub(in crate::commands::redrive) fn letter(file_id: Option<&str>, reason: &str) -> Letter {
        Letter {
            file_id: file_id.map(str::to_owned),
            name: None,
            reason: reason.to_owned(),
            message: String::new(),
            is_own: true,
            is_complete: true,
        }
    }

    #[test]
    fn dead_letters_of_other_pipelines_and_without_their_task_are_recognised() {
        let topics = ["tasks".to_owned(), "own.ranges".to_owned()];
        let own = ("layra-error-origin-topic", "tasks");
        let letter = Letter::read(&message(Some(TASK), 1, &[own]), &topics);
        assert!(letter.is_own && letter.is_complete);
        assert_eq!(letter.file_id.as_deref(), Some("f"));
        let other = ("layra-error-origin-topic", "tasks-2");
        let of_range = ("layra-error-origin-topic", "own.ranges");
        assert!(Letter::read(&message(Some(TASK), 1, &[of_range]), &topics).is_own);
        let others_range = ("layra-error-origin-topic", "tasks.ranges");
        assert!(!Letter::read(&message(Some(TASK), 1, &[others_range]), &topics).is_own);
        assert!(!Letter::read(&message(Some(TASK), 1, &[other]), &topics).is_own);
        assert!(!Letter::read(&message(Some(TASK), 1, &[]), &topics).is_own);
        let left_out = ("layra-error-payload", "left out");
        assert!(!Letter::read(&message(None, 1, &[own, left_out]), &topics).is_complete);
        assert!(!Letter::read(&message(None, 1, &[own]), &topics).is_complete);
    }
}
