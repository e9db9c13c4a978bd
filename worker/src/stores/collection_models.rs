//! Which model the vectors of each collection are of, in the MongoDB collection
//! `ingestion_collection_models`: one record for each of Milvus' collections.
//!
//! A record is found by Milvus' id of the collection. So it stays with a collection that is renamed,
//! and says nothing about one that is created again under the same name.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use mongodb::bson::{DateTime, doc};
use mongodb::{Collection, Database};
use serde::{Deserialize, Serialize};

use crate::document::Fingerprint;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::is_duplicate;
use crate::stores::mongo::{answer, ask};

/// Of a collection whose model nobody has entered.
pub(crate) const UNKNOWN: &str = "nothing says which model its vectors are of";

/// What is known about the vectors of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Milvus' id of the collection.
    #[serde(rename = "_id")]
    pub(crate) id: i64,
    /// Its name, for people. It may have changed since the record was written.
    pub(crate) collection: String,
    /// The model of all its vectors. `None`: nobody has entered it.
    #[serde(default)]
    pub(crate) model: Option<Fingerprint>,
    /// Whether it had vectors before: they are taken to be of the model of the first writer.
    #[serde(default)]
    pub(crate) adopted: bool,
    /// The model for which the collection is being embedded again: nobody writes into it any more.
    #[serde(default)]
    pub(crate) replaced_for: Option<Fingerprint>,
    pub(crate) entered_at: DateTime,
}

/// The records of a database.
#[derive(Clone, Debug)]
pub(crate) struct CollectionModels {
    records: Collection<Record>,
}

impl Record {
    pub(crate) fn new(id: i64, collection: &str, model: Option<&Fingerprint>) -> Self {
        Self {
            id,
            collection: collection.to_owned(),
            model: model.cloned(),
            adopted: false,
            replaced_for: None,
            entered_at: DateTime::now(),
        }
    }

    /// How the model of the vectors differs from a process' own, for people. `None`: it does not, or it
    /// is not known which it is.
    pub(crate) fn difference(&self, own: &Fingerprint) -> Option<String> {
        // Without a state of the rebuild, the one that sealed it was lost: nobody could write any more.
        let is_sealed = self.replaced_for.is_some();
        match &self.model {
            Some(model) if is_sealed || !model.is_comparable(own) => {
                Some(format!("{model} instead of {own}"))
            }
            None if is_sealed => Some(UNKNOWN.to_owned()),
            _ => None,
        }
    }

    /// Why a worker with this model may not write into the collection. The document waits.
    pub(crate) fn refusal_of_writes(&self, own: &Fingerprint) -> Option<Failure> {
        let message = match (&self.replaced_for, &self.model) {
            (Some(next), _) => format!(
                "collection {} is being embedded again for the model {next}: documents wait until \
                 layra-worker reembed has ended",
                self.collection
            ),
            (None, Some(model)) if !model.is_comparable(own) => self.other_model(model, own),
            (None, _) => return None,
        };
        let reason = Reason::ModelMismatch;
        Some(Failure::transient(Stage::Milvus, reason, message))
    }

    /// Why questions that were embedded with this model cannot be compared with the collection.
    pub(crate) fn refusal_of_searches(&self, own: &Fingerprint) -> Option<Failure> {
        let model = self.model.as_ref()?;
        let is_other = !model.is_comparable(own);
        let message = is_other.then(|| self.other_model(model, own))?;
        let reason = Reason::ModelMismatch;
        Some(Failure::permanent(Stage::Milvus, reason, message))
    }

    fn other_model(&self, model: &Fingerprint, own: &Fingerprint) -> String {
        format!(
            "collection {} was embedded with another model: {model} instead of {own}. Use that \
             model, or embed the collection again: layra-worker reembed",
            self.collection
        )
    }
}

impl CollectionModels {
    pub(crate) fn new(database: &Database) -> Self {
        Self {
            records: database.collection("ingestion_collection_models"),
        }
    }

    /// The record of a collection that has this name now.
    pub(crate) async fn find_named(&self, id: i64, name: &str) -> Result<Option<Record>, Failure> {
        let found = self.find(id).await?;
        Ok(found.map(|record| Record {
            collection: name.to_owned(),
            ..record
        }))
    }

    /// The record of a collection.
    pub(crate) async fn find(&self, id: i64) -> Result<Option<Record>, Failure> {
        ask(self.records.find_one(doc! { "_id": id })).await
    }

    /// The records, by Milvus' ids of the collections, that may differ from this model.
    pub(crate) async fn of_others(
        &self,
        own: &Fingerprint,
    ) -> Result<HashMap<i64, Record>, Failure> {
        let differs = doc! { "$or": [
            { "model.digest": { "$ne": &own.digest } }, { "replaced_for": { "$ne": null } },
        ] };
        let mut found = ask(self.records.find(differs)).await?;
        let mut records = HashMap::new();
        while let Some(record) = ask(found.try_next()).await? {
            records.insert(record.id, record);
        }
        Ok(records)
    }

    /// Writes the record of a collection, unless it has one. Returns the one that it has.
    pub(crate) async fn enter(&self, record: Record) -> Result<Record, Failure> {
        match answer(self.records.insert_one(&record)).await? {
            Ok(_) => return Ok(record),
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(error.into()),
        }
        self.find(record.id).await?.ok_or_else(|| {
            let message = "the record of a collection was removed while it was entered";
            Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, message)
        })
    }

    /// Writes what is known about one collection for its copy.
    pub(crate) async fn carry(&self, from: i64, to: i64, name: &str) -> Result<(), Failure> {
        let Some(found) = self.find(from).await? else {
            return Ok(());
        };
        let copy = Record {
            adopted: found.adopted,
            ..Record::new(to, name, found.model.as_ref())
        };
        self.enter(copy).await?;
        Ok(())
    }

    /// Lets nobody write into a collection any more, because it is embedded again for a model.
    pub(crate) async fn seal(
        &self,
        id: i64,
        name: &str,
        next: &Fingerprint,
    ) -> Result<(), Failure> {
        self.enter(Record::new(id, name, None)).await?;
        let next = mongodb::bson::serialize_to_bson(next)
            .map_err(|error| Failure::fatal(Stage::Mongodb, Reason::DocumentNotStorable, error))?;
        let update = doc! { "$set": { "replaced_for": next } };
        ask(self.records.update_one(doc! { "_id": id }, update)).await?;
        Ok(())
    }

    /// Lets workers write into a collection again that was not replaced.
    pub(crate) async fn unseal(&self, id: i64) -> Result<(), Failure> {
        let update = doc! { "$set": { "replaced_for": null } };
        ask(self.records.update_one(doc! { "_id": id }, update)).await?;
        // Without a model it only said that nobody may write.
        let empty = doc! { "_id": id, "model": null, "replaced_for": null };
        ask(self.records.delete_one(empty)).await?;
        Ok(())
    }

    /// Forgets a collection that was dropped. What is left of one that LAYRA drops says nothing about
    /// any other: ids are not used again.
    pub(crate) async fn forget(&self, id: i64) -> Result<(), Failure> {
        ask(self.records.delete_one(doc! { "_id": id })).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::fingerprint::a_fingerprint;
    use crate::runtime::failure::Class;

    #[test]
    fn a_document_waits_and_a_search_is_refused_if_the_model_is_another() {
        let (first, other) = (a_fingerprint("minilm", "1"), a_fingerprint("minilm", "2"));
        let record = Record::new(7, "c", Some(&first));
        assert_eq!(record.refusal_of_writes(&first), None);
        assert_eq!(record.refusal_of_searches(&first), None);
        let waits = record.refusal_of_writes(&other).unwrap();
        assert_eq!(
            (waits.class, waits.reason, waits.rejects_document()),
            (Class::Transient, Reason::ModelMismatch, false)
        );
        assert_eq!(waits.reason.as_str(), layra_crds::MODEL_MISMATCH);
        // It is no document's fault, however often it repeats.
        assert_eq!(waits.cause, crate::runtime::failure::Cause::Server);
        let refused = record.refusal_of_searches(&other).unwrap();
        assert_eq!(refused.class, Class::Permanent);
        for failure in [waits, refused] {
            for words in [
                "collection c",
                "checksum 1",
                "checksum 2",
                "layra-worker reembed",
            ] {
                assert!(failure.message.contains(words), "{failure}");
            }
        }
    }

    #[test]
    fn nobody_writes_into_a_collection_that_is_replaced_and_searches_go_on() {
        let (first, other) = (a_fingerprint("minilm", "1"), a_fingerprint("minilm", "2"));
        for model in [Some(&first), None] {
            let record = Record {
                replaced_for: Some(other.clone()),
                ..Record::new(7, "c", model)
            };
            for own in [&first, &other] {
                let failure = record.refusal_of_writes(own).unwrap();
                assert!(failure.message.contains("documents wait"), "{failure}");
            }
            assert_eq!(record.refusal_of_searches(&first), None);
            let is_refused = record.refusal_of_searches(&other).is_some();
            assert_eq!(
                is_refused,
                model.is_some(),
                "an unknown model is taken as it is"
            );
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_an_early_one_with_defaults() {
        let record = Record {
            adopted: true,
            replaced_for: Some(a_fingerprint("minilm", "2")),
            entered_at: DateTime::from_millis(1),
            ..Record::new(7, "c", Some(&a_fingerprint("minilm", "1")))
        };
        let stored = mongodb::bson::serialize_to_document(&record).unwrap();
        let read: Record = mongodb::bson::deserialize_from_document(stored).unwrap();
        assert_eq!(read, record);
        let early = doc! {
            "_id": 7_i64, "collection": "c", "entered_at": DateTime::now(), "later": 1,
        };
        let read: Record = mongodb::bson::deserialize_from_document(early).unwrap();
        assert_eq!((read.model, read.replaced_for), (None, None));
    }
}
