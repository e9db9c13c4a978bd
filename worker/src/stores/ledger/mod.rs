//! The ledger: the state of every document across deliveries and crashes, in the collection
//! `ingestion_ledger` next to LAYRA's own collections.
//!
//! An entry is written before the first effect of a piece of work. Its states and rounds are in
//! [`rounds`], the right to work on a page range in [`claims`], checks after the end of a round in
//! [`rechecks`].

mod claims;
mod entry;
mod rechecks;
mod rounds;

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Collection, Database, IndexModel};
use uuid::Uuid;

pub(crate) use claims::Claim;
pub(crate) use entry::{Entry, RangeEntry, Rejection, Request, State};

#[cfg(test)]
pub(crate) use entry::tests::entry as an_entry;

use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

/// After this time a write that was in flight when its worker was replaced has landed or failed:
/// twice the longest request.
const LATE_WRITES: Duration = Duration::from_mins(2);

/// One pipeline's view of the ledger. All pipelines with the same database share the collection.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    entries: Collection<Entry>,
    topic: String,
}

impl Ledger {
    /// The ledger in a database, for the pipeline of a topic.
    pub(crate) fn new(database: &Database, topic: &str) -> Self {
        Self {
            entries: database.collection("ingestion_ledger"),
            topic: topic.to_owned(),
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

/// A unique name.
fn token() -> String {
    Uuid::new_v4().to_string()
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn after(time: DateTime, pause: Duration) -> DateTime {
    let pause = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(time.timestamp_millis().saturating_add(pause))
}
