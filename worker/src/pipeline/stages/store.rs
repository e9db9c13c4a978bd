//! The stage that writes to MongoDB, then to Milvus, then the progress to the ledger.

use tokio::sync::mpsc::Receiver;

use super::{EmbeddedPage, Stages};
use crate::pipeline::{Event, Stored};
use crate::runtime::failure::{Failure, Stage};
use crate::stores::milvus::PageVectors;

/// Batches that are written together if the databases are slower than the model.
const STORED_BATCHES: usize = 4;

impl Stages<'_> {
    /// Writes embedded pages to MongoDB, then to Milvus, then the progress to the ledger. An
    /// attempt is never interrupted. A lost claim ends the work before the next write.
    pub(super) async fn store(
        &self,
        mut embedded: Receiver<Vec<EmbeddedPage>>,
    ) -> Result<Stored, Failure> {
        let Self {
            pipeline,
            claim,
            cancel,
            ..
        } = *self;
        let mut stored = self.before;
        let mut batches = Vec::with_capacity(STORED_BATCHES);
        while embedded.recv_many(&mut batches, STORED_BATCHES).await > 0 {
            if cancel.is_cancelled() {
                return Err(Failure::stopped(Stage::Milvus));
            }
            let (entries, vectors): (Vec<_>, Vec<_>) = batches
                .drain(..)
                .flatten()
                .map(|page| (page.entry, page.vectors))
                .unzip();
            let file_id = &self.plan.task.file.file_id;
            pipeline.check_claim(claim, cancel).await?;
            pipeline
                .ledger(cancel, || {
                    pipeline.stores.documents.add_pages(file_id, &entries)
                })
                .await?;
            let rows = pipeline
                .server(Stage::Milvus, cancel, |attempts| {
                    self.insert(&vectors, attempts)
                })
                .await?;
            let pages = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            stored.pages += pages;
            stored.vectors += rows;
            let is_held = pipeline.ledger(cancel, || {
                let ledger = &pipeline.stores.ledger;
                ledger.record_progress(claim, stored.pages, stored.vectors)
            });
            if !is_held.await? {
                return Err(Failure::superseded(Stage::Mongodb));
            }
            pipeline.metrics.pages.inc_by(pages.into());
            pipeline.metrics.vectors.inc_by(rows);
            (self.observer)(Event::Stored(pages));
        }
        Ok(stored)
    }

    /// Inserts rows. Milvus cannot replace rows, and a failed insert may have added some: they are
    /// deleted before the next attempt.
    async fn insert(&self, pages: &[PageVectors], attempts: u32) -> Result<u64, Failure> {
        let vectors = &self.pipeline.stores.vectors;
        let collection = &self.plan.collection;
        self.check_claim_again(attempts).await?;
        if attempts > 0 {
            let image_ids = pages.iter().map(|page| page.image_id.as_str());
            vectors.delete_pages(collection, image_ids).await?;
        }
        vectors
            .insert(collection, &self.plan.task.file.file_id, pages)
            .await
    }
}
