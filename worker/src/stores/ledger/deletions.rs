//! Deletions that somebody asked for, by a message or a command.
//!
//! A deletion covers what was requested before its [`Cutoff`]. It does not touch a document that was
//! requested later, so a deletion that is delivered again has no effect on it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::{Entry, LATE_WRITES, Lease, Ledger, State, after, is_duplicate, token, unchanged};
use crate::document::{Cutoff, Sent};
use crate::runtime::failure::Failure;
use crate::stores::mongo::{answer, ask};

/// Deletions that an entry remembers.
const REMEMBERED: usize = 8;
/// The clocks of the object store and of those who send messages agree to within this.
const CLOCKS_AGREE: Duration = Duration::from_mins(1);

impl Ledger {
    /// Marks a file as deleted, whether it has an entry or not. Work on it is void from now on, and
    /// the caller has the lease to remove it. `original`: the key of the original, for a recheck if
    /// the caller does not finish. `None`: the document was requested after the deletion, or the
    /// deletion is complete.
    pub(crate) async fn delete(
        &self,
        file_id: &str,
        knowledge_base: &str,
        original: Option<&str>,
        cutoff: &Cutoff,
    ) -> Result<Option<(Lease, Entry)>, Failure> {
        loop {
            let Some(before) = self.find(file_id).await? else {
                let lease = Lease::new(file_id);
                let entry = self.deleted_entry(&lease, knowledge_base, original, cutoff);
                match answer(self.entries.insert_one(&entry)).await? {
                    Ok(_) => return Ok(Some((lease, entry))),
                    Err(error) if is_duplicate(&error) => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if before.is_untouched_by(cutoff) {
                if self.remember_deletion(&before, cutoff).await? {
                    return Ok(None);
                }
                continue;
            }
            let lease = Lease::taken_from(&before);
            let mut set = lease.fields();
            if let Some(key) = original {
                set.insert("minio_filename", key);
            }
            if let Some(entry) = self.mark_deleted(&before, cutoff, set).await? {
                return Ok(Some((lease, entry)));
            }
        }
    }

    /// Marks an entry as deleted and sets further fields. `None`: it has changed.
    async fn mark_deleted(
        &self,
        before: &Entry,
        cutoff: &Cutoff,
        mut set: Document,
    ) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        let earlier = before
            .finished_at
            .filter(|_| before.state == State::Deleted);
        set.extend(doc! {
            "state": "deleted", "round": token(), "deletion_requested": true,
            "deletions": array(&before.deletions_with(cutoff)),
            "finished_at": earlier.max(Some(cutoff.at)),
            "updated_at": now, "recheck_at": after(now, LATE_WRITES),
        });
        self.update(unchanged(before), doc! { "$set": set }).await
    }

    /// Records a deletion that has no effect on the document, because it was requested later. A
    /// task that was sent before the deletion is void nevertheless. `false`: the entry has changed.
    async fn remember_deletion(&self, before: &Entry, cutoff: &Cutoff) -> Result<bool, Failure> {
        let is_known = |known: &Cutoff| known.origin == cutoff.origin;
        if before.deletions.iter().any(is_known) {
            return Ok(true);
        }
        let done = Cutoff {
            done: true,
            ..cutoff.clone()
        };
        let set = doc! { "deletions": array(&before.deletions_with(&done)) };
        let update = doc! { "$set": set };
        Ok(self.update(unchanged(before), update).await?.is_some())
    }

    /// Ends the lease after everything of a deleted document is removed, its original included. A
    /// recheck does not remove the original again: the same key may be in use by then. The same
    /// deletions have no further effect.
    pub(crate) async fn end_deletion(&self, lease: &Lease, entry: &Entry) -> Result<(), Failure> {
        let done = entry.deletions.iter().map(|deletion| Cutoff {
            done: true,
            ..deletion.clone()
        });
        let done: Vec<Cutoff> = done.collect();
        let set = doc! { "minio_filename": "", "deletions": array(&done) };
        self.finish(lease, set).await
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

    /// Marks every file of a knowledge base as deleted that was requested before the deletion.
    /// Returns whether another one was requested later: then the knowledge base was created again.
    pub(crate) async fn delete_files_of(
        &self,
        knowledge_base: &str,
        cutoff: &Cutoff,
    ) -> Result<bool, Failure> {
        let filter = doc! { "knowledge_db_id": knowledge_base };
        let mut found = ask(self.entries.find(filter)).await?;
        let mut is_recreated = false;
        while let Some(entry) = ask(found.try_next()).await? {
            let mut known = Some(entry);
            while let Some(entry) = known {
                let is_decided = if entry.is_untouched_by(cutoff) {
                    is_recreated |= entry.state != State::Deleted;
                    self.remember_deletion(&entry, cutoff).await?
                } else {
                    let marked = self.mark_deleted(&entry, cutoff, Document::new());
                    marked.await?.is_some()
                };
                if is_decided {
                    break;
                }
                known = self.find(&entry.file_id).await?;
            }
        }
        Ok(is_recreated)
    }

    /// Whether the ledger has a document of the knowledge base.
    pub(crate) async fn has_files_of(&self, knowledge_base: &str) -> Result<bool, Failure> {
        let filter = doc! { "knowledge_db_id": knowledge_base };
        Ok(ask(self.entries.find_one(filter)).await?.is_some())
    }

    /// Records that a knowledge base is deleted. Its tasks that were sent before are void, also
    /// those that no worker has received yet.
    pub(crate) async fn begin_knowledge_base_deletion(
        &self,
        id: &str,
        cutoff: &Cutoff,
    ) -> Result<(), Failure> {
        self.record_knowledge_base(id, doc! { "deleted_at": cutoff.at })
            .await?;
        let unknown = doc! { "_id": id, "deletions.origin": { "$ne": &cutoff.origin } };
        let update = doc! { "$push": { "deletions": Bson::from(cutoff) } };
        let update = self.deleted_knowledge_bases.update_one(unknown, update);
        ask(update).await?;
        Ok(())
    }

    /// Records that nothing is left of what a deletion of a knowledge base covers.
    pub(crate) async fn complete_knowledge_base_deletion(
        &self,
        id: &str,
        cutoff: &Cutoff,
    ) -> Result<(), Failure> {
        self.record_knowledge_base(id, doc! { "completed_at": cutoff.at })
            .await?;
        let unknown = doc! { "_id": id, "completed": { "$ne": &cutoff.origin } };
        let update = doc! { "$push": { "completed": &cutoff.origin } };
        let update = self.deleted_knowledge_bases.update_one(unknown, update);
        ask(update).await?;
        Ok(())
    }

    async fn record_knowledge_base(&self, id: &str, latest: Document) -> Result<(), Failure> {
        let update = doc! { "$max": latest };
        let update = self
            .deleted_knowledge_bases
            .update_one(doc! { "_id": id }, update);
        ask(update.upsert(true)).await?;
        Ok(())
    }

    /// The deletion of a knowledge base that was requested after a task was sent.
    pub(crate) async fn knowledge_base_deletion_after(
        &self,
        id: &str,
        request: &Sent,
    ) -> Result<Option<Cutoff>, Failure> {
        let known = self.deleted_knowledge_base(id).await?;
        Ok(known.and_then(|known| known.deletion_after(request, &self.topic)))
    }

    /// Whether the deletion of a knowledge base was ever requested.
    pub(crate) async fn was_knowledge_base_deleted(&self, id: &str) -> Result<bool, Failure> {
        Ok(self.deleted_knowledge_base(id).await?.is_some())
    }

    /// Whether a deletion of a knowledge base is complete, or a later one is.
    pub(crate) async fn is_knowledge_base_deletion_complete(
        &self,
        id: &str,
        cutoff: &Cutoff,
    ) -> Result<bool, Failure> {
        let known = self.deleted_knowledge_base(id).await?;
        Ok(known.is_some_and(|known| known.is_complete(cutoff)))
    }

    async fn deleted_knowledge_base(
        &self,
        id: &str,
    ) -> Result<Option<DeletedKnowledgeBase>, Failure> {
        ask(self.deleted_knowledge_bases.find_one(doc! { "_id": id })).await
    }

    fn deleted_entry(
        &self,
        lease: &Lease,
        knowledge_base: &str,
        original: Option<&str>,
        cutoff: &Cutoff,
    ) -> Entry {
        let now = DateTime::now();
        Entry {
            file_id: lease.file_id().to_owned(),
            knowledge_db_id: knowledge_base.to_owned(),
            username: String::new(),
            task_id: String::new(),
            filename: String::new(),
            minio_filename: original.unwrap_or_default().to_owned(),
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
            cleaner: Some(lease.token().to_owned()),
            cleaning_until: Some(Lease::until()),
            requested_at: None,
            requested_origin: None,
            deletions: vec![cutoff.clone()],
            deletion_requested: true,
            created_at: now,
            began_at: None,
            updated_at: now,
            finished_at: Some(cutoff.at),
            no_room_since: None,
            object: None,
            object_version: None,
        }
    }
}

/// The record of a deleted knowledge base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DeletedKnowledgeBase {
    #[serde(rename = "_id")]
    id: String,
    /// When the latest deletion was requested.
    #[serde(default)]
    deleted_at: Option<DateTime>,
    /// When the latest deletion was requested of which nothing is left to do.
    #[serde(default)]
    completed_at: Option<DateTime>,
    #[serde(default)]
    deletions: Vec<Cutoff>,
    /// The origins of the complete ones.
    #[serde(default)]
    completed: Vec<String>,
}

impl DeletedKnowledgeBase {
    /// Whether a deletion is complete, or one that was requested later. Of one by an earlier
    /// version only the time is known.
    fn is_complete(&self, cutoff: &Cutoff) -> bool {
        let request = Sent {
            origin: cutoff.origin.clone(),
            at: cutoff.at,
        };
        let mut completed = self
            .deletions
            .iter()
            .filter(|deletion| self.completed.contains(&deletion.origin));
        let only_time = self.completed_at.filter(|at| lacks(&self.deletions, *at));
        completed.any(|deletion| deletion.origin == cutoff.origin || deletion.covers(&request))
            || only_time.is_some_and(|at| cutoff.at <= at)
    }

    /// A deletion that was requested after a task was sent. `topic` is the pipeline's.
    fn deletion_after(self, request: &Sent, topic: &str) -> Option<Cutoff> {
        let only_time = self.deleted_at.filter(|at| lacks(&self.deletions, *at));
        let mut all = self.deletions;
        all.extend(only_time.map(|at| Cutoff::at(topic, at)));
        all.into_iter().find(|deletion| deletion.covers(request))
    }
}

impl Entry {
    /// Whether the document was deleted after a request was made. Of a deletion through LAYRA, or
    /// by an earlier version of the worker, only the time is known. An object that left its bucket
    /// and is there again was written later, whatever the clocks say.
    pub(crate) fn is_deleted_after(&self, request: &Sent) -> bool {
        let finished = self.finished_at.unwrap_or(DateTime::MAX);
        let is_dated = self.state == State::Deleted && self.object.is_none();
        let has_only_time = is_dated && lacks(&self.deletions, finished);
        self.is_deletion_requested_after(request) || (has_only_time && request.at <= finished)
    }

    /// Whether somebody asked for the document's deletion after a request was made.
    pub(crate) fn is_deletion_requested_after(&self, request: &Sent) -> bool {
        self.deletions
            .iter()
            .any(|deletion| deletion.covers(request))
    }

    /// Whether an original that was uploaded at a time belongs to a request before a deletion. One
    /// that was uploaded later, under the same key, belongs to a later request.
    pub(crate) fn is_upload_deleted(&self, request: &Sent, uploaded: DateTime) -> bool {
        let covering = self.deletions.iter().filter(|known| known.covers(request));
        let deleted_at = covering.map(|known| known.at).max();
        deleted_at.is_some_and(|at| after(uploaded, CLOCKS_AGREE) < at)
    }

    /// Whether a deletion has no effect on the document: it is complete, or the document was
    /// requested later.
    fn is_untouched_by(&self, cutoff: &Cutoff) -> bool {
        let is_done = |known: &Cutoff| known.done && known.origin == cutoff.origin;
        let is_requested_later = self.requested_at.is_some() && !cutoff.covers(&self.requested());
        is_requested_later || self.deletions.iter().any(is_done)
    }

    /// The deletions that the entry remembers, with another one.
    fn deletions_with(&self, cutoff: &Cutoff) -> Vec<Cutoff> {
        let mut all = self.deletions.clone();
        all.retain(|known| known.origin != cutoff.origin);
        all.push(cutoff.clone());
        all.drain(..all.len().saturating_sub(REMEMBERED));
        all
    }
}

/// Whether no deletion has this time.
fn lacks(deletions: &[Cutoff], at: DateTime) -> bool {
    deletions.iter().all(|deletion| deletion.at != at)
}

fn array(deletions: &[Cutoff]) -> Bson {
    Bson::Array(deletions.iter().map(Bson::from).collect())
}

#[cfg(test)]
mod tests;
