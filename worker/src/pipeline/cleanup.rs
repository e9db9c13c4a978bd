//! Removes data that must not be in the stores: data of earlier rounds, and of documents that
//! failed or were deleted.

use std::collections::BTreeSet;
use std::ops::Range;

use layra_crds::RenderSpec;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::admit::Job;
use super::page_plan::{self, PagePlan};
use crate::document::task::Task;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::Stores;
use crate::stores::ledger::{Claim, Entry, State};

impl Pipeline {
    /// Enters the file, and removes the data of earlier rounds: all rows and texts, and the pages
    /// that this round would not overwrite.
    ///
    /// A knowledge base that does not exist is created for an object of a bucket. Otherwise it is an
    /// error: LAYRA creates it before it sends the first task, so it was deleted. Storing into it
    /// would recreate a collection that is never deleted.
    pub(super) async fn prepare(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        plan: &PagePlan<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let knowledge_base = &plan.task.knowledge_base;
        let exists = self.ledger(cancel, || {
            self.stores.documents.has_knowledge_base(knowledge_base)
        });
        if !exists.await? && !self.create_knowledge_base(job, cancel).await? {
            let message = format!("knowledge base {knowledge_base} does not exist");
            return Err(Failure::permanent(
                Stage::Mongodb,
                Reason::KnowledgeBaseNotFound,
                message,
            ));
        }
        let collection = &plan.collection;
        self.server(Stage::Milvus, cancel, |_| {
            self.stores.vectors.ensure_collection(collection)
        })
        .await?;

        let file = &plan.task.file;
        let url = file
            .url
            .clone()
            .unwrap_or_else(|| self.stores.objects.link(&file.key));
        self.ledger(cancel, || self.stores.documents.enter_file(plan.task, &url))
            .await?;
        let documents = &self.stores.documents;
        self.ledger(cancel, || documents.remove_texts_of_file(&file.file_id))
            .await?;
        self.server(Stage::Milvus, cancel, |_| {
            self.stores.vectors.delete_file(collection, &file.file_id)
        })
        .await?;
        let expected: BTreeSet<(String, String)> = (0..plan.pages)
            .map(|page| (plan.image_id(page), plan.image_key(page)))
            .collect();
        let stored = self
            .ledger(cancel, || self.stores.documents.stored_file(&file.file_id))
            .await?;
        let stale: Vec<String> = stored
            .unwrap_or_default()
            .pages
            .into_iter()
            .filter(|page| !expected.contains(page))
            .map(|(_, key)| key)
            .collect();
        if !stale.is_empty() {
            self.ledger(cancel, || {
                self.stores.documents.remove_pages(&file.file_id, &stale)
            })
            .await?;
            self.server(Stage::Objects, cancel, |_| {
                self.stores.objects.delete_all(stale.clone())
            })
            .await?;
        }
        let prepared = self
            .ledger(cancel, || self.stores.ledger.record_prepared(claim))
            .await?;
        prepared
            .map(|_| ())
            .ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }

    /// Removes the rows of some pages, and takes them off the list of failed pages: an attempt may
    /// have ended before it recorded them.
    pub(super) async fn clear_pages(
        &self,
        plan: &PagePlan<'_>,
        pages: Range<u32>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let file_id = &plan.task.file.file_id;
        self.ledger(cancel, || {
            let numbers = pages.clone().map(|page| page + 1);
            self.stores.documents.unlist_failed_pages(file_id, numbers)
        })
        .await?;
        self.server(Stage::Milvus, cancel, |_| {
            self.stores
                .vectors
                .delete_range(&plan.collection, file_id, pages.clone())
        })
        .await
    }

    /// Counts the rows of some pages.
    pub(super) async fn count_rows(
        &self,
        plan: &PagePlan<'_>,
        pages: Range<u32>,
        cancel: &CancellationToken,
    ) -> Result<u64, Failure> {
        let file_id = &plan.task.file.file_id;
        self.server(Stage::Milvus, cancel, |_| {
            self.stores
                .vectors
                .count_range(&plan.collection, file_id, pages.clone())
        })
        .await
    }

    /// Withdraws a document that is not in progress from the stores, under the lease of its entry.
    /// Fails with the class `Superseded`, before or between two steps, if the entry changed.
    pub(super) async fn withdraw(&self, entry: &Entry) -> Result<(), Failure> {
        Box::pin(self.remover().withdraw(entry)).await
    }

    fn remover(&self) -> Remover<'_> {
        Remover {
            stores: &self.stores,
            render: &self.render,
        }
    }

    /// Withdraws a failed document, and retries while a server is unavailable or another worker has
    /// the lease.
    pub(super) async fn withdraw_with_retries(
        &self,
        entry: &Entry,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        // All of it, since MongoDB may also be away when the lease is renewed. A lease that is left
        // behind ends by itself.
        let withdraw = |_| async {
            let lease = ledger.lease(entry).await?;
            let removal = self.retry.run(Stage::Mongodb, cancel, |_| async {
                // A deletion may have taken the lease during a pause.
                ledger.ensure_held(&lease).await?;
                self.remover().remove(entry).await
            });
            ledger.under_lease(&lease, Box::pin(removal)).await?;
            ledger.end_lease(&lease).await
        };
        Box::pin(self.retry.run(Stage::Mongodb, cancel, withdraw)).await
    }
}

/// Removes documents that are not in progress from the stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remover<'a> {
    pub(crate) stores: &'a Stores,
    /// How pages are rendered: it decides the names of their images.
    pub(crate) render: &'a RenderSpec,
}

impl Remover<'_> {
    /// Withdraws a document under the lease of its entry. Fails with the class `Superseded`, before
    /// or between two steps, if the entry changed.
    pub(crate) async fn withdraw(&self, entry: &Entry) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        let lease = ledger.lease(entry).await?;
        let removal = Box::pin(self.remove(entry));
        ledger.under_lease(&lease, removal).await?;
        if removes_original(entry) {
            ledger.end_deletion(&lease, entry).await
        } else {
            ledger.end_lease(&lease).await
        }
    }

    /// The keys of the page images that a document has, or may have had.
    pub(crate) fn image_keys(&self, entry: &Entry) -> Vec<String> {
        let task = Task::from(entry);
        page_plan::image_keys(&task, entry.pages.unwrap_or_default(), self.render).collect()
    }

    /// Removes a document from the stores, vectors first: LAYRA deletes the whole file when it
    /// finds a vector that MongoDB does not know. The original is removed only if somebody asked for the
    /// deletion.
    async fn remove(&self, entry: &Entry) -> Result<(), Failure> {
        let Entry {
            file_id,
            knowledge_db_id,
            ..
        } = entry;
        self.stores.remove_vectors(knowledge_db_id, file_id).await?;
        let with_original = removes_original(entry);
        let mut keys: BTreeSet<String> = self.image_keys(entry).into_iter().collect();
        if let Some(stored) = self.stores.documents.stored_file(file_id).await? {
            keys.extend(stored.pages.into_iter().map(|(_, key)| key));
            if with_original {
                keys.extend(stored.original);
            }
        }
        if with_original && !entry.minio_filename.is_empty() {
            keys.insert(entry.minio_filename.clone());
        }
        self.stores
            .objects
            .delete_all(keys.into_iter().collect())
            .await?;
        self.stores
            .documents
            .remove_file(knowledge_db_id, file_id)
            .await?;
        // A late worker may have recreated the collection of a deleted knowledge base. One that
        // somebody restored stays: its knowledge base is entered last, or was gone before.
        if entry.state == State::Deleted {
            let archive = self.stores.archives.find(knowledge_db_id).await?;
            if !archive.is_some_and(|archive| archive.is_restored()) {
                self.stores.drop_unused_collection(knowledge_db_id).await?;
            }
        }
        Ok(())
    }
}

/// Whether a document's removal includes its original: only if somebody asked for the deletion.
fn removes_original(entry: &Entry) -> bool {
    entry.state == State::Deleted && entry.deletion_requested
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    #[test]
    fn an_original_is_removed_only_if_somebody_asked() {
        for state in [State::Working, State::Done, State::Failed, State::Deleted] {
            let mut entry = an_entry(state);
            assert!(!removes_original(&entry), "{state:?}");
            entry.deletion_requested = true;
            assert_eq!(removes_original(&entry), state == State::Deleted);
        }
    }
}
