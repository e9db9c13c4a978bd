//! Deletes files and knowledge bases from every store.
//!
//! The ledger comes first: work in flight stops at its next write, and a recheck removes its last
//! write. Deleting again has no effect.

use tokio_util::sync::CancellationToken;

use crate::document::task::Deletion;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::retry::Retry;
use crate::stores::Stores;

/// Deletes files and knowledge bases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deleter<'a> {
    pub(crate) stores: &'a Stores,
    /// Retries while a server is unavailable.
    pub(crate) retry: &'a Retry,
}

impl Deleter<'_> {
    /// Deletes from every store. An error is returned once `cancel` is cancelled, or when retrying
    /// cannot help.
    pub(crate) async fn delete(
        &self,
        deletion: &Deletion,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let attempt = |_| async {
            match deletion {
                Deletion::File {
                    file_id,
                    knowledge_base,
                } => self.file(file_id, knowledge_base).await,
                Deletion::KnowledgeBase(id) => self.knowledge_base(id).await,
            }
        };
        self.retry.run(Stage::Mongodb, cancel, attempt).await?;
        tracing::info!(?deletion, "deleted");
        Ok(())
    }

    async fn file(&self, file_id: &str, knowledge_base: &str) -> Result<(), Failure> {
        self.stores.ledger.delete(file_id, knowledge_base).await?;
        let collection = self.stores.collection_of(knowledge_base);
        if self.stores.vectors.has_collection(&collection).await? {
            self.stores
                .vectors
                .delete_file(&collection, file_id)
                .await?;
        }
        self.objects(file_id).await?;
        self.stores
            .documents
            .remove_file(knowledge_base, file_id)
            .await
    }

    async fn knowledge_base(&self, id: &str) -> Result<(), Failure> {
        // First, so that no further task of it starts.
        self.stores.documents.remove_knowledge_base(id).await?;
        self.stores.ledger.delete_knowledge_base(id).await?;
        self.stores
            .vectors
            .drop_collection(&self.stores.collection_of(id))
            .await?;
        for file_id in self.stores.documents.files_of(id).await? {
            self.stores.ledger.delete(&file_id, id).await?;
            self.objects(&file_id).await?;
            self.stores.documents.remove_file(id, &file_id).await?;
        }
        Ok(())
    }

    /// Deletes the original and the page images that MongoDB lists for a file. Images that were
    /// written and are not listed have derived names: the recheck removes them.
    async fn objects(&self, file_id: &str) -> Result<(), Failure> {
        let Some(stored) = self.stores.documents.stored_file(file_id).await? else {
            return Ok(());
        };
        let images = stored.pages.into_iter().map(|(_, key)| key);
        self.stores
            .objects
            .delete_all(images.chain(stored.original).collect())
            .await
    }
}
