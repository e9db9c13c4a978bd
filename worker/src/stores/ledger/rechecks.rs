//! Rechecks: documents whose stores, or whose workers, must be inspected at a later time.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, LATE_WRITES, Ledger, after, in_state, unchanged_recheck, working};
use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

/// A recheck within this time is worth a worker: longer than any recheck is scheduled ahead.
const SOON: Duration = Duration::from_mins(15);
/// Counting ends here: more make no difference.
const MOST_COUNTED: u64 = 1000;
/// After this many failures a recheck is no longer worth a worker of its own ...
const MOST_FAILURES: u32 = 10;
/// ... so that the next attempt is further ahead than [`SOON`].
const PAUSE: Duration = Duration::from_hours(1);

impl Ledger {
    /// Schedules a recheck of a document in progress that has none: a worker of an earlier version
    /// began its round.
    pub(crate) async fn schedule_recheck(&self, file_id: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "state": "working", "recheck_at": null };
        let at = after(DateTime::now(), LATE_WRITES);
        self.set(&filter, doc! { "recheck_at": at }).await?;
        Ok(())
    }

    /// Schedules a recheck of a document that is done: its rows may not be those that were counted.
    pub(crate) async fn schedule_count(&self, file_id: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "state": "done" };
        self.set(&filter, doc! { "recheck_at": DateTime::now() })
            .await?;
        Ok(())
    }

    /// A document of this pipeline that is due for a recheck. The next recheck is scheduled, so
    /// that no other worker gets the document now.
    pub(crate) async fn next_recheck(&self) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        let mut due = self.of_this_pipeline();
        due.insert("recheck_at", doc! { "$lte": now });
        let set = doc! { "$set": { "recheck_at": after(now, LATE_WRITES) } };
        self.update(due, set).await
    }

    /// Number of documents of this pipeline whose recheck is due, or will be soon.
    pub(crate) async fn count_rechecks(&self) -> Result<u64, Failure> {
        let mut open = self.of_this_pipeline();
        open.insert("recheck_at", doc! { "$lte": after(DateTime::now(), SOON) });
        ask(self.entries.count_documents(open).limit(MOST_COUNTED)).await
    }

    /// Schedules rechecks of all documents in progress that have none: workers of an earlier
    /// version began their rounds.
    pub(crate) async fn schedule_missing_rechecks(&self) -> Result<(), Failure> {
        let mut filter = self.of_this_pipeline();
        filter.extend(doc! { "state": "working", "recheck_at": null });
        let update = doc! { "$set": unchanged_recheck() };
        ask(self.entries.update_many(filter, update)).await?;
        Ok(())
    }

    /// Postpones the recheck of a document in progress whose message Kafka still has.
    pub(crate) async fn postpone_recheck(&self, entry: &Entry) -> Result<(), Failure> {
        let update = doc! { "$set": unchanged_recheck() };
        self.update(working(&entry.file_id, &entry.round), update)
            .await?;
        Ok(())
    }

    /// Records that the task of an orphaned document was sent again.
    pub(crate) async fn record_resend(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = working(&entry.file_id, &entry.round);
        self.progress(&filter, doc! {}).await?;
        Ok(())
    }

    /// Records that the recheck of a document failed. It was scheduled again already. After many
    /// failures it has to wait longer, so that it does not keep a worker for ever.
    pub(crate) async fn record_failed_recheck(&self, entry: &Entry) -> Result<(), Failure> {
        let update = doc! { "$inc": { "failed_rechecks": 1 } };
        self.update(in_state(entry), update).await?;
        let mut hopeless = in_state(entry);
        hopeless.insert("failed_rechecks", doc! { "$gte": MOST_FAILURES });
        let pause = doc! { "$set": { "recheck_at": after(DateTime::now(), PAUSE) } };
        self.update(hopeless, pause).await?;
        Ok(())
    }

    /// Records that the recheck of a document is complete.
    pub(crate) async fn record_rechecked(&self, entry: &Entry) -> Result<(), Failure> {
        let update = doc! {
            "$unset": { "recheck_at": "", "failed_rechecks": "" },
            "$pull": { "open": { "$in": &entry.open } },
        };
        self.update(in_state(entry), update).await?;
        Ok(())
    }

    pub(super) fn of_this_pipeline(&self) -> Document {
        // Every text that begins with the topic and a slash. `0` follows the slash in the order of
        // texts.
        let (first, end) = (format!("{}/", self.topic), format!("{}0", self.topic));
        doc! { "origin": { "$gte": first, "$lt": end } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::entry::UNCHANGED;

    #[test]
    fn every_scheduled_recheck_is_counted() {
        assert!(SOON > UNCHANGED && SOON > LATE_WRITES);
    }

    #[test]
    fn a_recheck_that_has_failed_many_times_keeps_no_worker() {
        assert!(PAUSE > 2 * SOON);
    }
}
