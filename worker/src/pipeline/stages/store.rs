//! The stage that writes to the databases: MongoDB, then Milvus, then the progress to the ledger.

use tokio::sync::mpsc::Receiver;

use super::{EmbeddedPage, Stages};
use crate::pipeline::{Event, Stored};
use crate::runtime::failure::{Failure, Stage};
use crate::stores::milvus::PageVectors;

/// Batches that are written together when the databases are slower than the model.
const STORED_BATCHES: usize = 4;

impl Stages<'_> {
    /// Writes what is embedded to MongoDB, then to Milvus, then its progress to the ledger. An
    /// attempt is never cut short; a claim that is lost ends the work before the next write.
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
            pipeline.hold(claim, cancel).await?;
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
            let Stored {
                pages: all,
                vectors,
            } = stored;
            let holds = pipeline.ledger(cancel, || {
                pipeline.stores.ledger.progress(claim, all, vectors)
            });
            if !holds.await? {
                return Err(Failure::superseded(Stage::Mongodb));
            }
            pipeline.metrics.pages.inc_by(pages.into());
            pipeline.metrics.vectors.inc_by(rows);
            (self.observer)(Event::Stored(pages));
        }
        Ok(stored)
    }

    /// Milvus cannot replace rows, and a failed insert may have added some: before another attempt
    /// they are removed.
    async fn insert(&self, pages: &[PageVectors], attempts: u32) -> Result<u64, Failure> {
        let vectors = &self.pipeline.stores.vectors;
        let collection = &self.plan.collection;
        if attempts > 0 {
            let image_ids = pages.iter().map(|page| page.image_id.as_str());
            vectors.delete_pages(collection, image_ids).await?;
        }
        vectors
            .insert(collection, &self.plan.task.file.file_id, pages)
            .await
    }
}
