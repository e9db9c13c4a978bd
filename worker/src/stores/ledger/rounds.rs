//! Rounds: each attempt at a whole document begins one and records how it ended.

use std::collections::BTreeMap;

use mongodb::bson::{DateTime, doc};

use super::cleaning::{being_removed, no_lease};
use super::{
    Entry, LATE_WRITES, Ledger, Request, State, UNCHANGED, after, is_duplicate, number, token,
    unchanged, working,
};
use crate::document::task::Task;
use crate::document::{Recipe, Sent};
use crate::runtime::failure::Failure;
use crate::stores::mongo::{answer, ask};

impl Ledger {
    /// Begins a round. `before` is the entry of the previous one. `None`: another worker changed
    /// the entry in the meantime. Fails, to be retried, while a worker removes the document's data.
    pub(crate) async fn begin(
        &self,
        task: &Task,
        request: &Request,
        before: Option<&Entry>,
    ) -> Result<Option<Entry>, Failure> {
        self.begin_after(task, request, before, 0).await
    }

    /// Begins a round for the request of the previous one, after which the stores did not hold the
    /// document exactly once.
    pub(crate) async fn repeat(&self, before: &Entry) -> Result<Option<Entry>, Failure> {
        let request = Request {
            // A later deletion may be on its way.
            sent: before.requested(),
            recipe: Recipe::stored(&before.recipe),
            worker_since: before.worker_since,
        };
        let repeats = before.repeats.saturating_add(1);
        self.begin_after(&Task::from(before), &request, Some(before), repeats)
            .await
    }

    async fn begin_after(
        &self,
        task: &Task,
        request: &Request,
        before: Option<&Entry>,
        repeats: u32,
    ) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        let version = task.file.version.as_ref();
        let mut entry = Entry {
            file_id: task.file.file_id.clone(),
            knowledge_db_id: task.knowledge_base.clone(),
            username: task.username.clone(),
            task_id: task.task_id.clone(),
            filename: task.file.name.clone(),
            minio_filename: task.file.key.clone(),
            state: State::Working,
            round: token(),
            origin: request.sent.origin.clone(),
            recipe: request.recipe.digest().to_owned(),
            worker_since: request.worker_since,
            prepared: false,
            pages: None,
            range_pages: None,
            units: BTreeMap::new(),
            repeats,
            vectors: None,
            failure: None,
            open: Vec::new(),
            recheck_at: Some(after(now, UNCHANGED)),
            cleaner: None,
            cleaning_until: None,
            requested_at: Some(request.sent.at),
            requested_origin: Some(request.sent.origin.clone()),
            deletions: Vec::new(),
            deletion_requested: false,
            created_at: now,
            began_at: Some(now),
            updated_at: now,
            finished_at: None,
            no_room_since: None,
            object: version.map(|version| version.object.clone()),
            object_version: version.map(|version| version.version.clone()),
        };
        let written = match before {
            None => match answer(self.entries.insert_one(&entry)).await? {
                Ok(_) => true,
                Err(error) if is_duplicate(&error) => false,
                Err(error) => return Err(error.into()),
            },
            Some(before) => {
                entry.created_at = before.created_at;
                entry.open.clone_from(&before.open);
                entry.deletions.clone_from(&before.deletions);
                // A repeated message does not make the document's latest request older.
                if before.is_requested_after(&request.sent) {
                    entry.requested_at = before.requested_at;
                    entry.requested_origin.clone_from(&before.requested_origin);
                }
                let mut unchanged = unchanged(before);
                unchanged.extend(no_lease());
                let replaced = ask(self.entries.replace_one(unchanged, &entry));
                let written = replaced.await?.matched_count == 1;
                if !written && self.is_being_removed(before).await? {
                    return Err(being_removed());
                }
                written
            }
        };
        Ok(written.then_some(entry))
    }

    /// Whether the entry is unchanged and a worker removes the document from the stores.
    async fn is_being_removed(&self, before: &Entry) -> Result<bool, Failure> {
        let now = self.find(&before.file_id).await?;
        Ok(now.is_some_and(|now| {
            (&now.round, now.state) == (&before.round, before.state) && now.is_leased()
        }))
    }

    /// Records a later request for a document that is in progress or done: a deletion that was
    /// requested before it does not touch the document. `false`: the entry has changed, so the
    /// request must be decided on again.
    pub(crate) async fn record_request(
        &self,
        entry: &Entry,
        request: &Sent,
    ) -> Result<bool, Failure> {
        if entry.requested_at.is_some() && !request.is_after(&entry.requested()) {
            return Ok(true);
        }
        let set = doc! { "requested_at": request.at, "requested_origin": &request.origin };
        let update = doc! { "$set": set };
        Ok(self.update(unchanged(entry), update).await?.is_some())
    }

    /// Records that the document is searchable. Returns whether this call changed the state.
    pub(crate) async fn record_done(&self, entry: &Entry, vectors: u64) -> Result<bool, Failure> {
        let now = DateTime::now();
        let mut set = doc! {
            "state": "done", "vectors": number(vectors), "finished_at": now,
        };
        // Without late writes there is nothing to recheck.
        let late = (!entry.open.is_empty()).then(|| after(now, LATE_WRITES));
        set.insert("recheck_at", late);
        let filter = working(&entry.file_id, &entry.round);
        Ok(self.set(&filter, set).await?.is_some())
    }

    /// Records the number of rows of a document that is done, unless the entry has changed: its
    /// collection was embedded again. `None`: its rows are not all there, and a worker ingests it
    /// again.
    pub(crate) async fn record_rows(
        &self,
        entry: &Entry,
        vectors: Option<u64>,
    ) -> Result<bool, Failure> {
        let filter = doc! {
            "_id": &entry.file_id, "round": &entry.round, "state": "done",
            "vectors": entry.vectors.map(number),
        };
        let mut set = doc! { "vectors": vectors.map(number) };
        if vectors.is_none() {
            set.insert("recheck_at", DateTime::now());
        }
        Ok(self.set(&filter, set).await?.is_some())
    }

    /// Records that the dead letter was sent.
    pub(crate) async fn record_dead_letter_sent(
        &self,
        file_id: &str,
        round: &str,
    ) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "round": round, "state": "failed" };
        self.set(&filter, doc! { "failure.letter": true }).await?;
        Ok(())
    }

    /// Records that the dead letter was redriven.
    pub(crate) async fn record_redrive(&self, file_id: &str, round: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "round": round, "state": "failed" };
        self.set(&filter, doc! { "failure.redriven": true }).await?;
        Ok(())
    }
}

impl Entry {
    /// Whether another request than this one was made later. A request before a deletion counts no
    /// more.
    fn is_requested_after(&self, request: &Sent) -> bool {
        let known = self.requested();
        self.requested_at.is_some() && !self.is_deleted_after(&known) && known.is_after(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Cutoff, Origin};
    use crate::stores::ledger::an_entry;

    fn sent(offset: i64, ms: i64) -> Sent {
        Sent {
            origin: format!("tasks/0/{offset}"),
            at: DateTime::from_millis(ms),
        }
    }

    #[test]
    fn the_latest_request_is_the_one_that_no_deletion_follows() {
        let mut entry = an_entry(State::Working);
        assert!(!entry.is_requested_after(&sent(3, 5)), "nothing is known");
        entry.requested_at = Some(DateTime::from_millis(9));
        entry.requested_origin = Some("tasks/0/7".into());
        assert!(entry.is_requested_after(&sent(3, 50)));
        assert!(!entry.is_requested_after(&sent(7, 9)), "the same");
        assert!(!entry.is_requested_after(&sent(8, 5)));
        let position = Origin::parse("tasks/0/9").unwrap();
        let deletion = Cutoff::of_message(&position, DateTime::from_millis(1));
        entry.deletions.push(deletion);
        // A clock that is ahead does not make it the latest again.
        let elsewhere = Sent {
            origin: "tasks/1/2".into(),
            at: DateTime::from_millis(8),
        };
        assert!(!entry.is_requested_after(&elsewhere));
    }
}
