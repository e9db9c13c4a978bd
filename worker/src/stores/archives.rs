//! Which knowledge bases are archived, in the collection `ingestion_archives`: one record for each
//! knowledge base that was archived once.
//!
//! A command holds the record while it works. Its right ends by itself when it is not renewed, so
//! that a command that was killed can be run again. Workers look at the record before they begin a
//! round, and again after that; a command looks for rounds in progress after it has written the
//! record: one of the two sees the other.

use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::{self, while_renewed};
use crate::stores::mongo::{answer, ask};
use crate::stores::objects::Objects;

/// The records of a database.
#[derive(Clone, Debug)]
pub(crate) struct Archives {
    records: Collection<Record>,
    /// The bucket that the pipeline archives to, if it does.
    objects: Option<Objects>,
}

/// What is known about the archive of a knowledge base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(rename = "_id")]
    pub(crate) knowledge_base: String,
    pub(crate) state: ArchiveState,
    pub(crate) bucket: String,
    /// Prefix of the archive's keys.
    pub(crate) place: String,
    /// SHA-256 of the manifest. Empty before it is written.
    #[serde(default)]
    pub(crate) manifest: String,
    /// When the command began.
    pub(crate) started_at: DateTime,
    /// When the archive was complete.
    #[serde(default)]
    pub(crate) archived_at: Option<DateTime>,
    /// The command that works on it.
    #[serde(default)]
    pub(crate) holder: Option<String>,
    /// When that command's right ends, unless it is renewed.
    #[serde(default)]
    pub(crate) held_until: Option<DateTime>,
}

/// How far an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ArchiveState {
    /// It is being written. The collection is whole.
    Archiving,
    /// It is complete. The collection is dropped, or about to be.
    Archived,
    /// It is being restored. The collection may lack rows.
    Restoring,
    /// The collection is whole again.
    Restored,
}

impl Record {
    /// Whether a command works on it now.
    pub(crate) fn is_held(&self, now: DateTime) -> bool {
        self.holder.is_some() && self.held_until.is_some_and(|until| until > now)
    }

    /// Whether the collection is, or may be, missing or incomplete because of the archive.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.state, ArchiveState::Archived | ArchiveState::Restoring)
    }

    /// Whether nobody else may replace the collection: a command reads or fills it, or it is not
    /// whole.
    pub(crate) fn keeps_collection(&self, now: DateTime) -> bool {
        self.is_held(now) || self.is_away()
    }

    /// Whether the collection came out of the archive, completely or in part.
    pub(crate) fn is_restored(&self) -> bool {
        matches!(self.state, ArchiveState::Restoring | ArchiveState::Restored)
    }

    /// Why no document may be ingested into the knowledge base now. A command that works on it may
    /// still give up.
    pub(crate) fn refusal(&self, now: DateTime) -> Option<Failure> {
        let id = &self.knowledge_base;
        match self.state {
            _ if self.is_held(now) => {
                let message = format!("knowledge base {id} is being archived or restored");
                let reason = Reason::KnowledgeBaseArchived;
                Some(Failure::transient(Stage::Milvus, reason, message))
            }
            ArchiveState::Archived | ArchiveState::Restoring => Some(archived(id)),
            // The command was killed before it dropped anything.
            ArchiveState::Archiving | ArchiveState::Restored => None,
        }
    }
}

/// The knowledge base has no collection, because it is archived.
pub(crate) fn archived(knowledge_base: &str) -> Failure {
    let message = format!(
        "knowledge base {knowledge_base} is archived. Restore it first: layra-worker restore \
         --knowledge-base {knowledge_base}"
    );
    Failure::permanent(Stage::Milvus, Reason::KnowledgeBaseArchived, message)
}

impl Archives {
    pub(crate) fn new(database: &Database, objects: Option<Objects>) -> Self {
        Self {
            records: database.collection("ingestion_archives"),
            objects,
        }
    }

    /// The bucket that the pipeline archives to, if it does.
    pub(crate) fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref()
    }

    /// Removes the archive of a deleted knowledge base, whoever works on it.
    pub(crate) async fn delete(&self, knowledge_base: &str) -> Result<(), Failure> {
        let Some(record) = self.find(knowledge_base).await? else {
            return Ok(());
        };
        let Record { bucket, place, .. } = &record;
        match &self.objects {
            Some(objects) if objects.bucket() == bucket => objects.delete_below(place).await?,
            _ => {
                tracing::warn!(
                    bucket,
                    place,
                    "archive not removed: it is in another bucket"
                );
                return Ok(());
            }
        }
        let filter = doc! { "_id": knowledge_base };
        ask(self.records.delete_one(filter)).await?;
        Ok(())
    }

    /// The record of a knowledge base.
    pub(crate) async fn find(&self, knowledge_base: &str) -> Result<Option<Record>, Failure> {
        ask(self.records.find_one(doc! { "_id": knowledge_base })).await
    }

    /// The records of the knowledge bases whose ids match a pattern.
    pub(crate) async fn like(&self, pattern: &str) -> Result<Vec<Record>, Failure> {
        let found = self.records.find(doc! { "_id": { "$regex": pattern } });
        let mut found = ask(found).await?;
        let mut records = Vec::new();
        while let Some(record) = ask(found.try_next()).await? {
            records.push(record);
        }
        Ok(records)
    }

    /// Writes a record in place of `before`, and takes the right to work on it. Fails if another
    /// command did so first.
    pub(crate) async fn take(
        &self,
        before: Option<&Record>,
        record: &Record,
    ) -> Result<Record, Failure> {
        let record = Record {
            holder: Some(Uuid::new_v4().to_string()),
            held_until: Some(ledger::until()),
            ..record.clone()
        };
        let is_taken = match before {
            None => answer(self.records.insert_one(&record)).await?.is_ok(),
            Some(before) => {
                let filter = doc! {
                    "_id": &before.knowledge_base, "state": word(before.state),
                    "holder": before.holder.as_deref(), "held_until": before.held_until,
                };
                let replaced = ask(self.records.replace_one(filter, &record)).await?;
                replaced.matched_count == 1
            }
        };
        if is_taken {
            Ok(record)
        } else {
            Err(busy(&record.knowledge_base))
        }
    }

    /// Runs the work of a command as long as it has the right to it.
    pub(crate) async fn while_held<T>(
        &self,
        record: &Record,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let renew = || async {
            let set = doc! { "held_until": ledger::until() };
            self.change(record, set).await
        };
        while_renewed(work, ledger::RENEWAL, renew).await
    }

    /// Sets fields of a record that this command holds. Fails if it does not any more.
    pub(crate) async fn set(&self, record: &Record, set: Document) -> Result<(), Failure> {
        if self.change(record, set).await? {
            Ok(())
        } else {
            Err(busy(&record.knowledge_base))
        }
    }

    /// Ends the right to work on a record, in its last state.
    pub(crate) async fn release(
        &self,
        record: &Record,
        state: ArchiveState,
    ) -> Result<(), Failure> {
        let set = doc! { "state": word(state), "holder": null, "held_until": null };
        self.set(record, set).await
    }

    async fn change(&self, record: &Record, set: Document) -> Result<bool, Failure> {
        let update = doc! { "$set": set };
        let changed = ask(self.records.update_one(held(record), update)).await?;
        Ok(changed.matched_count == 1)
    }
}

fn held(record: &Record) -> Document {
    doc! { "_id": &record.knowledge_base, "holder": record.holder.as_deref() }
}

pub(crate) fn word(state: ArchiveState) -> &'static str {
    match state {
        ArchiveState::Archiving => "archiving",
        ArchiveState::Archived => "archived",
        ArchiveState::Restoring => "restoring",
        ArchiveState::Restored => "restored",
    }
}

fn busy(knowledge_base: &str) -> Failure {
    let message = format!(
        "another command archives or restores knowledge base {knowledge_base}. If it was killed, \
         run this one again in two minutes"
    );
    Failure::fatal(Stage::Mongodb, Reason::KnowledgeBaseArchived, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;

    fn record(state: ArchiveState, held_until: Option<i64>) -> Record {
        Record {
            knowledge_base: "u_kb".into(),
            state,
            bucket: "archives".into(),
            place: "archive/x".into(),
            manifest: String::new(),
            started_at: DateTime::from_millis(1_000),
            archived_at: None,
            holder: held_until.map(|_| "a-command".into()),
            held_until: held_until.map(DateTime::from_millis),
        }
    }

    #[test]
    fn documents_wait_for_a_command_and_are_refused_without_their_collection() {
        use ArchiveState::{Archived, Archiving, Restored, Restoring};
        let now = DateTime::from_millis(5_000);
        for (state, held_until, class) in [
            (Archiving, Some(9_000), Some(Class::Transient)),
            (Archiving, Some(4_000), None),
            (Archived, None, Some(Class::Permanent)),
            // It gives up if it finds a document in progress.
            (Archived, Some(9_000), Some(Class::Transient)),
            (Archived, Some(4_000), Some(Class::Permanent)),
            (Restoring, Some(9_000), Some(Class::Transient)),
            (Restoring, Some(4_000), Some(Class::Permanent)),
            (Restored, None, None),
        ] {
            let refusal = record(state, held_until).refusal(now);
            let found = refusal.map(|failure| failure.class);
            assert_eq!(found, class, "{state:?} {held_until:?}");
        }
    }

    #[test]
    fn a_collection_that_is_read_filled_or_not_whole_is_not_replaced() {
        use ArchiveState::{Archived, Archiving, Restored, Restoring};
        let now = DateTime::from_millis(5_000);
        for (state, held_until, keeps) in [
            (Archiving, Some(9_000), true),
            (Archiving, Some(4_000), false),
            (Archived, None, true),
            (Restoring, None, true),
            (Restored, None, false),
        ] {
            let record = record(state, held_until);
            assert_eq!(record.keeps_collection(now), keeps, "{state:?}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for state in [
            ArchiveState::Archiving,
            ArchiveState::Archived,
            ArchiveState::Restoring,
            ArchiveState::Restored,
        ] {
            let written = record(state, Some(7));
            let stored = mongodb::bson::serialize_to_document(&written).unwrap();
            assert_eq!(stored.get_str("state").ok(), Some(word(state)));
            let read: Record = mongodb::bson::deserialize_from_document(stored).unwrap();
            assert_eq!(read, written);
        }
    }
}
