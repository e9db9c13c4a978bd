//! The rebuilds of collections in progress: one document for each, in the MongoDB collection
//! `ingestion_rebuilds`.
//!
//! A rebuild that was killed is continued from it. Workers read it when a collection is missing: it
//! may be on its way to another name.

use std::time::Duration;

use futures::TryStreamExt;
use layra_crds::rebuild_collection;
use mongodb::bson::{self, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::after;
use crate::stores::mongo::{answer, ask};

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// A new collection is filled beside the one that serves.
    Filling,
    /// The two change names. The collection's name may be missing.
    Swapping,
    /// The new one serves. What the old one got last is being brought into it.
    Settling,
    /// The collection has no index, or is not loaded, for a while.
    InPlace,
}

/// The rebuild of one collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rebuild {
    #[serde(rename = "_id")]
    pub(crate) collection: String,
    pub(crate) phase: Phase,
    /// Names the collections of this rebuild.
    pub(crate) token: String,
    /// How many times it started over. Names are not reused: a dropped one may linger.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// Milvus' id of the collection that served at the beginning.
    pub(crate) old_id: i64,
    /// Milvus' id of the new collection.
    #[serde(default)]
    pub(crate) new_id: Option<i64>,
    /// Collections that others created while the name was missing.
    #[serde(default)]
    pub(crate) others: u32,
    /// Every row up to this primary key was copied. Automatic ones are positive.
    #[serde(default)]
    pub(crate) last_pk: i64,
    /// The digest of the model with which the collection is embedded again. `None`: its vectors are
    /// copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Since when no worker begins to write into the old collection, because it is embedded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed_at: Option<DateTime>,
    /// Every file up to this one was embedded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_file: Option<String>,
    /// Rows that were copied.
    #[serde(default)]
    pub(crate) copied: i64,
    /// Whether a knowledge base of this collection existed at the beginning.
    #[serde(default)]
    pub(crate) had_knowledge_base: bool,
    /// The files with rows that `files` did not have before the swap. `None`: too many.
    #[serde(default)]
    pub(crate) strays: Option<Vec<String>>,
    /// When the new collection was in place, or nearly.
    #[serde(default)]
    pub(crate) swapped_at: Option<DateTime>,
    /// The process that works on it.
    #[serde(default)]
    pub(crate) owner: Option<String>,
    /// When that process's right ends, unless it is renewed.
    #[serde(default)]
    pub(crate) owned_until: Option<DateTime>,
    pub(crate) started_at: DateTime,
}

impl Rebuild {
    pub(crate) fn new(collection: &str, phase: Phase, old_id: i64) -> Self {
        Self {
            collection: collection.to_owned(),
            phase,
            token: Uuid::new_v4().simple().to_string(),
            restarts: 0,
            old_id,
            new_id: None,
            others: 0,
            last_pk: 0,
            model: None,
            sealed_at: None,
            last_file: None,
            copied: 0,
            had_knowledge_base: false,
            strays: None,
            swapped_at: None,
            owner: None,
            owned_until: None,
            started_at: DateTime::now(),
        }
    }

    /// Whether a collection has a name of this rebuild.
    pub(crate) fn has_collection(&self, name: &str) -> bool {
        name.starts_with(&rebuild_collection(&self.token, ""))
    }

    /// The name of the new collection until it is in place.
    pub(crate) fn new_name(&self) -> String {
        rebuild_collection(&self.token, &format!("new{}", self.restarts))
    }

    /// The name of the old collection from then on.
    pub(crate) fn old_name(&self) -> String {
        rebuild_collection(&self.token, "old")
    }

    /// The name of a collection that another process created in between, from 0.
    pub(crate) fn other_name(&self, number: u32) -> String {
        rebuild_collection(&self.token, &format!("other{number}"))
    }
}

/// The rebuilds in progress.
#[derive(Clone, Debug)]
pub(crate) struct Rebuilds {
    rebuilds: Collection<Rebuild>,
}

/// A process's right to work on rebuilds.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) name: String,
    /// How long the right lasts without being renewed: a request that was sent before has landed or
    /// failed by then.
    pub(crate) lasts: Duration,
}

impl Rebuilds {
    pub(crate) fn new(database: &Database) -> Self {
        Self {
            rebuilds: database.collection("ingestion_rebuilds"),
        }
    }

    pub(crate) async fn find(&self, collection: &str) -> Result<Option<Rebuild>, Failure> {
        ask(self.rebuilds.find_one(doc! { "_id": collection })).await
    }

    pub(crate) async fn all(&self) -> Result<Vec<Rebuild>, Failure> {
        let mut found = ask(self.rebuilds.find(doc! {})).await?;
        let mut rebuilds = Vec::new();
        while let Some(rebuild) = ask(found.try_next()).await? {
            rebuilds.push(rebuild);
        }
        Ok(rebuilds)
    }

    /// Begins a rebuild. `None`: another process has begun one.
    pub(crate) async fn begin(
        &self,
        rebuild: Rebuild,
        owner: &Owner,
    ) -> Result<Option<Rebuild>, Failure> {
        let rebuild = Rebuild {
            owner: Some(owner.name.clone()),
            owned_until: Some(after(DateTime::now(), owner.lasts)),
            ..rebuild
        };
        match answer(self.rebuilds.insert_one(&rebuild)).await? {
            Ok(_) => Ok(Some(rebuild)),
            Err(error) if crate::stores::ledger::is_duplicate(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over a rebuild that no process works on. `None`: another one does, or it has ended.
    pub(crate) async fn take(
        &self,
        collection: &str,
        owner: &Owner,
    ) -> Result<Option<Rebuild>, Failure> {
        let now = DateTime::now();
        let filter = doc! { "_id": collection, "$or": [
            { "owner": null }, { "owner": &owner.name }, { "owned_until": { "$lte": now } },
        ] };
        let set = doc! { "owner": &owner.name, "owned_until": after(now, owner.lasts) };
        self.update(filter, doc! { "$set": set }).await
    }

    /// Sets fields of a rebuild that `owner` works on, and extends its right. Fails with the class
    /// `Superseded` if another process has taken it over.
    pub(crate) async fn set(
        &self,
        collection: &str,
        owner: &Owner,
        mut set: Document,
    ) -> Result<Rebuild, Failure> {
        set.insert("owned_until", after(DateTime::now(), owner.lasts));
        let filter = doc! { "_id": collection, "owner": &owner.name };
        let updated = self.update(filter, doc! { "$set": set }).await?;
        updated.ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }

    /// Ends the right to work on a rebuild, so that another process can continue at once.
    pub(crate) async fn release(&self, collection: &str, owner: &Owner) -> Result<(), Failure> {
        let filter = doc! { "_id": collection, "owner": &owner.name };
        let update = doc! { "$set": { "owner": null, "owned_until": null } };
        self.update(filter, update).await?;
        Ok(())
    }

    /// Ends a rebuild.
    pub(crate) async fn end(&self, collection: &str, owner: &Owner) -> Result<(), Failure> {
        let filter = doc! { "_id": collection, "owner": &owner.name };
        ask(self.rebuilds.delete_one(filter)).await?;
        Ok(())
    }

    async fn update(&self, filter: Document, update: Document) -> Result<Option<Rebuild>, Failure> {
        let update = self.rebuilds.find_one_and_update(filter, update);
        ask(update.return_document(ReturnDocument::After)).await
    }
}

/// A phase as MongoDB stores it.
pub(crate) fn stored(phase: Phase) -> bson::Bson {
    let name = match phase {
        Phase::Filling => "filling",
        Phase::Swapping => "swapping",
        Phase::Settling => "settling",
        Phase::InPlace => "in_place",
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_stored_by_their_names() {
        for phase in [
            Phase::Filling,
            Phase::Swapping,
            Phase::Settling,
            Phase::InPlace,
        ] {
            let expected = bson::serialize_to_bson(&phase).unwrap();
            assert_eq!(stored(phase), expected);
        }
    }

    #[test]
    fn the_collections_of_a_rebuild_have_its_token() {
        let rebuild = Rebuild::new("c", Phase::Filling, 1);
        let other = Rebuild::new("c", Phase::Filling, 1);
        for name in [
            rebuild.new_name(),
            rebuild.old_name(),
            rebuild.other_name(2),
        ] {
            assert!(
                rebuild.has_collection(&name) && !other.has_collection(&name),
                "{name}"
            );
        }
        assert!(!rebuild.has_collection("c"));
    }

    #[test]
    fn an_early_document_is_read_with_defaults() {
        let stored = doc! {
            "_id": "c", "phase": "filling", "token": "t", "old_id": 7_i64,
            "started_at": DateTime::now(), "later": 1,
        };
        let rebuild: Rebuild = bson::deserialize_from_document(stored).unwrap();
        assert_eq!((rebuild.last_pk, rebuild.new_id), (0, None));
    }
}
