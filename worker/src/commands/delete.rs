//! Deleting files and knowledge bases from every store.
//!
//! The ledger is told first: work in flight stops at its next write, and what it wrote last is
//! looked for once more later. A second deletion finds nothing to do.

use std::sync::Arc;

use layra_crds::MilvusSpec;
use tokio_util::sync::CancellationToken;

use crate::assembly::Common;
use crate::document::task::Deletion;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::retry::Retry;
use crate::stores::ledger::Ledger;
use crate::stores::milvus::Vectors;
use crate::stores::mongo::Documents;
use crate::stores::objects::Objects;

/// The stores that documents are deleted from.
#[derive(Clone, Debug)]
pub struct Deleter {
    /// Originals and page images.
    pub objects: Objects,
    /// Files and knowledge bases.
    pub documents: Documents,
    /// What is known of every document.
    pub ledger: Ledger,
    /// Vectors.
    pub vectors: Arc<Vectors>,
    /// Names of collections.
    pub milvus: MilvusSpec,
    /// Waits for servers.
    pub retry: Retry,
}

/// The `delete` command.
pub async fn run(common: &Common, deletion: &Deletion) -> Result<(), Failure> {
    let deleter = common.deleter().await?;
    deleter.delete(deletion, &common.stop).await
}

impl Deleter {
    /// Deletes.
    pub async fn delete(
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
        self.ledger.delete(file_id, knowledge_base).await?;
        let collection = self.milvus.collection_of(knowledge_base);
        if self.vectors.has_collection(&collection).await? {
            self.vectors.delete_file(&collection, file_id).await?;
        }
        self.objects(file_id).await?;
        self.documents.remove_file(knowledge_base, file_id).await
    }

    async fn knowledge_base(&self, id: &str) -> Result<(), Failure> {
        // First, so that no task of it is begun any more.
        self.documents.remove_knowledge_base(id).await?;
        self.ledger.delete_knowledge_base(id).await?;
        self.vectors
            .drop_collection(&self.milvus.collection_of(id))
            .await?;
        for file_id in self.documents.files_of(id).await? {
            self.ledger.delete(&file_id, id).await?;
            self.objects(&file_id).await?;
            self.documents.remove_file(id, &file_id).await?;
        }
        Ok(())
    }

    /// The original and the page images of a file. Objects that are in MongoDB no more, but were
    /// written before it was told of them, have names that the ledger's recheck derives.
    async fn objects(&self, file_id: &str) -> Result<(), Failure> {
        let Some(stored) = self.documents.stored_file(file_id).await? else {
            return Ok(());
        };
        let images = stored.pages.into_iter().map(|(_, key)| key);
        self.objects
            .delete_all(images.chain(stored.original).collect())
            .await
    }
}
