//! How the objects of a bucket become documents, with `source.kafka.format: S3Event`. No I/O.

use std::fmt::Write as _;

use layra_crds::metric_names::worker as names;
use layra_crds::{KNOWLEDGE_BASE_FOLDER, S3EventSpec, SourceFormat, WorkerConfig};
use sha2::{Digest, Sha256};

use super::ids;
use super::notification::Change;
use super::task::{FileMeta, ObjectVersion, Task, TaskError};

/// The owner of all documents and knowledge bases of a bucket, as LAYRA's user names are.
pub(crate) const USERNAME: &str = "s3";
/// Longest folder that is the id of a knowledge base as it is.
const LONGEST_PLAIN: usize = 100;
/// Hexadecimal digits that distinguish folders whose names are no ids.
const DIGITS: usize = 8;

/// The bucket of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    name: String,
    /// The folders with which a document's key begins. `None`: the one of the knowledge base.
    folders: Vec<Option<String>>,
    /// The knowledge base of all documents.
    knowledge_base: Option<String>,
    /// Where workers write archives, if they are in the same bucket.
    archives: Option<String>,
}

/// A knowledge base, and a document's name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place<'a> {
    knowledge_base: String,
    file_name: &'a str,
}

/// Why a change is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ignored {
    OtherBucket,
    OwnObject,
    OutsideTemplate,
}

impl Ignored {
    /// The value of the metrics' label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OtherBucket => names::RESULT_OTHER_BUCKET,
            Self::OwnObject => names::RESULT_OWN_OBJECT,
            Self::OutsideTemplate => names::RESULT_OUTSIDE_TEMPLATE,
        }
    }
}

impl Bucket {
    /// The bucket of a pipeline whose messages are notifications.
    pub(crate) fn of(config: &WorkerConfig) -> Option<Self> {
        let kafka = &config.source.kafka;
        (kafka.format == SourceFormat::S3Event).then(|| {
            let spec = kafka.s3_event.clone().unwrap_or_default();
            let name = &config.documents.object_store.bucket;
            let archive = config.stores.milvus.archive.as_ref();
            let archive = archive.filter(|archive| archive.bucket == *name);
            Self {
                archives: archive.map(|archive| format!("{}/", archive.prefix)),
                ..Self::new(name, &spec)
            }
        })
    }

    /// The bucket of this name, in which the first folder names the knowledge base.
    #[cfg(test)]
    pub(crate) fn for_tests(name: &str) -> Self {
        Self::new(name, &S3EventSpec::default())
    }

    fn new(name: &str, spec: &S3EventSpec) -> Self {
        let default = format!("{KNOWLEDGE_BASE_FOLDER}/");
        let template = match (&spec.key_template, &spec.knowledge_base) {
            (Some(template), _) => template.as_str(),
            (None, Some(_)) => "",
            (None, None) => default.as_str(),
        };
        let folder = |folder: &str| (folder != KNOWLEDGE_BASE_FOLDER).then(|| folder.to_owned());
        Self {
            name: name.to_owned(),
            folders: template.split_terminator('/').map(folder).collect(),
            knowledge_base: spec.knowledge_base.clone(),
            archives: None,
        }
    }

    /// Whether a change is about a document.
    pub(crate) fn check(&self, change: &Change) -> Result<(), Ignored> {
        if change.bucket != self.name {
            Err(Ignored::OtherBucket)
        } else if self.is_own(&change.key) {
            Err(Ignored::OwnObject)
        } else if self.place(&change.key).is_none() {
            Err(Ignored::OutsideTemplate)
        } else {
            Ok(())
        }
    }

    fn is_own(&self, key: &str) -> bool {
        let archives = self.archives.as_ref();
        ids::is_own_key(USERNAME, key) || archives.is_some_and(|prefix| key.starts_with(prefix))
    }

    /// The name of an object in the ledger.
    pub(crate) fn object(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    /// The document that an object is. `version` is that of its content.
    pub(crate) fn task(&self, key: &str, version: &str) -> Result<Task, TaskError> {
        let outside = TaskError::Invalid {
            field: "s3.object.key",
            problem: "does not fit source.kafka.s3Event.keyTemplate",
        };
        let Place {
            knowledge_base,
            file_name,
        } = self.place(key).ok_or(outside)?;
        let object = self.object(key);
        let file_id = ids::object_file_id(USERNAME, &knowledge_base, &object, version);
        let version = ObjectVersion {
            object,
            version: version.to_owned(),
        };
        let task = Task {
            task_id: file_id.clone(),
            username: USERNAME.to_owned(),
            knowledge_base,
            file: FileMeta {
                file_id,
                key: key.to_owned(),
                name: file_name.to_owned(),
                url: None,
                version: Some(version),
            },
        };
        task.check()?;
        Ok(task)
    }

    /// The knowledge base that a document with this key belongs to. `None`: the key does not fit.
    pub(crate) fn knowledge_base(&self, key: &str) -> Option<String> {
        self.place(key).map(|place| place.knowledge_base)
    }

    /// The folder that names the knowledge base of a document.
    pub(crate) fn knowledge_base_name<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        match &self.knowledge_base {
            Some(id) => Some(id),
            None => self.split(key)?.0,
        }
    }

    fn place<'a>(&self, key: &'a str) -> Option<Place<'a>> {
        let (folder, rest) = self.split(key)?;
        let (_, file_name) = rest.rsplit_once('/').unwrap_or(("", rest));
        // Consoles create an empty object `folder/` to show a folder.
        (!file_name.is_empty()).then_some(())?;
        let knowledge_base = match &self.knowledge_base {
            Some(id) => id.clone(),
            None => knowledge_base_id(folder?),
        };
        Some(Place {
            knowledge_base,
            file_name,
        })
    }

    /// The knowledge base's folder, and what follows the template. `None`: the key does not fit.
    fn split<'a>(&self, key: &'a str) -> Option<(Option<&'a str>, &'a str)> {
        let (mut folder, mut rest) = (None, key);
        for expected in &self.folders {
            let (found, after) = rest.split_once('/')?;
            match expected {
                Some(expected) if expected == found => {}
                None if !found.is_empty() => folder = Some(found),
                _ => return None,
            }
            rest = after;
        }
        Some((folder, rest))
    }
}

/// The id of the knowledge base that a folder names. Letters, digits, `_` and `-` stay. For other
/// folders some digits of a hash distinguish those that differ only in other characters.
fn knowledge_base_id(folder: &str) -> String {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    // Not to be mistaken for an id that was made here.
    let has_digits = folder.rsplit_once("__").is_some_and(|(_, digits)| {
        digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    if folder.chars().all(is_allowed) && folder.len() <= LONGEST_PLAIN && !has_digits {
        return folder.to_owned();
    }
    let plain = folder.chars().take(LONGEST_PLAIN);
    let mut id: String = plain
        .map(|letter| if is_allowed(letter) { letter } else { '_' })
        .collect();
    id.push_str("__");
    for byte in &Sha256::digest(folder.as_bytes())[..DIGITS / 2] {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::document::notification;

    fn bucket(template: Option<&str>, knowledge_base: Option<&str>) -> Bucket {
        let spec = S3EventSpec {
            key_template: template.map(str::to_owned),
            knowledge_base: knowledge_base.map(str::to_owned),
        };
        Bucket::new("docs", &spec)
    }

    fn place(bucket: &Bucket, key: &str) -> Option<(String, String)> {
        let place = bucket.place(key)?;
        Some((place.knowledge_base, place.file_name.to_owned()))
    }

    fn found(id: &str, name: &str) -> (String, String) {
        (id.to_owned(), name.to_owned())
    }

    fn change(bucket: &str, key: &str) -> Change {
        let message = json!({ "Records": [{ "eventName": "ObjectCreated:Put", "s3": {
            "bucket": { "name": bucket }, "object": { "key": key },
        }}]});
        let read = notification::parse(message.to_string().as_bytes());
        read.unwrap().unwrap().changes.remove(0)
    }

    #[test]
    fn the_template_says_which_folder_names_the_knowledge_base() {
        let first = bucket(None, None);
        assert_eq!(
            place(&first, "contracts/a.pdf"),
            Some(found("contracts", "a.pdf"))
        );
        let deep = place(&first, "contracts/2026/q1/a.pdf");
        assert_eq!(deep, Some(found("contracts", "a.pdf")));
        for outside in ["a.pdf", "/a.pdf", "contracts/", "contracts/2026/"] {
            assert_eq!(place(&first, outside), None, "{outside}");
        }
        let second = bucket(Some("uploads/{knowledgeBase}/"), None);
        let key = "uploads/team-a/a.pdf";
        assert_eq!(place(&second, key), Some(found("team-a", "a.pdf")));
        assert_eq!(second.knowledge_base_name(key), Some("team-a"));
        for outside in ["contracts/a.pdf", "uploads/a.pdf", "uploads//a.pdf"] {
            assert_eq!(place(&second, outside), None, "{outside}");
        }
        let constant = bucket(None, Some("everything"));
        assert_eq!(
            place(&constant, "a.pdf"),
            Some(found("everything", "a.pdf"))
        );
        assert_eq!(
            place(&constant, "x/a.pdf"),
            Some(found("everything", "a.pdf"))
        );
        let below = bucket(Some("inbox/"), Some("everything"));
        assert_eq!(
            place(&below, "inbox/a.pdf"),
            Some(found("everything", "a.pdf"))
        );
        assert_eq!(place(&below, "a.pdf"), None);
    }

    #[test]
    fn a_folder_that_is_no_id_gets_one_with_a_hash() {
        assert_eq!(knowledge_base_id("team-a_2026"), "team-a_2026");
        let id = knowledge_base_id("Human Resources");
        assert!(id.starts_with("Human_Resources__"), "{id}");
        assert_eq!(id, knowledge_base_id("Human Resources"));
        assert_ne!(id, knowledge_base_id("Human.Resources"));
        assert_ne!(
            id,
            knowledge_base_id(&id),
            "a folder with the name of the id"
        );
    }

    #[test]
    fn other_buckets_and_objects_of_workers_are_ignored() {
        let all = bucket(None, Some("everything"));
        let task = all.task("a.pdf", "\"etag\"").unwrap();
        let image = ids::image_key(USERNAME, &task.file.name, &task.file.file_id, 0, "png");
        assert_eq!(all.check(&change("docs", "a.pdf")), Ok(()));
        assert_eq!(all.check(&change("docs", &image)), Err(Ignored::OwnObject));
        let other = all.check(&change("other", "a.pdf"));
        assert_eq!(other, Err(Ignored::OtherBucket));
        let archived = Bucket {
            archives: Some("archive/".into()),
            ..bucket(None, None)
        };
        let rows = archived.check(&change("docs", "archive/colqwen_kb/rows"));
        assert_eq!(rows, Err(Ignored::OwnObject));
        let outside = bucket(None, None).check(&change("docs", "a.pdf"));
        assert_eq!(outside, Err(Ignored::OutsideTemplate));
    }

    #[test]
    fn a_document_is_one_version_of_one_object() {
        let first = bucket(None, None);
        let id = |key, version| first.task(key, version).unwrap().file.file_id;
        let one = id("contracts/a.pdf", "1");
        assert_eq!(one, id("contracts/a.pdf", "1"));
        for (key, version) in [
            ("contracts/a.pdf", "2"),
            ("contracts/b.pdf", "1"),
            ("x/a.pdf", "1"),
        ] {
            assert_ne!(one, id(key, version));
        }
        let other = Bucket::new("others", &S3EventSpec::default());
        assert_ne!(
            one,
            other.task("contracts/a.pdf", "1").unwrap().file.file_id
        );
        let double = first.task("contracts//a.pdf", "1");
        assert!(double.unwrap_err().to_string().contains("empty"));
    }

    proptest! {
        /// No two folders share a knowledge base, and every id is one that Milvus can hold.
        #[test]
        fn ids_of_folders_are_valid_and_differ(
            (one, other) in ("[a-z_ä .-]{1,6}", "[a-z_ä .-]{1,6}"),
        ) {
            let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            let id = knowledge_base_id(&one);
            prop_assert!(id.bytes().all(is_valid));
            prop_assert!(id.len() <= LONGEST_PLAIN + 2 + DIGITS);
            prop_assert_eq!(one == other, id == knowledge_base_id(&other));
        }

        /// A worker never takes what it has written for a document, and nothing else for its own.
        #[test]
        fn own_objects_are_known_by_their_keys(
            name in "[a-zA-Z0-9 ._-]{1,20}", id in "[a-z0-9-]{1,20}", page in 0..9_u32,
        ) {
            for extension in ["png", "webp"] {
                let image = ids::image_key(USERNAME, &name, &id, page, extension);
                prop_assert!(ids::is_own_key(USERNAME, &image), "{image}");
            }
            let original = ids::original_key(USERNAME, &name, &id);
            prop_assert!(ids::is_own_key(USERNAME, &original), "{original}");
            let folder = format!("contracts/{original}");
            prop_assert!(!ids::is_own_key(USERNAME, &folder));
        }
    }
}
