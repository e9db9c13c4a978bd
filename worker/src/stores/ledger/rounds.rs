//! Rounds: each attempt at a whole document begins one and records how it ended.

use std::collections::BTreeMap;

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, LATE_WRITES, Ledger, Rejection, Request, State, after, number, token, working};
use crate::document::task::Task;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::mongo::{answer, ask};

impl Ledger {
    /// Begins a round. `before` is the entry of the previous one. `None`: another worker changed the
    /// entry in the meantime.
    pub(crate) async fn begin(
        &self,
        task: &Task,
        request: &Request,
        before: Option<&Entry>,
    ) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        let mut entry = Entry {
            file_id: task.file.file_id.clone(),
            knowledge_db_id: task.knowledge_base.clone(),
            username: task.username.clone(),
            task_id: task.task_id.clone(),
            filename: task.file.name.clone(),
            minio_filename: task.file.key.clone(),
            state: State::Working,
            round: token(),
            origin: request.origin.clone(),
            recipe: request.recipe.clone(),
            worker_since: request.worker_since,
            prepared: false,
            pages: None,
            range_pages: None,
            units: BTreeMap::new(),
            vectors: None,
            failure: None,
            open: Vec::new(),
            recheck_at: None,
            created_at: now,
            updated_at: now,
            finished_at: None,
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
                entry.recheck_at = before.recheck_at;
                let unchanged = doc! {
                    "_id": &before.file_id, "round": &before.round,
                    "state": state(before.state),
                };
                let replaced = ask(self.entries.replace_one(unchanged, &entry));
                replaced.await?.matched_count == 1
            }
        };
        Ok(written.then_some(entry))
    }

    /// Records the number of pages and the length of a range, if the document is split.
    pub(crate) async fn record_page_count(
        &self,
        entry: &Entry,
        pages: u32,
        range_pages: Option<u32>,
    ) -> Result<Option<Entry>, Failure> {
        let set = doc! { "pages": i64::from(pages), "range_pages": range_pages.map(i64::from) };
        self.set(&working(&entry.file_id, &entry.round), set).await
    }

    /// Records that the stores hold nothing of earlier rounds.
    pub(crate) async fn record_prepared(&self, entry: &Entry) -> Result<Option<Entry>, Failure> {
        let filter = working(&entry.file_id, &entry.round);
        self.set(&filter, doc! { "prepared": true }).await
    }

    /// Records that the document is searchable. Returns whether this call changed the state.
    pub(crate) async fn record_done(&self, entry: &Entry, vectors: u64) -> Result<bool, Failure> {
        let now = DateTime::now();
        let mut set = doc! {
            "state": "done", "vectors": number(vectors), "finished_at": now,
        };
        if !entry.open.is_empty() {
            set.insert("recheck_at", after(now, LATE_WRITES));
        }
        let filter = working(&entry.file_id, &entry.round);
        Ok(self.set(&filter, set).await?.is_some())
    }

    /// Records that the document cannot be processed. Returns whether this call changed the state.
    pub(crate) async fn record_failed(
        &self,
        file_id: &str,
        round: &str,
        failure: &Failure,
    ) -> Result<bool, Failure> {
        let rejection =
            mongodb::bson::serialize_to_document(&Rejection::from(failure)).map_err(|error| {
                Failure::permanent(Stage::Mongodb, Reason::DocumentNotStorable, error)
            })?;
        let now = DateTime::now();
        let set = doc! {
            "state": "failed", "failure": rejection, "finished_at": now,
            // Other workers may be processing ranges of the document.
            "recheck_at": after(now, LATE_WRITES),
        };
        Ok(self.set(&working(file_id, round), set).await?.is_some())
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
    pub(crate) async fn record_redrive(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = doc! { "_id": &entry.file_id, "round": &entry.round, "state": "failed" };
        self.set(&filter, doc! { "failure.redriven": true }).await?;
        Ok(())
    }

    /// Marks a file as deleted, whether it has an entry or not. Work on it is void from now on.
    pub(crate) async fn delete(&self, file_id: &str, knowledge_base: &str) -> Result<(), Failure> {
        let now = DateTime::now();
        let mut update = deleted(now);
        update.insert(
            "$setOnInsert",
            doc! {
                "knowledge_db_id": knowledge_base, "username": "", "task_id": "",
                "filename": "", "minio_filename": "", "recipe": "",
                "origin": format!("{}/deleted", self.topic),
                "worker_since": now, "created_at": now,
            },
        );
        let update = self.entries.update_one(doc! { "_id": file_id }, update);
        ask(update.upsert(true)).await?;
        Ok(())
    }

    /// Marks every file of a knowledge base as deleted.
    pub(crate) async fn delete_knowledge_base(&self, knowledge_base: &str) -> Result<(), Failure> {
        ask(self.entries.update_many(
            doc! { "knowledge_db_id": knowledge_base, "state": { "$ne": "deleted" } },
            deleted(DateTime::now()),
        ))
        .await?;
        Ok(())
    }
}

fn deleted(now: DateTime) -> Document {
    doc! { "$set": {
        "state": "deleted", "round": token(), "finished_at": now, "updated_at": now,
        "recheck_at": after(now, LATE_WRITES),
    } }
}

fn state(state: State) -> &'static str {
    match state {
        State::Working => "working",
        State::Done => "done",
        State::Failed => "failed",
        State::Deleted => "deleted",
    }
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == 11000)
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
}
