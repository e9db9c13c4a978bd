//! Rechecks: documents whose stores, or whose workers, must be inspected at a later time.

use mongodb::bson::{DateTime, doc};

use super::{Entry, LATE_WRITES, Ledger, after, working};
use crate::runtime::failure::Failure;

impl Ledger {
    /// Schedules a recheck of a document that another worker has taken over. That worker may have
    /// died while its claim was in flight: then no message of the document is left in Kafka.
    pub(crate) async fn schedule_recheck(&self, file_id: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "state": "working", "recheck_at": null };
        let at = after(DateTime::now(), LATE_WRITES);
        self.set(&filter, doc! { "recheck_at": at }).await?;
        Ok(())
    }

    /// A document of this pipeline that is due for a recheck. The next recheck is scheduled, so
    /// that no other worker gets the document now.
    pub(crate) async fn next_recheck(&self) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        // Every text that begins with the topic and a slash. `0` follows the slash in the order of
        // texts.
        let (first, end) = (format!("{}/", self.topic), format!("{}0", self.topic));
        let due = doc! {
            "recheck_at": { "$lte": now }, "origin": { "$gte": first, "$lt": end },
        };
        let set = doc! { "$set": { "recheck_at": after(now, LATE_WRITES) } };
        self.update(due, set).await
    }

    /// Records that the task of an orphaned document was sent again.
    pub(crate) async fn record_resend(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = working(&entry.file_id, &entry.round);
        self.set(&filter, doc! {}).await?;
        Ok(())
    }

    /// Records that the recheck of a document is complete.
    pub(crate) async fn record_rechecked(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = doc! { "_id": &entry.file_id, "round": &entry.round };
        let update = doc! {
            "$unset": { "recheck_at": "" },
            "$pull": { "open": { "$in": &entry.open } },
        };
        self.update(filter, update).await?;
        Ok(())
    }
}
