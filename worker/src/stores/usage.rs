//! The last count of what a pipeline holds, which its workers share: one of them counts for all.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};
use uuid::Uuid;

use super::ledger::{after, is_duplicate};
use super::mongo::{answer, ask};
use crate::runtime::failure::Failure;
use crate::runtime::quotas::PipelineUsage;

/// The record of the pipelines with the same collections, in `ingestion_usage`.
#[derive(Clone, Debug)]
pub(crate) struct UsageRecord {
    records: Collection<Document>,
    /// The collections, and whether their vectors are counted.
    id: String,
    /// This worker.
    counter: String,
}

impl UsageRecord {
    /// `collections` is the template of their names. Counts without vectors have a record of their
    /// own.
    pub(crate) fn new(database: &Database, collections: &str, counts_vectors: bool) -> Self {
        let what = if counts_vectors { "" } else { " (number)" };
        Self {
            records: database.collection("ingestion_usage"),
            id: format!("{collections}{what}"),
            counter: Uuid::new_v4().to_string(),
        }
    }

    /// Whether this worker is to count now, and for the time of `turn`. It keeps the turn while it
    /// takes it again before the end.
    pub(crate) async fn take_turn(&self, turn: Duration) -> Result<bool, Failure> {
        let now = DateTime::now();
        let until = after(now, turn);
        let free = doc! {
            "_id": &self.id,
            "$or": [{ "counter": &self.counter }, { "turn_until": { "$lt": now } }],
        };
        let take = doc! { "$set": { "counter": &self.counter, "turn_until": until } };
        let taken = ask(self.records.update_one(free, take)).await?;
        if taken.matched_count > 0 {
            return Ok(true);
        }
        let first = doc! { "_id": &self.id, "counter": &self.counter, "turn_until": until };
        match answer(self.records.insert_one(first)).await? {
            Ok(_) => Ok(true),
            // The turn is another worker's.
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Records a count.
    pub(crate) async fn write(&self, usage: PipelineUsage) -> Result<(), Failure> {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let count = doc! { "$set": {
            "collections": number(usage.collections), "vectors": number(usage.vectors),
            "counted_at": DateTime::now(),
        } };
        ask(self.records.update_one(doc! { "_id": &self.id }, count)).await?;
        Ok(())
    }

    /// The last count. `None`: there is none yet.
    pub(crate) async fn read(&self) -> Result<Option<PipelineUsage>, Failure> {
        let found = ask(self.records.find_one(doc! { "_id": &self.id })).await?;
        Ok(found.and_then(|record| {
            let number = |field| u64::try_from(record.get_i64(field).ok()?).ok();
            Some(PipelineUsage {
                collections: number("collections")?,
                vectors: number("vectors")?,
            })
        }))
    }
}
