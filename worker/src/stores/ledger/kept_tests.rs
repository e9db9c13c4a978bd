//! Workers read what workers of earlier and later versions have stored: during an upgrade both work
//! on the same documents.

use std::path::Path;

use mongodb::bson::{Bson, Document, deserialize_from_document, serialize_to_document};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::deletions::DeletedKnowledgeBase;
use super::{Entry, State};

/// A document in `tests/kept-ledger`.
fn stored(name: &str) -> Document {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kept-ledger");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    match Bson::try_from(json).unwrap() {
        Bson::Document(document) => document,
        other => panic!("{name} is no document: {other}"),
    }
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    deserialize_from_document(stored(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads a document, and checks that nothing of it is lost when it is written again.
fn read_completely<T: DeserializeOwned + Serialize>(name: &str) -> T {
    let value: T = read(name);
    let again = Bson::Document(serialize_to_document(&value).unwrap());
    let before = Bson::Document(stored(name)).into_relaxed_extjson();
    contains(&again.into_relaxed_extjson(), &before, name);
    value
}

/// Every value of `part` is in `whole`.
fn contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, part) in part {
                let path = format!("{path}.{key}");
                let value = whole.get(key).unwrap_or_else(|| panic!("{path} is lost"));
                contains(value, part, &path);
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            for (whole, part) in whole.iter().zip(part) {
                contains(whole, part, path);
            }
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn documents_of_earlier_versions_are_read_completely() {
    let working: Entry = read_completely("2026-11-27-working.json");
    assert_eq!(working.state, State::Working);
    assert_eq!(working.ranges(), [(0, 64), (64, 64), (128, 2)]);
    assert_eq!(working.missing_ranges(), [(64, 64), (128, 2)]);
    let range = working.range_entry(64);
    assert!(range.is_claimed() && range.was_begun() && !range.is_suspect());
    assert_eq!((range.stored, range.skipped.len()), (8, 0));

    let failed: Entry = read_completely("2026-11-27-failed.json");
    assert_eq!(failed.state, State::Failed);
    assert!(failed.has_sent_dead_letter());

    let deleted: Entry = read_completely("2026-11-27-deleted.json");
    assert_eq!(deleted.state, State::Deleted);
    assert!(deleted.deletion_requested && deleted.deletions[0].done);

    let done: Entry = read_completely("2026-11-28-done.json");
    assert_eq!(
        (done.state, done.stored_rows(), done.vectors),
        (State::Done, Some(20), Some(20))
    );
    read_completely::<DeletedKnowledgeBase>("2026-11-27-knowledge-base.json");
}

#[test]
fn a_document_of_a_later_version_is_read_without_what_is_unknown() {
    let later: Entry = read("later-working.json");
    assert_eq!(later.missing_ranges(), [(0, 10)]);
    let range = later.range_entry(0);
    assert_eq!((range.stored, range.times_ms.render), (2, 300));
    let ended = range.ended.map(|ended| ended.reason);
    assert_eq!(ended.as_deref(), Some("ReasonOfALaterVersion"));
    let failure = later.failure.map(|failure| failure.stage);
    assert_eq!(failure.as_deref(), Some("polish"));
}
