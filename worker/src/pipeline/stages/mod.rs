//! The stages of one range of pages, running at the same time and joined by short queues:
//!
//! ```text
//! render ─► embed  ─► store (MongoDB, then Milvus, then the ledger)
//!           upload
//! ```
//! A batch is uploaded to S3 while it is embedded, and goes on when both are done: so each batch is
//! in S3 before MongoDB, and in MongoDB before Milvus. Pages stream: in memory are the pages drawn
//! ahead, within the [budget](super::budget), and the vectors of a few batches. [`fetch`] comes
//! before: it serves all ranges of a document at once.

mod embed;
pub mod fetch;
mod render;
mod store;
mod upload;

use std::ops::Range;

use bytes::Bytes;
use layra_rendering::Document;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::budget::Room;
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
    /// What is stored of the range already.
    pub(super) before: Stored,
}

/// A page that is drawn.
struct DrawnPage {
    /// What the model sees of it.
    content: PageContent,
    image: PageImage,
}

/// A page's image on its way to the object store.
struct PageImage {
    /// The page, from 0.
    number: u32,
    /// The image's key.
    key: String,
    /// The file.
    bytes: Bytes,
    /// The memory that the whole page takes. Kept until the image is stored and the vectors are
    /// there.
    _room: Room,
}

/// A page whose image is stored and whose vectors are not.
struct EmbeddedPage {
    entry: PageEntry,
    vectors: PageVectors,
}

impl Stages<'_> {
    /// Runs all stages over `pages` to their end. When one fails the others stop at their next
    /// page, never in the middle of a write; the failure furthest down the line is the one that
    /// counts. Returns what is stored of the range by now.
    pub(super) async fn run(
        &self,
        document: Document,
        pages: Range<u32>,
    ) -> Result<Stored, Failure> {
        let (drawn, to_embed) = mpsc::channel(self.pipeline.batch_pages);
        let (embedded, to_store) = mpsc::channel(EMBEDDED_BATCHES);
        let (render, embed, store) = tokio::join!(
            self.render(document, pages, drawn),
            self.embed_and_upload(to_embed, embedded),
            self.store(to_store)
        );
        let stored = store?;
        embed?;
        render?;
        Ok(stored)
    }

    /// Embeds what is drawn and uploads its images, batch after batch.
    async fn embed_and_upload(
        &self,
        mut drawn: Receiver<DrawnPage>,
        embedded: Sender<Vec<EmbeddedPage>>,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::with_capacity(self.pipeline.batch_pages);
            if drawn.recv_many(&mut batch, self.pipeline.batch_pages).await == 0 {
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

    async fn batch(&self, pages: Vec<DrawnPage>) -> Result<Vec<EmbeddedPage>, Failure> {
        let (contents, images): (Vec<_>, Vec<_>) = pages
            .into_iter()
            .map(|page| (page.content, page.image))
            .unzip();
        let (vectors, entries) = tokio::try_join!(self.embed(contents), self.upload(&images))?;
        // Both are done with the pages' memory: others may have it.
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
