//! A collection whose name is missing while a rebuild swaps it is not gone.

use milvus::v2::prelude as sdk;
use mongodb::Database;

use super::{Vectors, code};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::rebuilds::{Phase, Rebuilds};

impl Vectors {
    /// The same, with the knowledge of the rebuilds in progress.
    pub(crate) fn with_rebuilds(self, database: &Database) -> Self {
        Self {
            rebuilds: Some(Rebuilds::new(database)),
            ..self
        }
    }

    /// Whether the collection exists. Fails with the class `Transient` while a rebuild swaps it.
    pub(crate) async fn has_collection(&self, collection: &str) -> Result<bool, Failure> {
        Ok(self.exists(collection).await? || !self.is_gone(collection).await?)
    }

    /// Fails with the class `Transient` while a rebuild swaps the collection, or brings in what was
    /// in flight at the swap: some rows may be missing, or there twice, for a few minutes.
    pub(crate) async fn ensure_settled(&self, collection: &str) -> Result<(), Failure> {
        let Some(rebuilds) = &self.rebuilds else {
            return Ok(());
        };
        match rebuilds.find(collection).await?.map(|found| found.phase) {
            Some(Phase::Swapping | Phase::Settling) => Err(moving(collection)),
            Some(Phase::Filling | Phase::InPlace) | None => Ok(()),
        }
    }

    /// Makes the proxies of Milvus look a name up again. They forget it before a collection gets
    /// another one: a request in between makes them remember the old collection, and writes and
    /// searches go on in it. A rename to the same name is refused, after they have forgotten it.
    pub(crate) async fn forget_name(&self, name: &str) -> Result<(), Failure> {
        let request = sdk::RenameCollectionRequest::builder()
            .collection_name(name)
            .new_collection_name(name)
            .build()?;
        match self.client.rename_collection(request).await {
            Err(sdk::Error::Server(error)) if !code::is_unserved(&error) => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// A primary key of a collection. `None`: it has no rows.
    pub(crate) async fn first_pk(&self, collection: &str) -> Result<Option<i64>, Failure> {
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .filter("pk > 0")
            .output_fields(["pk"])
            .limit(1)
            .consistency_level(sdk::ConsistencyLevel::Strong)
            .build()?;
        let answer = self.client.query(request).await?;
        let mut columns = answer.results().get_output_fields().iter();
        Ok(columns.find_map(|column| match column {
            sdk::FieldData::Int64 { name, values } if name == "pk" => values.first().copied(),
            _ => None,
        }))
    }

    /// Whether a collection has a row.
    pub(crate) async fn has_pk(&self, collection: &str, pk: i64) -> Result<bool, Failure> {
        Ok(self.count(collection, format!("pk in [{pk}]")).await? > 0)
    }

    /// Whether a request failed because retention has released the collection. Then it is loaded, and
    /// the request can be sent again. One that is rebuilt in place is not loaded: that would keep its
    /// old index.
    pub(super) async fn load_if_released<T>(
        &self,
        collection: &str,
        answer: &Result<T, sdk::Error>,
    ) -> Result<bool, Failure> {
        match answer {
            Err(sdk::Error::Server(error)) if code::is_not_loaded(error) => {}
            _ => return Ok(false),
        }
        if let Some(rebuilds) = &self.rebuilds
            && rebuilds.find(collection).await?.is_some()
        {
            return Ok(false);
        }
        tracing::info!(collection, "loading the collection, which was released");
        self.load(collection).await?;
        Ok(true)
    }

    async fn exists(&self, collection: &str) -> Result<bool, Failure> {
        let request = sdk::HasCollectionRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = self.client.has_collection(request).await;
        Ok(answer?.exists())
    }

    /// Whether a collection that was not found does not exist. Fails with the class `Transient`
    /// while a rebuild swaps it.
    ///
    /// The rebuild is recorded before the name goes, and until long after the new one is in place.
    /// So a request that came in between finds the record, and looks again.
    async fn is_gone(&self, collection: &str) -> Result<bool, Failure> {
        let Some(rebuilds) = &self.rebuilds else {
            return Ok(true);
        };
        match rebuilds.find(collection).await? {
            None => Ok(true),
            Some(rebuild) if rebuild.phase == Phase::Swapping => Err(moving(collection)),
            Some(_) => Ok(!self.exists(collection).await?),
        }
    }

    /// The failure of a request to a collection that was not found, but is not gone, becomes
    /// transient.
    pub(super) async fn unless_moving<T>(
        &self,
        collection: &str,
        answer: Result<T, Failure>,
    ) -> Result<T, Failure> {
        match answer {
            Err(failure) if failure.reason == Reason::CollectionGone => {
                if self.is_gone(collection).await? {
                    Err(failure)
                } else {
                    Err(moving(collection))
                }
            }
            answer => answer,
        }
    }
}

fn moving(collection: &str) -> Failure {
    let message = format!("the rebuild of {collection} puts the new collection in its place");
    Failure::transient(Stage::Milvus, Reason::CollectionMoving, message)
}
