//! Vectors of two models never mix: what is checked before vectors are written, and before they are
//! compared with a question.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use layra_crds::{DriftedCollection, MOST_NAMED, MilvusSpec, OtherModels};
use mongodb::Database;

use super::Vectors;
use crate::document::Fingerprint;
use crate::runtime::failure::Failure;
use crate::stores::collection_models::{CollectionModels, Record};

/// For how long a check lets further inserts pass. With the longest request it is far less than the
/// time after which a write that was in flight has landed or failed.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// What a collection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Write,
    Search,
}

/// What is known of the models of collections.
pub(super) struct Models {
    records: CollectionModels,
    /// The model of this process. `None`: it embeds nothing, or computes meaningless vectors.
    own: Option<Fingerprint>,
    /// When each collection was checked last for writes.
    checked: Mutex<HashMap<String, Instant>>,
}

impl Models {
    fn checks(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vectors {
    /// The same, which keeps the vectors of `own` apart from those of other models.
    pub(crate) fn of_model(self, database: &Database, own: Option<Fingerprint>) -> Self {
        let models = Models {
            records: CollectionModels::new(database),
            own,
            checked: Mutex::default(),
        };
        Self {
            models: Some(models),
            ..self
        }
    }

    /// Fails if the collection has vectors of another model than this process'.
    pub(super) async fn check_model(
        &self,
        collection: &str,
        id: i64,
        wanted: Use,
    ) -> Result<(), Failure> {
        let Some((models, own)) = self.own_model() else {
            return Ok(());
        };
        let Some(record) = models.records.find_named(id, collection).await? else {
            return Ok(());
        };
        let refusal = match wanted {
            Use::Write => record.refusal_of_writes(own),
            Use::Search => record.refusal_of_searches(own),
        };
        refusal.map_or(Ok(()), Err)
    }

    /// Notes that the vectors of a collection are of this process' model. Fails if they are, or are
    /// about to be, of another one.
    pub(super) async fn enter_model(&self, collection: &str, id: i64) -> Result<(), Failure> {
        let Some((models, own)) = self.own_model() else {
            return Ok(());
        };
        let record = match models.records.find_named(id, collection).await? {
            Some(record) => record,
            None => self.first_record(models, own, collection, id).await?,
        };
        if let Some(refusal) = record.refusal_of_writes(own) {
            return Err(refusal);
        }
        models
            .checks()
            .insert(collection.to_owned(), Instant::now());
        Ok(())
    }

    async fn first_record(
        &self,
        models: &Models,
        own: &Fingerprint,
        collection: &str,
        id: i64,
    ) -> Result<Record, Failure> {
        let adopted = self.estimated_rows(collection).await? > 0;
        if adopted {
            tracing::warn!(
                collection,
                model = %own,
                "nothing says which model the vectors of this collection are of: they are taken to \
                 be of this worker's"
            );
        }
        let record = Record {
            adopted,
            ..Record::new(id, collection, Some(own))
        };
        models.records.enter(record).await
    }

    /// Fails if vectors of this process' model may not be inserted into the collection now. One that
    /// does not exist is left to the insert.
    pub(super) async fn check_insert(&self, collection: &str) -> Result<(), Failure> {
        let Some((models, _)) = self.own_model() else {
            return Ok(());
        };
        let checked = models.checks().get(collection).copied();
        if checked.is_some_and(|checked| checked.elapsed() < GOOD_FOR) {
            return Ok(());
        }
        match self.describe(collection).await? {
            Some(found) => self.enter_model(collection, found.id).await,
            None => Ok(()),
        }
    }

    /// The pipeline's collections whose vectors are of another model than this process'. `None`: it has
    /// no model.
    pub(crate) async fn of_other_models(
        &self,
        pipeline: &MilvusSpec,
    ) -> Result<Option<OtherModels>, Failure> {
        let Some((models, own)) = self.own_model() else {
            return Ok(None);
        };
        let records = models.records.of_others(own).await?;
        let mut others = Vec::new();
        // Milvus is asked only if there is something to ask for.
        if !records.is_empty() {
            for (name, id) in self.collection_ids().await? {
                let record = records.get(&id).filter(|_| pipeline.owns_collection(&name));
                let difference = record.and_then(|record| record.difference(own));
                others.extend(difference.map(|difference| DriftedCollection { name, difference }));
            }
        }
        Ok(Some(counted(own, others)))
    }

    /// The model of a collection's vectors, if it is known.
    pub(crate) async fn model_of(&self, id: i64) -> Result<Option<Fingerprint>, Failure> {
        let Some(models) = &self.models else {
            return Ok(None);
        };
        let record = models.records.find(id).await?;
        Ok(record.and_then(|record| record.model))
    }

    /// The id of a collection that is about to be dropped, if its record must be removed after it.
    pub(super) async fn id_to_forget(&self, collection: &str) -> Result<Option<i64>, Failure> {
        let Some(models) = &self.models else {
            return Ok(None);
        };
        models.checks().remove(collection);
        Ok(self.describe(collection).await?.map(|found| found.id))
    }

    /// Removes the record of a collection that was dropped.
    pub(super) async fn forget_model(&self, id: Option<i64>) -> Result<(), Failure> {
        match (&self.models, id) {
            (Some(models), Some(id)) => models.records.forget(id).await,
            _ => Ok(()),
        }
    }

    fn own_model(&self) -> Option<(&Models, &Fingerprint)> {
        let models = self.models.as_ref()?;
        Some((models, models.own.as_ref()?))
    }
}

/// What is reported of the collections of other models than this one.
fn counted(own: &Fingerprint, mut others: Vec<DriftedCollection>) -> OtherModels {
    let collections = u64::try_from(others.len()).unwrap_or(u64::MAX);
    others.sort_by(|one, other| one.name.cmp(&other.name));
    others.truncate(MOST_NAMED);
    OtherModels {
        checksum: own.checksum.clone(),
        pool_factor: own.pool_factor,
        collections,
        first: others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::fingerprint::a_fingerprint;

    #[test]
    fn all_are_counted_and_a_few_are_named() {
        let others = (0..30).rev().map(|number| DriftedCollection {
            name: format!("c{number:02}"),
            difference: "one instead of another".to_owned(),
        });
        let found = counted(&a_fingerprint("minilm", "sha256:1"), others.collect());
        assert_eq!(
            (found.checksum.as_str(), found.pool_factor),
            ("sha256:1", 1)
        );
        assert_eq!((found.collections, found.first.len()), (30, MOST_NAMED));
        assert_eq!(found.first[0].name, "c00");
    }
}
