//! Deletes files and knowledge bases from every store, because somebody asked for it.
//!
//! The ledger comes first: work in flight stops at its next write, and a recheck removes its last
//! write. Deleting again has no effect, not even on what was sent after the deletion.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use crate::document::Cutoff;
use crate::document::task::Deletion;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::retry::Retry;
use crate::stores::Stores;
use crate::stores::ledger::Entry;

/// Deletes files and knowledge bases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deleter<'a> {
    pub(crate) stores: &'a Stores,
    /// Retries while a server is unavailable.
    pub(crate) retry: &'a Retry,
}

impl Deleter<'_> {
    /// Deletes from every store what was sent before the deletion. An error is returned once
    /// `cancel` is cancelled, or when retrying cannot help.
    pub(crate) async fn delete(
        &self,
        deletion: &Deletion,
        cutoff: &Cutoff,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let attempt = |_| async {
            let deleted = match deletion {
                Deletion::File {
                    file_id,
                    knowledge_base,
                } => Box::pin(self.file(file_id, knowledge_base, cutoff)).await,
                Deletion::KnowledgeBase(id) => Box::pin(self.knowledge_base(id, cutoff)).await,
            };
            deleted.map_err(|failure| match failure.class {
                // Another deletion has taken the lease, and may not complete.
                Class::Superseded => {
                    Failure::transient(Stage::Mongodb, Reason::BeingRemoved, failure.message)
                }
                _ => failure,
            })
        };
        self.retry.run(Stage::Mongodb, cancel, attempt).await?;
        tracing::info!(?deletion, "deleted");
        Ok(())
    }

    /// Fails if neither the stores nor the ledger know what must be deleted: its id is misspelt.
    pub(crate) async fn check(
        &self,
        deletion: &Deletion,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let id = match deletion {
            Deletion::File { knowledge_base, .. } => knowledge_base,
            Deletion::KnowledgeBase(id) => id,
        };
        let known = self
            .retry
            .run(Stage::Mongodb, cancel, |_| self.knows(id))
            .await?;
        if known {
            return Ok(());
        }
        let message = format!("knowledge base {id} does not exist. Nothing was deleted");
        Err(Failure::permanent(
            Stage::Mongodb,
            Reason::KnowledgeBaseNotFound,
            message,
        ))
    }

    async fn knows(&self, knowledge_base: &str) -> Result<bool, Failure> {
        let Stores {
            documents, ledger, ..
        } = self.stores;
        Ok(documents.has_knowledge_base(knowledge_base).await?
            || !documents.files_of(knowledge_base).await?.is_empty()
            || ledger.has_files_of(knowledge_base).await?
            // An earlier attempt to delete it may have failed.
            || ledger.was_knowledge_base_deleted(knowledge_base).await?)
    }

    async fn file(
        &self,
        file_id: &str,
        requested_base: &str,
        cutoff: &Cutoff,
    ) -> Result<(), Failure> {
        let Stores {
            documents, ledger, ..
        } = self.stores;
        let stored = documents.stored_file(file_id).await?.unwrap_or_default();
        // The request may name another knowledge base by mistake.
        let knowledge_base = match &stored.knowledge_base {
            Some(known) => known.clone(),
            None => match ledger.find(file_id).await? {
                Some(entry) => entry.knowledge_db_id,
                None => requested_base.to_owned(),
            },
        };
        let original = stored.original.as_deref();
        let deleted = ledger.delete(file_id, &knowledge_base, original, cutoff);
        let Some((lease, entry)) = deleted.await? else {
            tracing::info!(
                file_id,
                "the file is deleted already, or was sent again later"
            );
            return Ok(());
        };
        let removal = Box::pin(self.remove_file(&entry, &knowledge_base));
        ledger.under_lease(&lease, removal).await?;
        ledger.end_deletion(&lease, &entry).await
    }

    async fn remove_file(&self, entry: &Entry, knowledge_base: &str) -> Result<(), Failure> {
        let file_id = &entry.file_id;
        self.stores.remove_vectors(knowledge_base, file_id).await?;
        self.objects(entry).await?;
        self.stores
            .documents
            .remove_file(knowledge_base, file_id)
            .await
    }

    async fn knowledge_base(&self, id: &str, cutoff: &Cutoff) -> Result<(), Failure> {
        let Stores {
            documents, ledger, ..
        } = self.stores;
        if ledger
            .is_knowledge_base_deletion_complete(id, cutoff)
            .await?
        {
            return Ok(());
        }
        // First, so that no further task of it starts.
        ledger.begin_knowledge_base_deletion(id, cutoff).await?;
        // Then only the files that were sent before are deleted.
        let is_recreated = ledger.delete_files_of(id, cutoff).await?;
        if !is_recreated {
            documents.remove_knowledge_base(id).await?;
            self.stores.drop_unused_collection(id).await?;
        }
        let mut files: BTreeSet<String> = documents.files_of(id).await?.into_iter().collect();
        files.extend(ledger.deleted_files_of(id).await?);
        for file_id in files {
            Box::pin(self.file(&file_id, id, cutoff)).await?;
        }
        if !is_recreated {
            self.stores.archives.delete(id).await?;
        }
        ledger.complete_knowledge_base_deletion(id, cutoff).await
    }

    /// Deletes the original, and the page images that MongoDB lists for a file. Images that were
    /// written and are not listed have derived names: the recheck removes them.
    async fn objects(&self, entry: &Entry) -> Result<(), Failure> {
        let stored = self.stores.documents.stored_file(&entry.file_id).await?;
        let stored = stored.unwrap_or_default();
        let images = stored.pages.into_iter().map(|(_, key)| key);
        let mut keys: BTreeSet<String> = images.chain(stored.original).collect();
        if !entry.minio_filename.is_empty() {
            keys.insert(entry.minio_filename.clone());
        }
        self.stores
            .objects
            .delete_all(keys.into_iter().collect())
            .await
    }
}
