//! LAYRA's task message. It is validated here, and trusted everywhere else.
//!
//! No I/O: a URL in a message is only passed on as text.

use serde_json::{Map, Value};

use crate::document::ids;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::milvus::TEXT_LENGTH;

/// Longest key of an S3 object, in bytes.
const LONGEST_KEY: usize = 1024;
/// Longest id of a knowledge base, in bytes. Milvus' limit for the name of a collection leaves room
/// for what a pipeline adds to it.
const LONGEST_KNOWLEDGE_BASE: usize = 200;
/// Fields of a file's entry in tasks that workers send of the objects of a bucket.
const OBJECT: &str = "object";
const VERSION: &str = "object_version";

/// A message of the pipeline's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A document to ingest.
    Task(Task),
    /// A file or a knowledge base to delete: `type` is `delete_file` or `delete_knowledge_base`.
    Delete(Deletion),
    /// A foreign message: a JSON object with another `type`.
    Foreign,
}

/// What to delete from all stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    File {
        file_id: String,
        knowledge_base: String,
    },
    /// A knowledge base with all its files.
    KnowledgeBase(String),
}

/// A document to ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names are LAYRA's")]
pub(crate) struct Task {
    /// Identifies the progress display in Redis.
    pub(crate) task_id: String,
    /// Owner of the knowledge base.
    pub(crate) username: String,
    /// `knowledge_db_id`: letters, digits, `_` and `-`.
    pub(crate) knowledge_base: String,
    pub(crate) file: FileMeta,
}

/// A document in the object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileMeta {
    /// Identifies the document in all stores.
    pub(crate) file_id: String,
    /// Key of the original in the bucket (`minio_filename`).
    pub(crate) key: String,
    /// The name of the uploaded file (`original_filename`).
    pub(crate) name: String,
    /// A link for browsers (`minio_url`). It is stored and never followed.
    pub(crate) url: Option<String>,
    /// The version of the object that is the document. `None`: the key has one document for ever.
    pub(crate) version: Option<ObjectVersion>,
}

/// The content of an object of a bucket at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectVersion {
    /// The object, `bucket/key`.
    pub(crate) object: String,
    /// The entity tag of its content.
    pub(crate) version: String,
}

/// Why a message is not a valid task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("the message is not JSON: {0}")]
    NotJson(String),
    #[error("the message is JSON, but not an object")]
    NotAnObject,
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    #[error("field `{field}` must be {expected}")]
    WrongType {
        field: &'static str,
        expected: &'static str,
    },
    #[error("field `{field}` {problem}")]
    Invalid {
        field: &'static str,
        problem: &'static str,
    },
}

impl TaskError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::NotJson(_) => Reason::NotJson,
            _ => Reason::InvalidTask,
        }
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        Self::permanent(Stage::Intake, error.reason(), error)
    }
}

/// Parses and validates the value of a message.
pub(crate) fn parse(payload: &[u8]) -> Result<Message, TaskError> {
    let value: Value =
        serde_json::from_slice(payload).map_err(|error| TaskError::NotJson(error.to_string()))?;
    let Value::Object(message) = value else {
        return Err(TaskError::NotAnObject);
    };
    match message.get("type") {
        None => {}
        Some(Value::String(kind)) if kind == "delete_file" => {
            return Ok(Message::Delete(Deletion::File {
                file_id: text(&message, "file_id", "file_id")?,
                knowledge_base: knowledge_base(&message)?,
            }));
        }
        Some(Value::String(kind)) if kind == "delete_knowledge_base" => {
            let knowledge_base = knowledge_base(&message)?;
            return Ok(Message::Delete(Deletion::KnowledgeBase(knowledge_base)));
        }
        Some(_) => return Ok(Message::Foreign),
    }
    let file = match message.get("file_meta") {
        Some(Value::Object(file)) => file,
        Some(_) => {
            return Err(TaskError::WrongType {
                field: "file_meta",
                expected: "an object",
            });
        }
        None => return Err(TaskError::Missing("file_meta")),
    };
    let task = Task {
        task_id: text(&message, "task_id", "task_id")?,
        username: text(&message, "username", "username")?,
        knowledge_base: text(&message, "knowledge_db_id", "knowledge_db_id")?,
        file: FileMeta {
            file_id: text(file, "file_id", "file_meta.file_id")?,
            key: text(file, "minio_filename", "file_meta.minio_filename")?,
            name: text(file, "original_filename", "file_meta.original_filename")?,
            url: match file.get("minio_url") {
                None | Some(Value::Null) => None,
                // Nothing depends on the link.
                Some(Value::String(url)) if url.is_empty() => None,
                Some(_) => Some(text(file, "minio_url", "file_meta.minio_url")?),
            },
            version: object_version(file)?,
        },
    };
    task.check()?;
    Ok(Message::Task(task))
}

/// The ids of the task and, if there is one, of the file of a message that is not a valid task. The
/// progress display then shows its failure.
pub(crate) fn progress_ids(payload: &[u8]) -> Option<(String, Option<String>)> {
    let message: Value = serde_json::from_slice(payload).ok()?;
    let text = |value: Option<&Value>| value?.as_str().map(str::to_owned);
    let file = message.get("file_meta");
    let file_id = text(file.and_then(|file| file.get("file_id")));
    Some((text(message.get("task_id"))?, file_id))
}

impl Task {
    /// The message that LAYRA would send for this task. A task of a bucket has two more fields.
    pub(crate) fn to_message(&self) -> Vec<u8> {
        let file = &self.file;
        let mut message = serde_json::json!({
            "task_id": self.task_id,
            "username": self.username,
            "knowledge_db_id": self.knowledge_base,
            "file_meta": {
                "file_id": file.file_id,
                "minio_filename": file.key,
                "original_filename": file.name,
                "minio_url": file.url,
            },
        });
        if let Some(version) = &file.version {
            message["file_meta"][OBJECT] = version.object.as_str().into();
            message["file_meta"][VERSION] = version.version.as_str().into();
        }
        message.to_string().into_bytes()
    }

    /// Checks the limits of the stores for names.
    pub(crate) fn check(&self) -> Result<(), TaskError> {
        check_knowledge_base(&self.knowledge_base)?;
        let file = &self.file;
        check_key("file_meta.minio_filename", &file.key)?;
        // The keys of page images contain the file's name.
        let image = ids::image_key(&self.username, &file.name, &file.file_id, 0, "webp");
        check_key("file_meta.original_filename", &image)
    }
}

fn object_version(file: &Map<String, Value>) -> Result<Option<ObjectVersion>, TaskError> {
    if !file.contains_key(OBJECT) {
        return Ok(None);
    }
    Ok(Some(ObjectVersion {
        object: text(file, OBJECT, "file_meta.object")?,
        version: text(file, VERSION, "file_meta.object_version")?,
    }))
}

fn knowledge_base(message: &Map<String, Value>) -> Result<String, TaskError> {
    let id = text(message, "knowledge_db_id", "knowledge_db_id")?;
    check_knowledge_base(&id)?;
    Ok(id)
}

/// Checks Milvus' limits for the names of collections.
fn check_knowledge_base(id: &str) -> Result<(), TaskError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let problem = if !id.bytes().all(allowed) {
        "may contain only letters, digits, `_` and `-`"
    } else if id.len() > LONGEST_KNOWLEDGE_BASE {
        "is too long"
    } else {
        return Ok(());
    };
    Err(TaskError::Invalid {
        field: "knowledge_db_id",
        problem,
    })
}

/// Checks that S3 and its client can use a key exactly as it is.
fn check_key(field: &'static str, key: &str) -> Result<(), TaskError> {
    let is_exact = |segment: &str| !matches!(segment, "" | "." | "..");
    let problem = if key.len() > LONGEST_KEY {
        "is too long"
    } else if !key.split('/').all(is_exact) {
        "has a segment that is empty, `.` or `..`"
    } else {
        return Ok(());
    };
    Err(TaskError::Invalid { field, problem })
}

fn text(object: &Map<String, Value>, key: &str, field: &'static str) -> Result<String, TaskError> {
    match object.get(key) {
        None => Err(TaskError::Missing(field)),
        Some(Value::String(text)) if text.is_empty() => Err(TaskError::Invalid {
            field,
            problem: "is empty",
        }),
        // The limit of Milvus' columns, which hold the ids.
        Some(Value::String(text)) if text.len() > TEXT_LENGTH as usize => Err(TaskError::Invalid {
            field,
            problem: "is too long",
        }),
        Some(Value::String(text)) if text.contains(char::is_control) => Err(TaskError::Invalid {
            field,
            problem: "contains control characters",
        }),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(TaskError::WrongType {
            field,
            expected: "a string",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn layras() -> Value {
        json!({
            "task_id": "roger_860b0d01-eb48-4bbe-9ba7-34f6b2a2fe07",
            "username": "roger",
            "knowledge_db_id": "roger_26eba553-dbee-474c-987f-6bd8c0ed6e1a",
            "file_meta": {
                "file_id": "roger_bbc65d64-4b5e-47f7-b2d6-40bf38eaed67",
                "minio_filename": "roger_39_684bb6d725b754fb64e6cbd3.txt",
                "original_filename": "39.txt",
                "minio_url": "http://host/minio-file/roger_39_684bb6d725b754fb64e6cbd3.txt?Signature=x"
            }
        })
    }

    fn parsed(value: &Value) -> Result<Message, TaskError> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn layras_message_is_a_task() {
        let Ok(Message::Task(task)) = parsed(&layras()) else {
            panic!("not a task")
        };
        assert_eq!(task.username, "roger");
        assert_eq!(task.file.name, "39.txt");
        assert!(task.file.url.unwrap().starts_with("http://host/"));
    }

    #[test]
    fn the_link_is_optional() {
        for link in [json!(null), json!("")] {
            let mut message = layras();
            message["file_meta"]["minio_url"] = link;
            let Ok(Message::Task(task)) = parsed(&message) else {
                panic!("not a task")
            };
            assert_eq!(task.file.url, None);
        }
    }

    #[test]
    fn a_message_with_another_type_is_foreign() {
        let mut message = layras();
        message["type"] = json!("workflow");
        assert_eq!(parsed(&message), Ok(Message::Foreign));
        assert_eq!(parsed(&json!({"type": null})), Ok(Message::Foreign));
    }

    #[test]
    fn deletions_are_validated() {
        let file = json!({"type": "delete_file", "file_id": "u_f", "knowledge_db_id": "u_kb"});
        let deletion = Deletion::File {
            file_id: "u_f".into(),
            knowledge_base: "u_kb".into(),
        };
        assert_eq!(parsed(&file), Ok(Message::Delete(deletion)));
        let all = json!({"type": "delete_knowledge_base", "knowledge_db_id": "u_kb"});
        let deletion = Deletion::KnowledgeBase("u_kb".into());
        assert_eq!(parsed(&all), Ok(Message::Delete(deletion)));
        for (message, field) in [
            (
                json!({"type": "delete_file", "knowledge_db_id": "u_kb"}),
                "file_id",
            ),
            (json!({"type": "delete_knowledge_base"}), "knowledge_db_id"),
        ] {
            assert_eq!(parsed(&message), Err(TaskError::Missing(field)));
        }
    }

    #[test]
    fn a_task_is_written_as_it_was_read() {
        let Ok(Message::Task(task)) = parsed(&layras()) else {
            panic!("not a task")
        };
        let again: Value = serde_json::from_slice(&task.to_message()).unwrap();
        assert_eq!(again, layras());

        let mut of_bucket = layras();
        of_bucket["file_meta"]["object"] = json!("docs/contracts/a.pdf");
        of_bucket["file_meta"]["object_version"] = json!("\"9b2cf535\"");
        let Ok(Message::Task(task)) = parsed(&of_bucket) else {
            panic!("not a task")
        };
        assert!(task.file.version.is_some());
        let again: Value = serde_json::from_slice(&task.to_message()).unwrap();
        assert_eq!(again, of_bucket);
    }

    #[test]
    fn an_error_names_the_missing_or_wrong_field() {
        for (path, field) in [
            (vec!["task_id"], "task_id"),
            (vec!["username"], "username"),
            (vec!["knowledge_db_id"], "knowledge_db_id"),
            (vec!["file_meta"], "file_meta"),
            (vec!["file_meta", "file_id"], "file_meta.file_id"),
            (
                vec!["file_meta", "minio_filename"],
                "file_meta.minio_filename",
            ),
            (
                vec!["file_meta", "original_filename"],
                "file_meta.original_filename",
            ),
        ] {
            let (last, parents) = path.split_last().unwrap();
            let mut without = layras();
            let parent = parents
                .iter()
                .fold(&mut without, |value, key| &mut value[*key]);
            parent.as_object_mut().unwrap().remove(*last);
            assert_eq!(parsed(&without), Err(TaskError::Missing(field)));

            let mut number = layras();
            let parent = parents
                .iter()
                .fold(&mut number, |value, key| &mut value[*key]);
            parent[*last] = json!(7);
            let error = parsed(&number).unwrap_err();
            assert!(
                error.to_string().contains(&format!("`{field}` must be")),
                "{error}"
            );
            assert_eq!(error.reason(), Reason::InvalidTask);
        }
    }

    #[test]
    fn an_invalid_task_is_shown_under_its_own_ids() {
        let mut message = layras();
        message["knowledge_db_id"] = json!("a;drop");
        let shown = |value: &Value| progress_ids(value.to_string().as_bytes());
        let task = message["task_id"].as_str().map(str::to_owned).unwrap();
        let file = message["file_meta"]["file_id"].as_str().map(str::to_owned);
        assert_eq!(shown(&message), Some((task.clone(), file)));
        message["file_meta"] = json!(7);
        assert_eq!(shown(&message), Some((task, None)));
        message["task_id"] = json!(7);
        assert_eq!(shown(&message), None);
        assert_eq!(progress_ids(b"\xff"), None);
    }

    #[test]
    fn names_that_the_stores_cannot_hold_are_refused() {
        for (field, value, words) in [
            ("knowledge_db_id", "a;drop", "letters"),
            ("knowledge_db_id", &"x".repeat(300), "long"),
            ("task_id", "", "empty"),
            ("username", "a\u{0}b", "control"),
        ] {
            let mut message = layras();
            message[field] = json!(value);
            let error = parsed(&message).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(words), "{error}");
        }
        let limit = TEXT_LENGTH as usize;
        for (field, value, words) in [
            ("file_id", "x".repeat(limit + 1), "long"),
            ("minio_filename", "x".repeat(1025), "long"),
            ("original_filename", "x".repeat(1000), "long"),
            ("minio_filename", "/a.pdf".into(), "empty"),
            ("minio_filename", "a.pdf/".into(), "empty"),
            ("minio_filename", "a/../b.pdf".into(), "`..`"),
            ("original_filename", "a//b.pdf".into(), "empty"),
            ("original_filename", "x/./y.pdf".into(), "`.`"),
        ] {
            let mut message = layras();
            message["file_meta"][field] = json!(value);
            let error = parsed(&message).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn names_at_the_limits_are_accepted() {
        for (field, value) in [
            ("file_id", "x".repeat(TEXT_LENGTH as usize)),
            ("minio_filename", "x".repeat(1024)),
            ("minio_filename", "folder/a b.pdf".into()),
            ("original_filename", "folder/...pdf".into()),
        ] {
            let mut message = layras();
            message["file_meta"][field] = json!(value);
            assert!(parsed(&message).is_ok(), "{field}");
        }
    }

    #[test]
    fn other_json_is_distinguished_from_no_json() {
        assert_eq!(parse(b"\xff\xfe").unwrap_err().reason(), Reason::NotJson);
        assert_eq!(parse(b"").unwrap_err().reason(), Reason::NotJson);
        assert_eq!(parse(b"[1]").unwrap_err(), TaskError::NotAnObject);
        assert_eq!(parse(b"{}").unwrap_err().reason(), Reason::InvalidTask);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&payload);
        }
    }
}
