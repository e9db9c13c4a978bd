//! When collections were searched and noticed, in the collection `ingestion_collection_uses`: one
//! small document for each.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};

use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

/// A search is noted at most once in this time.
const NOTED_EACH: Duration = Duration::from_hours(24);

/// The notes in a database.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    notes: Collection<Document>,
}

/// The note about a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// The last search that was noted.
    pub(crate) searched: Option<DateTime>,
    /// Since when `retain` knows the collection in its present condition.
    pub(crate) seen: Option<DateTime>,
    /// When it was announced that something will happen to the collection.
    pub(crate) noticed: Option<DateTime>,
}

impl Uses {
    pub(crate) fn new(database: &Database) -> Self {
        Self {
            notes: database.collection("ingestion_collection_uses"),
        }
    }

    /// Notes a search.
    pub(crate) async fn searched(&self, collection: &str) -> Result<(), Failure> {
        let now = DateTime::now();
        let day = i64::try_from(NOTED_EACH.as_millis()).unwrap_or(i64::MAX);
        let recent = DateTime::from_millis(now.timestamp_millis().saturating_sub(day));
        let noted = doc! { "_id": collection, "searched_at": { "$gt": recent } };
        if ask(self.notes.find_one(noted)).await?.is_some() {
            return Ok(());
        }
        self.set(collection, doc! { "searched_at": now }).await
    }

    /// The note about a collection in a condition, for example that its knowledge base is gone. It
    /// is written if there is none, or one about another condition.
    pub(crate) async fn see(&self, collection: &str, condition: &str) -> Result<Use, Failure> {
        let same = doc! { "_id": collection, "condition": condition };
        let mut note = ask(self.notes.find_one(same)).await?;
        if note.is_none() {
            let update = doc! {
                "$set": { "condition": condition, "seen_at": DateTime::now() },
                "$unset": { "noticed_at": "" },
            };
            let written = self
                .notes
                .find_one_and_update(doc! { "_id": collection }, update)
                .upsert(true)
                .return_document(ReturnDocument::After);
            note = ask(written).await?;
        }
        let note = note.unwrap_or_default();
        let time = |key: &str| note.get_datetime(key).ok().copied();
        Ok(Use {
            searched: time("searched_at"),
            seen: time("seen_at"),
            noticed: time("noticed_at"),
        })
    }

    /// Notes that something was announced. `None`: it will not happen.
    pub(crate) async fn notice(
        &self,
        collection: &str,
        at: Option<DateTime>,
    ) -> Result<(), Failure> {
        self.set(collection, doc! { "noticed_at": at }).await
    }

    async fn set(&self, collection: &str, fields: Document) -> Result<(), Failure> {
        let update = doc! { "$set": fields };
        let filter = doc! { "_id": collection };
        ask(self.notes.update_one(filter, update).upsert(true)).await?;
        Ok(())
    }
}
