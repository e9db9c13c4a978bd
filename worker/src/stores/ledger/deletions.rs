//! Deletions that somebody asked for, by a message or a command.
//!
//! A deletion counts from the time of its message. It does not touch a document that was requested
//! later, so a deletion that is delivered again has no effect on it.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, LATE_WRITES, Lease, Ledger, State, after, is_duplicate, token};
use crate::runtime::failure::Failure;
use crate::stores::mongo::{answer, ask};

impl Ledger {
    /// Marks a file as deleted at the time `at`, whether it has an entry or not. Work on it is void
    /// from now on, and the caller has the lease to remove it. `original`: the key of the original,
    /// for a recheck if the caller does not finish. `None`: the document was requested,
    /// or its deletion, after `at`.
    pub(crate) async fn delete(
        &self,
        file_id: &str,
        knowledge_base: &str,
        original: Option<&str>,
        at: DateTime,
    ) -> Result<Option<(Lease, Entry)>, Failure> {
        let lease = Lease::new(file_id);
        let mut filter = not_later(at);
        filter.insert("_id", file_id);
        let mut set = deleted(at);
        set.extend(lease.fields());
        if let Some(key) = original {
            set.insert("minio_filename", key);
        }
        loop {
            let update = doc! { "$set": set.clone() };
            if let Some(entry) = self.update(filter.clone(), update).await? {
                return Ok(Some((lease, entry)));
            }
            let entry = self.deleted_entry(file_id, knowledge_base, at);
            // The loop then takes the lease.
            match answer(self.entries.insert_one(entry)).await? {
                Ok(_) => {}
                Err(error) if is_duplicate(&error) => {
                    let entry = self.find(file_id).await?;
                    if entry.is_some_and(|entry| entry.is_later_than(at)) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the lease after everything of a deleted document is removed, its original included. A
    /// recheck does not remove the original again: the same key may be in use by then.
    pub(crate) async fn end_deletion(&self, lease: &Lease) -> Result<(), Failure> {
        self.finish(lease, doc! { "minio_filename": "" }).await
    }

    /// The files of a knowledge base that are marked as deleted, and whose originals may be left.
    pub(crate) async fn deleted_files_of(
        &self,
        knowledge_base: &str,
    ) -> Result<Vec<String>, Failure> {
        let left = doc! {
            "knowledge_db_id": knowledge_base, "state": "deleted",
            "minio_filename": { "$ne": "" },
        };
        let mut found = ask(self.entries.find(left)).await?;
        let mut ids = Vec::new();
        while let Some(entry) = ask(found.try_next()).await? {
            ids.push(entry.file_id);
        }
        Ok(ids)
    }

    /// Marks every file of a knowledge base as deleted at the time `at`, except those that were
    /// requested later.
    pub(crate) async fn delete_files_of(
        &self,
        knowledge_base: &str,
        at: DateTime,
    ) -> Result<(), Failure> {
        let mut filter = not_later(at);
        filter.insert("knowledge_db_id", knowledge_base);
        // Their rounds differ anyway.
        let update = doc! { "$set": deleted(at) };
        ask(self.entries.update_many(filter, update)).await?;
        Ok(())
    }

    /// Whether a document of the knowledge base was requested after `at`: then the knowledge base
    /// was created again.
    pub(crate) async fn has_later_request(
        &self,
        knowledge_base: &str,
        at: DateTime,
    ) -> Result<bool, Failure> {
        let later = doc! {
            "knowledge_db_id": knowledge_base, "requested_at": { "$gt": at },
            "state": { "$ne": "deleted" },
        };
        Ok(ask(self.entries.find_one(later)).await?.is_some())
    }

    /// Whether the ledger has a document of the knowledge base.
    pub(crate) async fn has_files_of(&self, knowledge_base: &str) -> Result<bool, Failure> {
        let filter = doc! { "knowledge_db_id": knowledge_base };
        Ok(ask(self.entries.find_one(filter)).await?.is_some())
    }

    /// Records that a knowledge base is deleted. Its tasks that were sent until `at` are void, also
    /// those that no worker has received yet.
    pub(crate) async fn begin_knowledge_base_deletion(
        &self,
        id: &str,
        at: DateTime,
    ) -> Result<(), Failure> {
        self.record_knowledge_base(id, doc! { "deleted_at": at })
            .await
    }

    /// Records that nothing is left of a knowledge base that was deleted at `at`.
    pub(crate) async fn complete_knowledge_base_deletion(
        &self,
        id: &str,
        at: DateTime,
    ) -> Result<(), Failure> {
        self.record_knowledge_base(id, doc! { "completed_at": at })
            .await
    }

    async fn record_knowledge_base(&self, id: &str, latest: Document) -> Result<(), Failure> {
        let update = doc! { "$max": latest };
        let update = self
            .deleted_knowledge_bases
            .update_one(doc! { "_id": id }, update);
        ask(update.upsert(true)).await?;
        Ok(())
    }

    /// When the latest deletion of a knowledge base was requested.
    pub(crate) async fn knowledge_base_deleted_at(
        &self,
        id: &str,
    ) -> Result<Option<DateTime>, Failure> {
        self.knowledge_base_time(id, "deleted_at").await
    }

    /// Whether the deletion of a knowledge base that was requested at `at` is complete.
    pub(crate) async fn is_knowledge_base_deletion_complete(
        &self,
        id: &str,
        at: DateTime,
    ) -> Result<bool, Failure> {
        let completed = self.knowledge_base_time(id, "completed_at").await?;
        Ok(completed.is_some_and(|completed| completed >= at))
    }

    async fn knowledge_base_time(
        &self,
        id: &str,
        field: &str,
    ) -> Result<Option<DateTime>, Failure> {
        let found = ask(self.deleted_knowledge_bases.find_one(doc! { "_id": id })).await?;
        Ok(found.and_then(|found| found.get_datetime(field).ok().copied()))
    }

    fn deleted_entry(&self, file_id: &str, knowledge_base: &str, at: DateTime) -> Entry {
        let now = DateTime::now();
        Entry {
            file_id: file_id.to_owned(),
            knowledge_db_id: knowledge_base.to_owned(),
            username: String::new(),
            task_id: String::new(),
            filename: String::new(),
            minio_filename: String::new(),
            state: State::Deleted,
            round: token(),
            origin: format!("{}/deleted", self.topic),
            recipe: String::new(),
            worker_since: now,
            prepared: false,
            pages: None,
            range_pages: None,
            units: BTreeMap::new(),
            repeats: 0,
            vectors: None,
            failure: None,
            open: Vec::new(),
            recheck_at: Some(after(now, LATE_WRITES)),
            cleaner: None,
            cleaning_until: None,
            requested_at: None,
            deletion_requested: true,
            created_at: now,
            updated_at: now,
            finished_at: Some(at),
        }
    }
}

impl Entry {
    /// Whether the document, or its deletion, was requested after `at`.
    fn is_later_than(&self, at: DateTime) -> bool {
        let deleted_later = self.state == State::Deleted
            && self.deletion_requested
            && self.finished_at.is_none_or(|finished| finished > at);
        deleted_later || self.requested_at.is_some_and(|requested| requested > at)
    }
}

/// Matches an entry that is not [later](Entry::is_later_than) than a deletion.
fn not_later(at: DateTime) -> Document {
    doc! { "$and": [
        { "$or": [{ "requested_at": null }, { "requested_at": { "$lte": at } }] },
        { "$or": [
            { "state": { "$ne": "deleted" } },
            { "deletion_requested": { "$ne": true } },
            { "finished_at": { "$lte": at } },
        ] },
    ] }
}

/// The fields of an entry that was deleted at `at`.
fn deleted(at: DateTime) -> Document {
    let now = DateTime::now();
    doc! {
        "state": "deleted", "round": token(), "finished_at": at, "deletion_requested": true,
        "updated_at": now, "recheck_at": after(now, LATE_WRITES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    fn time(ms: i64) -> DateTime {
        DateTime::from_millis(ms)
    }

    #[test]
    fn a_deletion_does_not_touch_what_was_requested_after_it() {
        let mut entry = an_entry(State::Done);
        assert!(!entry.is_later_than(time(5)), "an earlier version wrote it");
        entry.requested_at = Some(time(5));
        assert!(!entry.is_later_than(time(5)));
        assert!(entry.is_later_than(time(4)));
    }

    #[test]
    fn a_repeated_deletion_completes_itself_and_not_a_later_one() {
        let mut entry = an_entry(State::Deleted);
        entry.finished_at = Some(time(5));
        assert!(!entry.is_later_than(time(4)), "nobody asked for it");
        entry.deletion_requested = true;
        assert!(!entry.is_later_than(time(5)));
        assert!(entry.is_later_than(time(4)));
    }
}
