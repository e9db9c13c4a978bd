//! The ledger: what is known of every document across deliveries and crashes, in the collection
//! `ingestion_ledger` beside LAYRA's own.
//!
//! It is written before the first effect of a piece of work. A worker works under a *claim*; the
//! claim is checked with each batch, so that of two workers with the same document the later one
//! wins and the earlier one stops. A claim that was never given back is a worker that died or is
//! late: the document is looked at once more when a late write can have landed.

mod entry;

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Collection, Database, IndexModel};
use uuid::Uuid;

pub use entry::{Entry, Rejection, Request, State, Unit};

#[cfg(test)]
pub(crate) use entry::tests::entry as an_entry;

use crate::document::task::Task;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::mongo::{answer, ask, classify};

/// A write that was on its way when its worker was replaced has landed, or failed, after this:
/// twice the longest request.
const LATE_WRITES: Duration = Duration::from_mins(2);

/// A pipeline's view of the ledger that all pipelines share whose documents are in a database.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: Collection<Entry>,
    topic: String,
}

/// The right to work on a range of pages until somebody else takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The document.
    pub file_id: String,
    /// The round.
    pub round: String,
    /// The range's first page.
    pub first: u32,
    token: String,
}

impl Ledger {
    /// The ledger in a database, for the pipeline of a topic.
    #[must_use]
    pub fn new(database: &Database, topic: &str) -> Self {
        Self {
            entries: database.collection("ingestion_ledger"),
            topic: topic.to_owned(),
        }
    }

    /// Makes the indexes.
    pub async fn prepare(&self) -> Result<(), Failure> {
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

    /// What is known of a document.
    pub async fn find(&self, file_id: &str) -> Result<Option<Entry>, Failure> {
        ask(self.entries.find_one(doc! { "_id": file_id })).await
    }

    /// Begins a round. `before` is what was known; `None` when that has changed meanwhile.
    pub async fn begin(
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
            units: std::collections::BTreeMap::new(),
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
                Err(error) => return Err(classify(&error)),
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

    /// Notes how many pages the document has, and whether it is split.
    pub async fn opened(
        &self,
        entry: &Entry,
        pages: u32,
        range_pages: Option<u32>,
    ) -> Result<Option<Entry>, Failure> {
        let set = doc! { "pages": i64::from(pages), "range_pages": range_pages.map(i64::from) };
        self.set(&working(&entry.file_id, &entry.round), set).await
    }

    /// Notes that the stores hold nothing of earlier rounds.
    pub async fn prepared(&self, entry: &Entry) -> Result<Option<Entry>, Failure> {
        let filter = working(&entry.file_id, &entry.round);
        self.set(&filter, doc! { "prepared": true }).await
    }

    /// Takes a range, from somebody else if need be, and returns the entry as it is now. `None`:
    /// the range is done, or its round is over. Asked again, because no answer came, it counts once.
    pub async fn claim(&self, claim: &Claim) -> Result<Option<Entry>, Failure> {
        let Claim {
            file_id,
            round,
            first,
            token,
        } = claim;
        let mut filter = working(file_id, round);
        filter.insert(path(*first, "done"), doc! { "$ne": true });
        filter.insert(path(*first, "claim"), doc! { "$ne": token });
        let update = doc! {
            "$set": { path(*first, "claim"): token, "updated_at": DateTime::now() },
            "$inc": { path(*first, "attempts"): 1_i64, path(*first, "turns"): 1_i64 },
            "$push": { "open": token },
        };
        if let Some(entry) = self.update(filter, update).await? {
            return Ok(Some(entry));
        }
        let now = self.find(file_id).await?;
        Ok(now.filter(|entry| claim.is_held_in(entry)))
    }

    /// Notes that the first `stored` pages of the range are in all stores, with `rows` rows.
    /// `false`: the claim is void.
    pub async fn progress(&self, claim: &Claim, stored: u32, rows: u64) -> Result<bool, Failure> {
        let set = doc! {
            path(claim.first, "stored"): i64::from(stored),
            path(claim.first, "rows"): number(rows),
            path(claim.first, "attempts"): 1_i64,
        };
        Ok(self.set(&claim.filter(), set).await?.is_some())
    }

    /// How far the range is, while the claim holds.
    pub async fn held(&self, claim: &Claim) -> Result<Option<Unit>, Failure> {
        let entry = self.set(&claim.filter(), doc! {}).await?;
        Ok(entry.map(|entry| entry.unit(claim.first)))
    }

    /// Notes that every page of the range is stored. `None`: the claim is void.
    pub async fn unit_done(
        &self,
        claim: &Claim,
        pages: u32,
        rows: u64,
    ) -> Result<Option<Entry>, Failure> {
        let update = doc! {
            "$set": {
                path(claim.first, "stored"): i64::from(pages),
                path(claim.first, "rows"): number(rows),
                path(claim.first, "done"): true,
                path(claim.first, "attempts"): 0_i64,
                "updated_at": DateTime::now(),
            },
            "$pull": { "open": &claim.token },
        };
        self.update(claim.filter(), update).await
    }

    /// Gives a range back, unharmed. Asked again, it counts once: an open claim is closed with it.
    pub async fn release(&self, claim: &Claim) -> Result<(), Failure> {
        let mut filter = claim.filter();
        filter.insert("open", &claim.token);
        let update = doc! {
            "$inc": { path(claim.first, "attempts"): -1_i64 },
            "$set": { "updated_at": DateTime::now() },
            "$pull": { "open": &claim.token },
        };
        match self.update(filter, update).await? {
            Some(_) => Ok(()),
            None => self.close(claim).await,
        }
    }

    /// Notes that nothing of this claim is on its way any more.
    pub async fn close(&self, claim: &Claim) -> Result<(), Failure> {
        let update = doc! { "$pull": { "open": &claim.token } };
        self.update(doc! { "_id": &claim.file_id }, update).await?;
        Ok(())
    }

    /// Notes that the document is searchable. Returns whether this call made it so.
    pub async fn finish(&self, entry: &Entry, vectors: u64) -> Result<bool, Failure> {
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

    /// Notes that the document cannot be processed. Returns whether this call made it so.
    pub async fn fail(
        &self,
        file_id: &str,
        round: &str,
        failure: &Failure,
    ) -> Result<bool, Failure> {
        let rejection = mongodb::bson::serialize_to_document(&Rejection::from(failure))
            .map_err(|error| Failure::permanent(Stage::Mongodb, "DocumentNotStorable", error))?;
        let now = DateTime::now();
        let set = doc! {
            "state": "failed", "failure": rejection, "finished_at": now,
            // Ranges of the document may be in work elsewhere.
            "recheck_at": after(now, LATE_WRITES),
        };
        Ok(self.set(&working(file_id, round), set).await?.is_some())
    }

    /// Notes that the dead letter is written.
    pub async fn lettered(&self, file_id: &str, round: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "round": round, "state": "failed" };
        self.set(&filter, doc! { "failure.letter": true }).await?;
        Ok(())
    }

    /// Notes that the dead letter was put back.
    pub async fn redriven(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = doc! { "_id": &entry.file_id, "round": &entry.round, "state": "failed" };
        self.set(&filter, doc! { "failure.redriven": true }).await?;
        Ok(())
    }

    /// Marks a file as deleted, known or not. What is done to it from now on is void.
    pub async fn delete(&self, file_id: &str, knowledge_base: &str) -> Result<(), Failure> {
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
    pub async fn delete_knowledge_base(&self, knowledge_base: &str) -> Result<(), Failure> {
        ask(self.entries.update_many(
            doc! { "knowledge_db_id": knowledge_base, "state": { "$ne": "deleted" } },
            deleted(DateTime::now()),
        ))
        .await?;
        Ok(())
    }

    /// Has a document looked at that somebody else has taken over. The claim may have been on its
    /// way when the worker that made it died: then nobody has the document's message any more.
    pub async fn watch(&self, file_id: &str) -> Result<(), Failure> {
        let filter = doc! { "_id": file_id, "state": "working", "recheck_at": null };
        let at = after(DateTime::now(), LATE_WRITES);
        self.set(&filter, doc! { "recheck_at": at }).await?;
        Ok(())
    }

    /// A document of this pipeline whose stores, or whose work, should be looked at once more. Other
    /// workers get it later.
    pub async fn next_recheck(&self) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        // All that begins with the topic and a slash, after which comes a 0 in the order of texts.
        let (first, end) = (format!("{}/", self.topic), format!("{}0", self.topic));
        let due = doc! {
            "recheck_at": { "$lte": now }, "origin": { "$gte": first, "$lt": end },
        };
        let set = doc! { "$set": { "recheck_at": after(now, LATE_WRITES) } };
        self.update(due, set).await
    }

    /// Notes that the task of a document that nobody had was sent once more.
    pub async fn adopted(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = working(&entry.file_id, &entry.round);
        self.set(&filter, doc! {}).await?;
        Ok(())
    }

    /// Notes that a document was looked at and is as it should be.
    pub async fn rechecked(&self, entry: &Entry) -> Result<(), Failure> {
        let filter = doc! { "_id": &entry.file_id, "round": &entry.round };
        let update = doc! {
            "$unset": { "recheck_at": "" },
            "$pull": { "open": { "$in": &entry.open } },
        };
        self.update(filter, update).await?;
        Ok(())
    }

    async fn set(&self, filter: &Document, mut set: Document) -> Result<Option<Entry>, Failure> {
        set.insert("updated_at", DateTime::now());
        self.update(filter.clone(), doc! { "$set": set }).await
    }

    async fn update(&self, filter: Document, update: Document) -> Result<Option<Entry>, Failure> {
        let update = self.entries.find_one_and_update(filter, update);
        ask(update.return_document(ReturnDocument::After)).await
    }
}

impl Claim {
    /// A claim to the range of a round that begins at page `first`, not yet made.
    #[must_use]
    pub fn new(file_id: &str, round: &str, first: u32) -> Self {
        Self {
            file_id: file_id.to_owned(),
            round: round.to_owned(),
            first,
            token: token(),
        }
    }

    fn is_held_in(&self, entry: &Entry) -> bool {
        let unit = entry.unit(self.first);
        let goes_on = entry.state == State::Working && entry.round == self.round;
        goes_on && !unit.done && unit.claim == self.token
    }

    fn filter(&self) -> Document {
        let mut filter = working(&self.file_id, &self.round);
        filter.insert(path(self.first, "claim"), &self.token);
        filter
    }
}

/// A document whose round goes on.
fn working(file_id: &str, round: &str) -> Document {
    doc! { "_id": file_id, "round": round, "state": "working" }
}

fn deleted(now: DateTime) -> Document {
    doc! { "$set": {
        "state": "deleted", "round": token(), "finished_at": now, "updated_at": now,
        "recheck_at": after(now, LATE_WRITES),
    } }
}

fn path(first: u32, field: &str) -> String {
    format!("units.{first}.{field}")
}

fn state(state: State) -> &'static str {
    match state {
        State::Working => "working",
        State::Done => "done",
        State::Failed => "failed",
        State::Deleted => "deleted",
    }
}

/// A name that nobody else has.
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

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == 11000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_that_are_asked_for() {
        for each in [State::Working, State::Done, State::Failed, State::Deleted] {
            let stored = mongodb::bson::serialize_to_bson(&each).unwrap();
            assert_eq!(stored.as_str(), Some(state(each)));
        }
    }

    #[test]
    fn an_entry_survives_the_database() {
        let mut entry = an_entry(State::Working);
        entry.units.insert(
            "64".into(),
            Unit {
                attempts: 2,
                rows: 7,
                ..Unit::default()
            },
        );
        let stored = mongodb::bson::serialize_to_document(&entry).unwrap();
        assert_eq!(stored.get_str("_id").ok(), Some("u_f"));
        let read: Entry = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(read, entry);
    }
}
