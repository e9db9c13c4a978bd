//! Reads of the whole ledger, and what repairs note there.

use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;

use super::{Entry, Ledger};
use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

impl Ledger {
    /// Calls `visit` with every entry, one after the other, also of other pipelines with the same
    /// database. `knowledge_base`: only those of one.
    pub(crate) async fn each_entry(
        &self,
        knowledge_base: Option<&str>,
        mut visit: impl FnMut(Entry),
    ) -> Result<(), Failure> {
        let filter = match knowledge_base {
            Some(id) => doc! { "knowledge_db_id": id },
            None => Document::new(),
        };
        let mut found = ask(self.entries.find(filter)).await?;
        while let Some(entry) = ask(found.try_next()).await? {
            visit(entry);
        }
        Ok(())
    }

    /// Whether the entry is this pipeline's: pipelines with the same database share the ledger.
    pub(crate) fn owns(&self, entry: &Entry) -> bool {
        let rest = entry.origin.strip_prefix(&self.topic);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Number of documents of a knowledge base that are in progress, or have changed since a time.
    pub(crate) async fn count_busy(
        &self,
        knowledge_base: &str,
        since: DateTime,
    ) -> Result<u64, Failure> {
        let filter = doc! {
            "knowledge_db_id": knowledge_base,
            "$or": [{ "state": "working" }, { "updated_at": { "$gte": since } }],
        };
        ask(self.entries.count_documents(filter)).await
    }

    /// Whether any document is in progress in a knowledge base whose id matches a pattern.
    pub(crate) async fn is_working_on_bases_like(&self, pattern: &str) -> Result<bool, Failure> {
        let filter = doc! { "knowledge_db_id": { "$regex": pattern }, "state": "working" };
        Ok(ask(self.entries.find_one(filter)).await?.is_some())
    }

    /// The entry that changed last of the knowledge bases whose ids match a pattern.
    pub(crate) async fn latest_like(&self, pattern: &str) -> Result<Option<Entry>, Failure> {
        let filter = doc! { "knowledge_db_id": { "$regex": pattern } };
        ask(self
            .entries
            .find_one(filter)
            .sort(doc! { "updated_at": -1 }))
        .await
    }

    /// Whether the ledger has a document, or the deletion, of a knowledge base whose id matches a
    /// pattern.
    pub(crate) async fn knows_bases_like(&self, pattern: &str) -> Result<bool, Failure> {
        let regex = doc! { "$regex": pattern };
        let entries = self.entries.find_one(doc! { "knowledge_db_id": &regex });
        if ask(entries).await?.is_some() {
            return Ok(true);
        }
        let deleted = self.deleted_knowledge_bases.find_one(doc! { "_id": regex });
        Ok(ask(deleted).await?.is_some())
    }

    /// Notes that a repair has seen something, and returns when the first one did.
    pub(crate) async fn first_seen(&self, what: &str) -> Result<DateTime, Failure> {
        let now = DateTime::now();
        let update = doc! { "$setOnInsert": { "first_seen": now }, "$set": { "last_seen": now } };
        let noted = self
            .seen
            .find_one_and_update(doc! { "_id": what }, update)
            .upsert(true)
            .return_document(ReturnDocument::After);
        let noted: Option<Document> = ask(noted).await?;
        let first = noted.and_then(|noted| noted.get_datetime("first_seen").ok().copied());
        Ok(first.unwrap_or(now))
    }

    /// Removes the notes of what was not seen since `start`.
    pub(crate) async fn forget_unseen(&self, start: DateTime) -> Result<(), Failure> {
        let filter = doc! { "last_seen": { "$lt": start } };
        ask(self.seen.delete_many(filter)).await?;
        Ok(())
    }
}
