//! Documents that wait until their knowledge base has room.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, Ledger, UNCHANGED, after, unchanged, unchanged_recheck, working};
use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

/// Until the next look for room.
const PAUSE: Duration = Duration::from_secs(20);
/// Counting ends here: more make no difference.
const MOST_COUNTED: u64 = 100_000;

impl Ledger {
    /// Records that a document waits for room. `false`: the entry has changed.
    pub(crate) async fn record_no_room(&self, entry: &Entry) -> Result<bool, Failure> {
        let now = DateTime::now();
        let set = doc! {
            "no_room_since": entry.no_room_since.unwrap_or(now), "recheck_at": after(now, PAUSE),
        };
        let filter = working(&entry.file_id, &entry.round);
        Ok(self.set(&filter, set).await?.is_some())
    }

    /// Records that there is room, and that the task was sent again.
    pub(crate) async fn record_room(&self, entry: &Entry) -> Result<(), Failure> {
        let mut set = unchanged_recheck();
        set.insert("updated_at", DateTime::now());
        let update = doc! { "$set": set, "$unset": { "no_room_since": "" } };
        self.update(unchanged(entry), update).await?;
        Ok(())
    }

    /// Looks for room later, for all documents of a knowledge base that wait for it.
    pub(crate) async fn postpone_without_room(&self, knowledge_base: &str) -> Result<(), Failure> {
        let mut filter = self.without_room();
        filter.insert("knowledge_db_id", knowledge_base);
        let later = doc! { "$set": { "recheck_at": after(DateTime::now(), PAUSE) } };
        ask(self.entries.update_many(filter, later)).await?;
        Ok(())
    }

    /// Number of documents of this pipeline that wait for room.
    pub(crate) async fn count_without_room(&self) -> Result<u64, Failure> {
        let waiting = self.without_room();
        ask(self.entries.count_documents(waiting).limit(MOST_COUNTED)).await
    }

    /// Each has a recheck within minutes, by whose index it is found.
    fn without_room(&self) -> Document {
        let mut filter = self.of_this_pipeline();
        filter.extend(doc! {
            "state": "working", "no_room_since": { "$ne": null },
            "recheck_at": { "$lte": after(DateTime::now(), UNCHANGED) },
        });
        filter
    }
}
