//! What the ledger knows of a document. Pure.

use std::collections::BTreeMap;

use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::document::task::{FileMeta, Task};
use crate::runtime::failure::{Class, Failure, Stage};

/// A document that was taken over and has not changed for so long has nobody.
const ORPHANED_MS: i64 = 10 * 60 * 1000;

/// A document of the collection `ingestion_ledger`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The document.
    #[serde(rename = "_id")]
    pub file_id: String,
    /// Its knowledge base.
    pub knowledge_db_id: String,
    /// Its owner.
    pub username: String,
    /// The progress display.
    pub task_id: String,
    /// The name that the user gave it.
    pub filename: String,
    /// The key of its original.
    pub minio_filename: String,
    /// How far it is.
    pub state: State,
    /// Names the present round of work; what belongs to an earlier round is void.
    pub round: String,
    /// What began the round: a message, `topic/partition/offset`, or a command, `topic/ingest/file` or
    /// `topic/deleted`. The topic says whose document it is.
    pub origin: String,
    /// What pages are made with: see [`Request::recipe`].
    pub recipe: String,
    /// When the worker started that began the round: a later one has the newer configuration.
    pub worker_since: DateTime,
    /// Whether the stores are free of what earlier rounds left.
    #[serde(default)]
    pub prepared: bool,
    /// Pages, once the document was opened.
    #[serde(default)]
    pub pages: Option<u32>,
    /// Pages of a range, when the document was split.
    #[serde(default)]
    pub range_pages: Option<u32>,
    /// The ranges that somebody has worked on, by their first page.
    #[serde(default)]
    pub units: BTreeMap<String, Unit>,
    /// Rows in Milvus when it is done.
    #[serde(default)]
    pub vectors: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<Rejection>,
    /// Workers that began and have not said that they ended: dead ones, or some that are late.
    #[serde(default)]
    pub open: Vec<String>,
    /// When to look once more whether a late write has changed the stores.
    #[serde(default)]
    pub recheck_at: Option<DateTime>,
    /// When the document was first seen.
    pub created_at: DateTime,
    /// When anything changed last.
    pub updated_at: DateTime,
    /// When it was done, failed or deleted.
    #[serde(default)]
    pub finished_at: Option<DateTime>,
}

/// How far a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is worked on, or will be.
    Working,
    /// Every page is searchable.
    Done,
    /// It cannot be processed; nothing of it is left in the stores.
    Failed,
    /// A person deleted it.
    Deleted,
}

/// The work on one range of pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Names the worker's turn.
    #[serde(default)]
    pub claim: String,
    /// Turns so far, the present one included.
    #[serde(default)]
    pub turns: u32,
    /// Turns since the last page was stored, the present one included, that nobody gave back.
    #[serde(default)]
    pub attempts: u32,
    /// Pages of the range that all stores hold, from its first one on.
    #[serde(default)]
    pub stored: u32,
    /// Their rows in Milvus.
    #[serde(default)]
    pub rows: u64,
    /// Whether all of its pages are stored and counted.
    #[serde(default)]
    pub done: bool,
}

/// Why a document failed, and whether its dead letter is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Where it failed.
    pub stage: String,
    /// The stable reason.
    pub reason: String,
    /// What a person needs to know.
    pub message: String,
    /// Whether workers died on it.
    #[serde(default)]
    pub poison: bool,
    /// Whether the dead letter is in its topic.
    #[serde(default)]
    pub letter: bool,
    /// Whether the letter was put back since.
    #[serde(default)]
    pub redriven: bool,
}

impl From<&Failure> for Rejection {
    fn from(failure: &Failure) -> Self {
        Self {
            stage: failure.stage.as_str().to_owned(),
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
            poison: failure.class == Class::Poison,
            letter: false,
            redriven: false,
        }
    }
}

impl From<Rejection> for Failure {
    /// For people: the stage and the reason are part of the message.
    fn from(rejection: Rejection) -> Self {
        let Rejection {
            stage,
            reason,
            message,
            poison,
            ..
        } = rejection;
        let message = format!("{stage}: {reason}: {message}");
        if poison {
            Self::poison(Stage::Intake, "Rejected", message)
        } else {
            Self::permanent(Stage::Intake, "Rejected", message)
        }
    }
}

/// A task as it was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The message, or what stands for it: one request keeps its origin however often it is
    /// delivered.
    pub origin: String,
    /// When it was written.
    pub at: DateTime,
    /// A digest of everything that decides what a page becomes: model, resolution, format.
    pub recipe: String,
    /// When this worker started.
    pub worker_since: DateTime,
}

impl From<&Entry> for Task {
    /// The task of a document that the ledger knows.
    fn from(entry: &Entry) -> Self {
        Self {
            task_id: entry.task_id.clone(),
            username: entry.username.clone(),
            knowledge_base: entry.knowledge_db_id.clone(),
            file: FileMeta {
                file_id: entry.file_id.clone(),
                key: entry.minio_filename.clone(),
                name: entry.filename.clone(),
                url: None,
            },
        }
    }
}

impl Entry {
    /// The range that begins at `first`.
    #[must_use]
    pub fn unit(&self, first: u32) -> Unit {
        self.units
            .get(&first.to_string())
            .cloned()
            .unwrap_or_default()
    }

    /// First pages and lengths of all ranges; empty before the document was opened.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        let pages = self.pages.unwrap_or_default();
        let length = self.range_pages.unwrap_or(pages).max(1);
        (0..pages)
            .step_by(usize::try_from(length).unwrap_or(usize::MAX))
            .map(|first| (first, length.min(pages - first)))
            .collect()
    }

    /// The ranges that are not done.
    #[must_use]
    pub fn missing_ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges = self.ranges();
        ranges.retain(|(first, _)| !self.unit(*first).done);
        ranges
    }

    /// Whether nobody has a document that was taken over: it is not done, and does not change.
    #[must_use]
    pub fn is_orphan(&self, now: DateTime) -> bool {
        let idle = now.timestamp_millis() - self.updated_at.timestamp_millis();
        self.state == State::Working && idle >= ORPHANED_MS
    }

    /// Rows of all ranges, once every one is done.
    #[must_use]
    pub fn complete(&self) -> Option<u64> {
        let ranges = self.ranges();
        (!ranges.is_empty() && self.missing_ranges().is_empty())
            .then(|| ranges.iter().map(|(first, _)| self.unit(*first).rows).sum())
    }
}

impl Unit {
    /// Whether somebody has begun here and has neither stored everything nor given it back: a
    /// worker that died, or one that is still at it.
    #[must_use]
    pub fn was_begun(&self) -> bool {
        self.attempts > 0
    }

    /// The same, under a claim of one's own: such work is done alone, so that no other document is
    /// suspected.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.attempts > 1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn entry(state: State) -> Entry {
        let then = DateTime::from_millis(1_000);
        Entry {
            file_id: "u_f".into(),
            knowledge_db_id: "u_kb".into(),
            username: "u".into(),
            task_id: "u_t".into(),
            filename: "a.pdf".into(),
            minio_filename: "u_a.pdf".into(),
            state,
            round: "round".into(),
            origin: "tasks/0/7".into(),
            recipe: "recipe".into(),
            worker_since: then,
            prepared: true,
            pages: None,
            range_pages: None,
            units: BTreeMap::new(),
            vectors: None,
            failure: None,
            open: Vec::new(),
            recheck_at: None,
            created_at: then,
            updated_at: then,
            finished_at: None,
        }
    }

    #[test]
    fn work_that_has_not_changed_for_ten_minutes_is_an_orphan() {
        let after = |ms: i64| DateTime::from_millis(1_000 + ms);
        assert!(!entry(State::Working).is_orphan(after(599_999)));
        assert!(entry(State::Working).is_orphan(after(600_000)));
        assert!(!entry(State::Done).is_orphan(after(600_000)));
    }

    #[test]
    fn work_that_somebody_began_and_did_not_end_is_suspect() {
        let unit = |attempts| Unit {
            attempts,
            ..Unit::default()
        };
        assert!(!unit(0).was_begun());
        assert!(unit(1).was_begun());
        assert!(!unit(1).is_suspect());
        assert!(unit(2).is_suspect());
    }

    proptest! {
        /// The ranges cover every page once, in order, none is longer than allowed, and the
        /// document is complete exactly when the last of them is done.
        #[test]
        fn ranges_cover_a_document_once(
            pages in 1_u32..500,
            length in proptest::option::of(1_u32..100),
            order in any::<proptest::sample::Selector>(),
        ) {
            let mut entry = entry(State::Working);
            prop_assert!(entry.ranges().is_empty());
            entry.pages = Some(pages);
            entry.range_pages = length;
            let ranges = entry.ranges();
            let covered: Vec<u32> =
                ranges.iter().flat_map(|(first, count)| *first..first + count).collect();
            prop_assert_eq!(covered, (0..pages).collect::<Vec<_>>());
            prop_assert!(ranges.iter().all(|(_, count)| *count <= length.unwrap_or(pages)));

            let mut rest = ranges.clone();
            while !rest.is_empty() {
                prop_assert_eq!(entry.complete(), None);
                prop_assert_eq!(&entry.missing_ranges(), &rest);
                let (first, count) = *order.select(&rest);
                rest.retain(|(other, _)| *other != first);
                let rows = u64::from(count) * 3;
                let unit = Unit { done: true, rows, ..Unit::default() };
                entry.units.insert(first.to_string(), unit);
            }
            prop_assert_eq!(entry.complete(), Some(u64::from(pages) * 3));
        }
    }
}
