//! Removing what must not be in the stores: what earlier rounds left, what a document left that
//! failed or was deleted.

use std::collections::BTreeSet;
use std::ops::Range;

use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::page_plan::{self, PagePlan};
use crate::document::task::Task;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Entry, State};

impl Pipeline {
    /// Enters the file, and removes what is there of earlier rounds: all rows, and those pages
    /// that this round would not overwrite. A knowledge base that does not exist is an error:
    /// LAYRA makes it before it sends the first task, so it was deleted, and storing into it would
    /// bring back a collection that nobody deletes any more.
    pub(super) async fn prepare(
        &self,
        entry: &Entry,
        plan: &PagePlan<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let knowledge_base = &plan.task.knowledge_base;
        let exists = self.ledger(cancel, || {
            self.stores.documents.has_knowledge_base(knowledge_base)
        });
        if !exists.await? {
            let message = format!("knowledge base {knowledge_base} does not exist");
            return Err(Failure::permanent(
                Stage::Mongodb,
                "KnowledgeBaseNotFound",
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
            .ledger(cancel, || self.stores.ledger.prepared(entry))
            .await?;
        prepared
            .map(|_| ())
            .ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }

    /// Removes the rows of some pages.
    pub(super) async fn clear_rows(
        &self,
        plan: &PagePlan<'_>,
        pages: Range<u32>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let file_id = &plan.task.file.file_id;
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

    /// Removes what a document has left in the stores, vectors first: a vector that MongoDB does
    /// not know would make LAYRA delete the whole file. A deleted document loses its original too.
    pub(super) async fn withdraw(&self, entry: &Entry) -> Result<(), Failure> {
        let Entry {
            file_id,
            knowledge_db_id,
            ..
        } = entry;
        let collection = self.stores.collection_of(knowledge_db_id);
        if self.stores.vectors.has_collection(&collection).await? {
            self.stores
                .vectors
                .delete_file(&collection, file_id)
                .await?;
        }
        let task = Task::from(entry);
        let mut keys: BTreeSet<String> =
            page_plan::image_keys(&task, entry.pages.unwrap_or_default(), &self.render).collect();
        if let Some(stored) = self.stores.documents.stored_file(file_id).await? {
            keys.extend(stored.pages.into_iter().map(|(_, key)| key));
            if entry.state == State::Deleted {
                keys.extend(stored.original);
            }
        }
        if entry.state == State::Deleted && !entry.minio_filename.is_empty() {
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
        // A worker that was late may have made the collection of a knowledge base that is gone.
        if entry.state == State::Deleted
            && !self
                .stores
                .documents
                .has_knowledge_base(knowledge_db_id)
                .await?
        {
            self.stores.vectors.drop_collection(&collection).await?;
        }
        Ok(())
    }
}
