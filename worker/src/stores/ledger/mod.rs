//! The ledger: the state of every document across deliveries and crashes, in the collection
//! `ingestion_ledger` next to LAYRA's own collections.
//!
//! An entry is written before the first effect of a piece of work. Its states and rounds are in
//! [`rounds`], the right to work on a page range in [`claims`], how far it is in [`progress`], the
//! right to remove a document from the stores in [`cleaning`], deletions in [`deletions`], and checks
//! after the end of a round, or of a round without progress, in [`rechecks`], waits for room in
//! [`room`]. The versions of an object of a bucket are in [`objects`].

mod audit;
mod claims;
mod cleaning;
mod deletions;
mod entry;
#[cfg(test)]
mod kept_tests;
mod list;
mod objects;
mod progress;
mod rechecks;
mod room;
mod rounds;

use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Collection, Database, IndexModel};
use uuid::Uuid;

pub(crate) use claims::{Claim, Decider};
pub(crate) use cleaning::{Lease, RENEWAL, until, while_renewed};
pub(crate) use entry::{EndOfWorker, Entry, RangeEntry, Rejection, Request, State};
pub(crate) use list::Listing;
pub(crate) use progress::SkippedPage;

#[cfg(test)]
pub(crate) use entry::tests::entry as an_entry;

use crate::runtime::failure::Failure;
use crate::stores::milvus;
use crate::stores::mongo::{self, ask};
use deletions::DeletedKnowledgeBase;
use entry::UNCHANGED;

/// After this time a write that was in flight when its worker was replaced has landed or failed:
/// twice the longest request to a database. A put of an object may take longer; that of a dead
/// worker fails, because the object is incomplete.
pub(crate) const LATE_WRITES: Duration = Duration::from_secs(2 * longest_request().as_secs());

const fn longest_request() -> Duration {
    let (milvus, mongodb) = (milvus::LONGEST_REQUEST, mongo::LONGEST_REQUEST);
    if milvus.as_secs() > mongodb.as_secs() {
        milvus
    } else {
        mongodb
    }
}

/// One pipeline's view of the ledger. All pipelines with the same database share the collection.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    entries: Collection<Entry>,
    deleted_knowledge_bases: Collection<DeletedKnowledgeBase>,
    /// What repairs have seen, and when.
    seen: Collection<Document>,
    topic: String,
    /// Names this worker in its claims.
    worker: String,
}

impl Ledger {
    /// The ledger in a database, for the pipeline of a topic.
    pub(crate) fn new(database: &Database, topic: &str) -> Self {
        Self {
            entries: database.collection("ingestion_ledger"),
            deleted_knowledge_bases: database.collection("ingestion_deleted_knowledge_bases"),
            seen: database.collection("ingestion_audit"),
            topic: topic.to_owned(),
            worker: worker_name(),
        }
    }

    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        let sparse = IndexOptions::builder().sparse(true).build();
        for index in [
            IndexModel::builder()
                .keys(doc! { "knowledge_db_id": 1 })
                .build(),
            IndexModel::builder()
                .keys(doc! { "recheck_at": 1 })
                .options(sparse.clone())
                .build(),
            IndexModel::builder()
                .keys(doc! { "object": 1 })
                .options(sparse)
                .build(),
        ] {
            ask(self.entries.create_index(index)).await?;
        }
        Ok(())
    }

    /// The entry of a document.
    pub(crate) async fn find(&self, file_id: &str) -> Result<Option<Entry>, Failure> {
        ask(self.entries.find_one(doc! { "_id": file_id })).await
    }

    /// The entries of some documents.
    pub(crate) async fn find_all(&self, file_ids: &[&str]) -> Result<Vec<Entry>, Failure> {
        let found = self.entries.find(doc! { "_id": { "$in": file_ids } });
        let mut found = ask(found).await?;
        let mut entries = Vec::new();
        while let Some(entry) = ask(found.try_next()).await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Records progress of a document that is processed: it need not be rechecked for a while.
    /// `None`: no entry matches the filter.
    async fn progress(
        &self,
        filter: &Document,
        mut set: Document,
    ) -> Result<Option<Entry>, Failure> {
        set.extend(unchanged_recheck());
        self.set(filter, set).await
    }

    /// Sets fields and returns the new entry. `None`: no entry matches the filter.
    async fn set(&self, filter: &Document, mut set: Document) -> Result<Option<Entry>, Failure> {
        set.insert("updated_at", DateTime::now());
        self.update(filter.clone(), doc! { "$set": set }).await
    }

    async fn update(&self, filter: Document, update: Document) -> Result<Option<Entry>, Failure> {
        let update = self.entries.find_one_and_update(filter, update);
        ask(update.return_document(ReturnDocument::After)).await
    }
}

/// Matches a document whose round is in progress.
fn working(file_id: &str, round: &str) -> Document {
    doc! { "_id": file_id, "round": round, "state": "working" }
}

/// The time of the recheck of a document in progress that does not change from now on.
fn unchanged_recheck() -> Document {
    doc! { "recheck_at": after(DateTime::now(), UNCHANGED) }
}

/// The name of this worker's pod. Outside of Kubernetes, that of the machine.
fn worker_name() -> String {
    let pod = std::env::var("POD_NAME").ok();
    let pod = pod.filter(|name| !name.is_empty());
    pod.unwrap_or_else(|| {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname");
        machine.unwrap_or_default().trim().to_owned()
    })
}

/// A unique name.
fn token() -> String {
    Uuid::new_v4().to_string()
}

/// Matches an entry whose round and state are still those of `entry`.
fn in_state(entry: &Entry) -> Document {
    doc! { "_id": &entry.file_id, "round": &entry.round, "state": state(entry.state) }
}

/// Matches an entry that is still that of `entry` in all that a deletion depends on: round and
/// state, the latest request and deletion, and the worker that removes the document.
fn unchanged(entry: &Entry) -> Document {
    let mut filter = in_state(entry);
    filter.extend(doc! {
        "requested_at": entry.requested_at,
        "requested_origin": entry.requested_origin.as_deref(),
        "cleaner": entry.cleaner.as_deref(),
    });
    // The latest deletion is the last one.
    let count = entry.deletions.len();
    filter.insert(format!("deletions.{count}"), doc! { "$exists": false });
    if let Some(last) = entry.deletions.last() {
        filter.insert(format!("deletions.{}.origin", count - 1), &last.origin);
    }
    filter
}

fn state(state: State) -> &'static str {
    match state {
        State::Working => "working",
        State::Done => "done",
        State::Failed => "failed",
        State::Deleted => "deleted",
    }
}

pub(crate) fn is_duplicate(error: &mongodb::error::Error) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == 11000)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn after(time: DateTime, pause: Duration) -> DateTime {
    let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(time.timestamp_millis().saturating_add(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_states_as_they_are_stored() {
        for each in [State::Working, State::Done, State::Failed, State::Deleted] {
            let stored = mongodb::bson::serialize_to_bson(&each).unwrap();
            assert_eq!(stored.as_str(), Some(state(each)));
        }
    }

    #[test]
    fn an_entry_with_another_deletion_is_not_unchanged() {
        let mut entry = an_entry(State::Done);
        let filter = unchanged(&entry);
        assert!(filter.contains_key("deletions.0"));
        assert_eq!(filter.get("requested_at"), Some(&mongodb::bson::Bson::Null));
        let origin = crate::document::Origin::parse("tasks/0/7").unwrap();
        let deletion = crate::document::Cutoff::of_message(&origin, DateTime::now());
        entry.deletions.push(deletion);
        let filter = unchanged(&entry);
        assert_eq!(filter.get_str("deletions.0.origin").ok(), Some("tasks/0/7"));
        assert!(filter.contains_key("deletions.1"));
    }

    #[test]
    fn late_writes_have_twice_the_time_of_the_longest_request() {
        for request in [milvus::LONGEST_REQUEST, mongo::LONGEST_REQUEST] {
            assert!(LATE_WRITES >= 2 * request);
        }
    }
}
