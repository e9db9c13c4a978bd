//! A document's entry in the ledger. No I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use super::after;
use super::progress::SkippedPage;
use crate::document::task::{FileMeta, Task};
use crate::document::{Cutoff, Recipe, Sent};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::stage_times::StageTimes;

/// A document in progress that is unchanged for at least this long, and of which Kafka has no
/// message left, is orphaned.
pub(super) const UNCHANGED: Duration = Duration::from_mins(10);
/// A message about a document can be sent this long after the entry's last change, and the clocks
/// of workers and producers differ by less.
const SENT_LATER: Duration = Duration::from_mins(5);

/// A document's entry in the collection `ingestion_ledger`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "_id")]
    pub(crate) file_id: String,
    pub(crate) knowledge_db_id: String,
    /// Owner of the knowledge base.
    pub(crate) username: String,
    /// Names the progress display in Redis.
    pub(crate) task_id: String,
    /// The original's name, as the user uploaded it.
    pub(crate) filename: String,
    /// The key of the original in the bucket.
    pub(crate) minio_filename: String,
    pub(crate) state: State,
    /// Names the current round. Messages and claims of earlier rounds are void.
    pub(crate) round: String,
    /// The request that began the round: a message, `topic/partition/offset`, or a command,
    /// `topic/ingest/file/call` or `topic/deleted`. The topic identifies the pipeline.
    pub(crate) origin: String,
    /// The digest of the [`Recipe`].
    pub(crate) recipe: String,
    /// When the worker that began the round was started. A worker that was started later has a
    /// newer configuration.
    pub(crate) worker_since: DateTime,
    /// Whether the stores hold nothing of earlier rounds.
    #[serde(default)]
    pub(crate) prepared: bool,
    /// Number of pages, once the document was opened.
    #[serde(default)]
    pub(crate) pages: Option<u32>,
    /// Pages of a range, if the document is split.
    #[serde(default)]
    pub(crate) range_pages: Option<u32>,
    /// The page ranges that a worker has claimed, by their first page.
    #[serde(default)]
    pub(crate) units: BTreeMap<String, RangeEntry>,
    /// Rounds before this one, one after the other, after which the stores did not hold the document
    /// exactly once.
    #[serde(default)]
    pub(crate) repeats: u32,
    /// Rows in Milvus, once the document is done.
    #[serde(default)]
    pub(crate) vectors: Option<u64>,
    /// Why the document failed.
    #[serde(default)]
    pub(crate) failure: Option<Rejection>,
    /// Tokens of claims that were not closed: their workers are busy, late or dead.
    #[serde(default)]
    pub(crate) open: Vec<String>,
    /// When to recheck the document. Set as long as it is in progress: each change moves it.
    #[serde(default)]
    pub(crate) recheck_at: Option<DateTime>,
    /// Token of the worker that removes the document from the stores: see
    /// [`Lease`](super::Lease).
    #[serde(default)]
    pub(crate) cleaner: Option<String>,
    /// When that worker's right ends, unless it is renewed.
    #[serde(default)]
    pub(crate) cleaning_until: Option<DateTime>,
    /// When the latest request for the document was made: the time of its message.
    #[serde(default)]
    pub(crate) requested_at: Option<DateTime>,
    /// The message or command of that request.
    #[serde(default)]
    pub(crate) requested_origin: Option<String>,
    /// The latest deletions that somebody asked for, also those before the current round.
    #[serde(default)]
    pub(crate) deletions: Vec<Cutoff>,
    /// Whether somebody asked for the deletion, by a message or a command. Only then the original
    /// is deleted too.
    #[serde(default)]
    pub(crate) deletion_requested: bool,
    /// When the first round began.
    pub(crate) created_at: DateTime,
    /// When the current round began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began_at: Option<DateTime>,
    /// When the entry changed last.
    pub(crate) updated_at: DateTime,
    /// When the document was done or failed. Of a deleted one: when its deletion was requested.
    #[serde(default)]
    pub(crate) finished_at: Option<DateTime>,
    /// Since when the document, of which nothing is stored, waits until its knowledge base has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) no_room_since: Option<DateTime>,
    /// The object of a bucket, `bucket/key`, of which the document is one version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// Which version of that object the document is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object_version: Option<String>,
}

/// The state of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// A round is in progress, or waits for a worker.
    Working,
    /// Every page is searchable.
    Done,
    /// It cannot be processed. The stores hold nothing of it but the original.
    Failed,
    /// It was deleted by a message or a command, or through LAYRA while it was processed.
    Deleted,
}

/// The work on one page range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RangeEntry {
    /// Token of the latest claim.
    #[serde(default)]
    pub(crate) claim: String,
    /// Claims so far, the current one included.
    #[serde(default)]
    pub(crate) turns: u32,
    /// Claims since the last page was stored that were not released, the current one included.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// Number of leading pages of the range that all stores hold, or that were skipped.
    #[serde(default)]
    pub(crate) stored: u32,
    /// Rows of these pages in Milvus.
    #[serde(default)]
    pub(crate) rows: u64,
    /// Those of these pages that were skipped.
    #[serde(default)]
    pub(crate) skipped: Vec<SkippedPage>,
    /// CPU time, in milliseconds, that reading and rendering the range has taken so far.
    #[serde(default)]
    pub(crate) cpu_ms: u64,
    /// Whether all pages of the range are stored or skipped, and their rows were counted.
    #[serde(default)]
    pub(crate) done: bool,
    /// Why the worker of the latest attempt ended, if it could tell. The document may be the cause.
    #[serde(default)]
    pub(crate) ended: Option<EndOfWorker>,
    /// The page that a worker worked on alone, from 0. If the worker died, it died on this page.
    #[serde(default)]
    pub(crate) trial: Option<u32>,
    /// The worker that made the latest claim: the name of its pod or machine.
    #[serde(default)]
    pub(crate) worker: Option<String>,
    /// When it made the claim.
    #[serde(default)]
    pub(crate) claimed_at: Option<DateTime>,
    /// How long the stages have worked on the range so far, in milliseconds.
    #[serde(default)]
    pub(crate) times_ms: StageTimes,
}

/// Why a worker ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndOfWorker {
    /// The failure's reason, as text: another version of the worker may know further ones.
    pub(crate) reason: String,
    /// The failure, for people.
    pub(crate) message: String,
}

impl From<&Failure> for EndOfWorker {
    fn from(failure: &Failure) -> Self {
        Self {
            reason: failure.reason.as_str().to_owned(),
            message: failure.to_string(),
        }
    }
}

/// Why a document failed, and the state of its dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) stage: String,
    /// The failure's reason, as text: another version of the worker may know further ones.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Whether workers or renderers died while they processed it.
    #[serde(default)]
    pub(crate) poison: bool,
    /// Token of the claim under which it failed.
    #[serde(default)]
    pub(crate) claim: String,
    /// Whether the dead letter was sent.
    #[serde(default)]
    pub(crate) letter: bool,
    /// Whether the dead letter was redriven.
    #[serde(default)]
    pub(crate) redriven: bool,
}

impl From<&Failure> for Rejection {
    fn from(failure: &Failure) -> Self {
        Self {
            stage: failure.stage.as_str().to_owned(),
            reason: failure.reason.as_str().to_owned(),
            message: failure.message.clone(),
            poison: failure.class == Class::Poison,
            claim: String::new(),
            letter: false,
            redriven: false,
        }
    }
}

impl From<Rejection> for Failure {
    /// For people: the message contains the stage and the reason.
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
            Self::poison(Stage::Intake, Reason::Rejected, message)
        } else {
            Self::permanent(Stage::Intake, Reason::Rejected, message)
        }
    }
}

/// A request to ingest a document.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The message or command that the request came with, and its time. Redeliveries, and tasks
    /// that a worker sends again, have the same.
    pub(crate) sent: Sent,
    /// What decides the document's pixels and vectors.
    pub(crate) recipe: Recipe,
    /// When this worker was started.
    pub(crate) worker_since: DateTime,
}

impl From<&Entry> for Task {
    /// The task of a document in the ledger.
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
                version: entry.version(),
            },
        }
    }
}

impl Entry {
    /// Whether the document failed and its dead letter was sent.
    pub(crate) fn has_sent_dead_letter(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.letter)
    }

    /// Whether a worker has begun to process the document in this round.
    pub(crate) fn is_begun(&self) -> bool {
        self.prepared || self.pages.is_some() || !self.units.is_empty()
    }

    /// Whether the document waits until its knowledge base has room.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.state == State::Working && self.no_room_since.is_some() && !self.is_begun()
    }

    /// The latest request for the document.
    pub(crate) fn requested(&self) -> Sent {
        Sent {
            origin: self
                .requested_origin
                .as_ref()
                .unwrap_or(&self.origin)
                .clone(),
            at: self.requested_at.unwrap_or(self.created_at),
        }
    }

    /// The range that begins at `first`.
    pub(crate) fn range_entry(&self, first: u32) -> RangeEntry {
        self.units
            .get(&first.to_string())
            .cloned()
            .unwrap_or_default()
    }

    /// First page and length of every range. Empty before the document was opened.
    pub(crate) fn ranges(&self) -> Vec<(u32, u32)> {
        let pages = self.pages.unwrap_or_default();
        let length = self.range_pages.unwrap_or(pages).max(1);
        (0..pages)
            .step_by(usize::try_from(length).unwrap_or(usize::MAX))
            .map(|first| (first, length.min(pages - first)))
            .collect()
    }

    /// The ranges that are not done.
    pub(crate) fn missing_ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges = self.ranges();
        ranges.retain(|(first, _)| !self.range_entry(*first).done);
        ranges
    }

    /// The time until which messages about the document may have been sent, if it is in progress
    /// and does not change. When Kafka holds no such message any more, it is orphaned.
    pub(crate) fn last_sent(&self, now: DateTime) -> Option<DateTime> {
        let due = after(self.updated_at, UNCHANGED);
        let is_idle = self.state == State::Working && now >= due;
        is_idle.then(|| after(self.updated_at, SENT_LATER))
    }

    /// Rows of all ranges, if every range is done.
    pub(crate) fn stored_rows(&self) -> Option<u64> {
        let ranges = self.ranges();
        (!ranges.is_empty() && self.missing_ranges().is_empty()).then(|| {
            ranges
                .iter()
                .map(|(first, _)| self.range_entry(*first).rows)
                .sum()
        })
    }
}

impl RangeEntry {
    /// Whether a worker has claimed the range and has neither completed nor released it: it
    /// died, or it is still busy.
    pub(crate) fn was_begun(&self) -> bool {
        self.attempts > 0
    }

    /// Whether this holds for a worker other than the one that holds the claim. Such work is done
    /// in isolation, so that no other document comes under suspicion.
    pub(crate) fn is_suspect(&self) -> bool {
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
            repeats: 0,
            vectors: None,
            failure: None,
            open: Vec::new(),
            recheck_at: None,
            cleaner: None,
            cleaning_until: None,
            requested_at: None,
            requested_origin: None,
            deletions: Vec::new(),
            deletion_requested: false,
            created_at: then,
            began_at: None,
            updated_at: then,
            finished_at: None,
            no_room_since: None,
            object: None,
            object_version: None,
        }
    }

    #[test]
    fn any_working_document_unchanged_for_ten_minutes_is_checked_for_messages() {
        let after = |ms: i64| DateTime::from_millis(1_000 + ms);
        let working = entry(State::Working);
        assert_eq!(working.last_sent(after(599_999)), None);
        let sent = working.last_sent(after(600_000));
        assert_eq!(
            sent,
            Some(after(300_000)),
            "the ranges of a split are sent after it"
        );
        assert_eq!(entry(State::Done).last_sent(after(600_000)), None);
    }

    /// Workers of the earlier version wrote fewer fields.
    #[test]
    fn an_entry_of_an_earlier_version_is_readable() {
        let mut stored = mongodb::bson::serialize_to_document(&entry(State::Deleted)).unwrap();
        for field in [
            "cleaner",
            "cleaning_until",
            "requested_at",
            "requested_origin",
            "deletions",
            "deletion_requested",
            "repeats",
        ] {
            assert!(stored.remove(field).is_some(), "{field}");
        }
        let read: Entry = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(read, entry(State::Deleted));
        assert!(!read.deletion_requested, "its original is kept");
    }

    #[test]
    fn work_that_another_worker_began_and_did_not_end_is_suspect() {
        let range = |attempts| RangeEntry {
            attempts,
            ..RangeEntry::default()
        };
        assert!(!range(0).was_begun());
        assert!(range(1).was_begun());
        assert!(!range(1).is_suspect());
        assert!(range(2).is_suspect());
    }

    proptest! {
        /// The ranges cover every page once and in order, and none is too long. The document is
        /// complete exactly when the last range is done.
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
                prop_assert_eq!(entry.stored_rows(), None);
                prop_assert_eq!(&entry.missing_ranges(), &rest);
                let (first, count) = *order.select(&rest);
                rest.retain(|(other, _)| *other != first);
                let rows = u64::from(count) * 3;
                let range = RangeEntry { done: true, rows, ..RangeEntry::default() };
                entry.units.insert(first.to_string(), range);
            }
            prop_assert_eq!(entry.stored_rows(), Some(u64::from(pages) * 3));
        }
    }

    #[test]
    fn an_entry_is_read_from_the_database_as_it_was_written() {
        let mut entry = entry(State::Working);
        let range = RangeEntry {
            attempts: 2,
            rows: 7,
            ..RangeEntry::default()
        };
        entry.units.insert("64".into(), range);
        let stored = mongodb::bson::serialize_to_document(&entry).unwrap();
        assert_eq!(stored.get_str("_id").ok(), Some("u_f"));
        let read: Entry = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(read, entry);
    }
}
