//! The stages of one page range. They run concurrently and are connected by short queues:
//!
//! ```text
//! render ─► embed  ─► store (MongoDB, then Milvus, then the ledger)
//!           upload
//! ```
//! A batch is uploaded to S3 while it is embedded, and is stored when both are complete: each batch
//! is in S3 before MongoDB, and in MongoDB before Milvus. Pages are streamed: memory holds the
//! pages rendered ahead, within the [budget](super::budget), and the vectors of a few batches.
//! [`fetch`] comes first: it serves all ranges of a document.

mod embed;
pub(crate) mod fetch;
mod render;
mod store;
mod upload;

use std::ops::Range;

use bytes::Bytes;
use layra_rendering::Document;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::budget::Reservation;
use super::page_plan::PagePlan;
use super::{Observer, Pipeline, Stored};
use crate::pipeline::embedder::PageContent;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::Claim;
use crate::stores::milvus::PageVectors;
use crate::stores::mongo::PageEntry;

/// Batches between the model and the databases.
const EMBEDDED_BATCHES: usize = 2;

pub(super) struct Stages<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) plan: &'a PagePlan<'a>,
    pub(super) claim: &'a Claim,
    pub(super) cancel: &'a CancellationToken,
    pub(super) observer: Observer<'a>,
    /// The pages and vectors of the range that are stored already.
    pub(super) before: Stored,
}

/// A rendered page that is not yet uploaded and embedded.
struct PendingPage {
    /// The model's input.
    content: PageContent,
    image: PageImage,
}

/// A page's image on its way to the object store.
struct PageImage {
    /// The page, from 0.
    number: u32,
    key: String,
    bytes: Bytes,
    /// The memory of the whole page, held until it is uploaded and embedded.
    _memory: Reservation,
}

/// A page that is uploaded and embedded, and not yet in the databases.
struct EmbeddedPage {
    entry: PageEntry,
    vectors: PageVectors,
}

impl Stages<'_> {
    /// Runs all stages over `pages`. When a stage fails, the others stop at their next page, never
    /// during a write; the failure of the latest stage is returned. Returns the pages and vectors
    /// of the range that are stored.
    pub(super) async fn run(
        &self,
        document: Document,
        pages: Range<u32>,
    ) -> Result<Stored, Failure> {
        let (rendered, to_embed) = mpsc::channel(self.pipeline.batch_pages);
        let (embedded, to_store) = mpsc::channel(EMBEDDED_BATCHES);
        let (render, embed, store) = tokio::join!(
            self.render(document, pages, rendered),
            self.embed_and_upload(to_embed, embedded),
            self.store(to_store)
        );
        let stored = store?;
        embed?;
        render?;
        Ok(stored)
    }

    /// Embeds and uploads rendered pages, batch by batch.
    async fn embed_and_upload(
        &self,
        mut rendered: Receiver<PendingPage>,
        embedded: Sender<Vec<EmbeddedPage>>,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::with_capacity(self.pipeline.batch_pages);
            if rendered
                .recv_many(&mut batch, self.pipeline.batch_pages)
                .await
                == 0
            {
                return Ok(());
            }
            let batch = tokio::select! {
                batch = self.batch(batch) => batch?,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Embed)),
            };
            if embedded.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Checks the claim before a repeated attempt: the worker may have waited long for it.
    async fn check_claim_again(&self, attempts: u32) -> Result<(), Failure> {
        let ledger = &self.pipeline.stores.ledger;
        if attempts > 0 && ledger.claimed_range(self.claim).await?.is_none() {
            return Err(Failure::superseded(Stage::Mongodb));
        }
        Ok(())
    }

    async fn batch(&self, pages: Vec<PendingPage>) -> Result<Vec<EmbeddedPage>, Failure> {
        let (contents, images): (Vec<_>, Vec<_>) = pages
            .into_iter()
            .map(|page| (page.content, page.image))
            .unzip();
        let (vectors, entries) = tokio::try_join!(self.embed(contents), self.upload(&images))?;
        // Releases the memory of the pages.
        drop(images);
        let pages = entries.into_iter().zip(vectors);
        Ok(pages
            .map(|(entry, vectors)| EmbeddedPage {
                vectors: PageVectors {
                    image_id: entry.image_id.clone(),
                    page: entry.number - 1,
                    vectors,
                },
                entry,
            })
            .collect())
    }
}
