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

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use layra_rendering::{Document, DocumentWarning, PageWarning};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::budget::Reservation;
use super::page_plan::PagePlan;
use super::{Observer, Pipeline};
use crate::pipeline::embedder::PageContent;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Claim, RangeEntry, SkippedPage};
use crate::stores::milvus::{self, PageVectors};
use crate::stores::mongo::{PageEntry, PageText};

/// Batches between the model and the databases.
const EMBEDDED_BATCHES: usize = 2;

pub(super) struct Stages<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) plan: &'a PagePlan<'a>,
    pub(super) claim: &'a Claim,
    pub(super) cancel: &'a CancellationToken,
    pub(super) observer: Observer<'a>,
    /// How far the range is already.
    pub(super) range: &'a RangeEntry,
    /// Pages that are known to be bad. They are skipped without an attempt.
    pub(super) bad_pages: &'a BTreeMap<u32, SkippedPage>,
    /// Whether a page is begun only once the page before is stored.
    pub(super) page_by_page: bool,
    /// The page after the last one that is stored or skipped.
    pub(super) settled: watch::Sender<u32>,
    /// CPU time, in milliseconds, that reading and rendering the range has taken so far.
    pub(super) cpu_ms: &'a AtomicU64,
}

/// Why the stages ended before the last page.
pub(super) struct Ended {
    pub(super) failure: Failure,
    /// Whether a page was not rendered, and nothing else failed: all pages before it are stored,
    /// and no write is in flight.
    pub(super) at_page: bool,
}

/// A page on its way to the model, or why it is skipped.
type Page<T> = Result<T, SkippedPage>;

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
    warnings: Warnings,
    /// The memory of the whole page, held until it is uploaded and embedded.
    _memory: Reservation,
}

/// What is missing on a page that counts as stored.
#[derive(Default)]
struct Warnings {
    page: Vec<PageWarning>,
    /// Those of the document, with its first page.
    document: Vec<DocumentWarning>,
}

/// A page that is uploaded and embedded, and not yet in the databases.
struct EmbeddedPage {
    entry: PageEntry,
    /// `None`: texts are not kept, or the page has none.
    text: Option<PageText>,
    warnings: Warnings,
    vectors: PageVectors,
}

/// Pages that follow each other, in any order.
#[derive(Default)]
struct EmbeddedBatch {
    pages: Vec<EmbeddedPage>,
    skipped: Vec<SkippedPage>,
}

impl Stages<'_> {
    /// Runs all stages over `pages`. When a stage fails, the others stop at their next page, never
    /// during a write; the failure of the latest stage is returned. Returns how far the range is.
    pub(super) async fn run(
        &self,
        document: Document,
        pages: Range<u32>,
    ) -> Result<RangeEntry, Ended> {
        let (rendered, to_embed) = mpsc::channel(self.pipeline.batch_pages);
        let (embedded, to_store) = mpsc::channel(EMBEDDED_BATCHES);
        let (render, embed, store) = tokio::join!(
            self.render(document, pages, rendered),
            self.embed_and_upload(to_embed, embedded),
            self.store(to_store)
        );
        let ended = |at_page| move |failure| Ended { failure, at_page };
        let range = store.map_err(ended(false))?;
        embed.map_err(ended(false))?;
        render.map_err(ended(true))?;
        Ok(range)
    }

    /// Embeds and uploads rendered pages, batch by batch.
    async fn embed_and_upload(
        &self,
        mut rendered: Receiver<Page<PendingPage>>,
        embedded: Sender<EmbeddedBatch>,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::with_capacity(self.pipeline.batch_pages);
            let received = tokio::select! {
                received = rendered.recv_many(&mut batch, self.pipeline.batch_pages) => received,
                // Page by page, no further page would show that the last stage has failed.
                () = embedded.closed() => return Ok(()),
            };
            if received == 0 {
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

    async fn batch(&self, pages: Vec<Page<PendingPage>>) -> Result<EmbeddedBatch, Failure> {
        let mut batch = EmbeddedBatch::default();
        let (mut contents, mut images, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for page in pages {
            match page {
                Ok(page) => {
                    texts.push(self.kept_text(&page));
                    contents.push(page.content);
                    images.push(page.image);
                }
                Err(skipped) => batch.skipped.push(skipped),
            }
        }
        let (vectors, entries) = tokio::try_join!(self.embed(contents), self.upload(&images))?;
        // Releases the memory of the pages.
        let warnings: Vec<Warnings> = images.into_iter().map(|image| image.warnings).collect();
        let facts = warnings.into_iter().zip(texts);
        for ((entry, vectors), (warnings, text)) in entries.into_iter().zip(vectors).zip(facts) {
            let page = entry.number - 1;
            let vectors = vectors.and_then(|vectors| {
                let vectors = PageVectors {
                    image_id: entry.image_id.clone(),
                    page,
                    vectors,
                };
                milvus::check_finite(std::slice::from_ref(&vectors))?;
                self.pipeline.quotas.record_page(vectors.vectors.len());
                Ok(vectors)
            });
            match vectors {
                Ok(vectors) => batch.pages.push(EmbeddedPage {
                    entry,
                    text,
                    warnings,
                    vectors,
                }),
                Err(failure) => batch.skipped.push(self.skip(page, failure)?),
            }
        }
        Ok(batch)
    }

    /// What is kept of the text of a page.
    fn kept_text(&self, page: &PendingPage) -> Option<PageText> {
        if !self.pipeline.keeps_texts {
            return None;
        }
        PageText::new(self.plan.image_id(page.image.number), &page.content.text)
    }

    /// Skips a page (from 0) because of its failure, where bad pages are skipped.
    fn skip(&self, page: u32, failure: Failure) -> Result<SkippedPage, Failure> {
        if self.plan.skips_bad_pages() && failure.rejects_document() {
            Ok(SkippedPage::new(page, &failure))
        } else {
            Err(failure)
        }
    }
}
