//! The stores that hold a document, the ledger of its state, and the progress that users see.

pub(crate) mod archives;
#[cfg(test)]
mod authority_tests;
pub(crate) mod collection_models;
pub(crate) mod ledger;
pub(crate) mod milvus;
pub(crate) mod mongo;
pub(crate) mod objects;
pub(crate) mod presign;
pub(crate) mod progress;
pub(crate) mod rebuilds;
pub(crate) mod tuning;
pub(crate) mod usage;
pub(crate) mod uses;

use std::sync::Arc;

use layra_crds::MilvusSpec;

use crate::runtime::failure::{Failure, Reason};
use archives::Archives;
use ledger::Ledger;
use milvus::Vectors;
use mongo::Documents;
use objects::Objects;
use usage::UsageRecord;

/// All stores of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    /// Originals and page images.
    pub(crate) objects: Objects,
    /// Files and knowledge bases.
    pub(crate) documents: Documents,
    /// The state of every document.
    pub(crate) ledger: Ledger,
    /// The last count of what the pipeline holds.
    pub(crate) usage: UsageRecord,
    pub(crate) vectors: Arc<Vectors>,
    /// Which knowledge bases are archived.
    pub(crate) archives: Archives,
    /// Determines the names of collections.
    pub(crate) milvus: MilvusSpec,
}

impl Stores {
    /// The name of a knowledge base's collection.
    pub(crate) fn collection_of(&self, knowledge_base: &str) -> String {
        self.milvus.collection_of(knowledge_base)
    }

    /// Removes the vectors of a file. A collection that does not exist, or is dropped at the same
    /// time, holds none.
    pub(crate) async fn remove_vectors(
        &self,
        knowledge_base: &str,
        file_id: &str,
    ) -> Result<(), Failure> {
        let collection = self.collection_of(knowledge_base);
        if !self.vectors.has_collection(&collection).await? {
            return Ok(());
        }
        match self.vectors.delete_file(&collection, file_id).await {
            Err(failure) if failure.reason == Reason::CollectionGone => Ok(()),
            removed => removed,
        }
    }

    /// Drops the collection of a knowledge base that does not exist. A knowledge base whose id maps
    /// to the same name keeps it: in that name `-` and `_` are the same.
    pub(crate) async fn drop_unused_collection(&self, knowledge_base: &str) -> Result<(), Failure> {
        let collection = self.collection_of(knowledge_base);
        let alike = self.documents.knowledge_bases_like(knowledge_base).await?;
        let mut users = alike.iter();
        if let Some(id) = users.find(|id| self.collection_of(id) == collection) {
            tracing::debug!(
                collection,
                knowledge_base = id,
                "the collection is kept for a knowledge base"
            );
            return Ok(());
        }
        self.vectors.drop_collection(&collection).await
    }
}
