//! The stages of one range of pages, running at the same time and joined by short queues.
//!
//! Pages stream: in memory are the pages drawn ahead, within the [budget](super::budget), and the
//! vectors of a few batches.

pub mod fetch;

use std::ops::Range;

use bytes::Bytes;
use layra_rendering::{Document, RenderedPage};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::budget::Room;
use super::page_plan::PagePlan;
use super::{Event, Observer, Pipeline, Stored, render_failure};
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::Claim;
use crate::stores::milvus::PageVectors;
use crate::stores::mongo::PageEntry;

/// Batches between the model and the databases.
const EMBEDDED_BATCHES: usize = 2;
/// Batches that are written together when the databases are slower than the model.
const STORED_BATCHES: usize = 4;

pub(super) struct Stages<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) plan: &'a PagePlan<'a>,
    pub(super) claim: &'a Claim,
    pub(super) cancel: &'a CancellationToken,
    pub(super) observer: Observer<'a>,
    /// What is stored of the range already.
    pub(super) before: Stored,
}

/// A page on its way to the model, with the memory that it takes.
struct Drawn {
    page: RenderedPage,
    room: Room,
}

/// Pages whose images are stored and whose vectors are not.
struct EmbeddedBatch {
    entries: Vec<PageEntry>,
    vectors: Vec<PageVectors>,
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
            self.embed(to_embed, embedded),
            self.store(to_store)
        );
        let stored = store?;
        embed?;
        render?;
        Ok(stored)
    }

    /// Draws page after page. A queue that nobody reads any more ends the stage: the reader knows
    /// why.
    async fn render(
        &self,
        mut document: Document,
        pages: Range<u32>,
        drawn: Sender<Drawn>,
    ) -> Result<(), Failure> {
        for number in pages {
            let timer = self.pipeline.metrics.conversion_duration.start_timer();
            let page = tokio::select! {
                page = document.render(self.plan.request(number)) => page,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = drawn.closed() => return Ok(()),
            };
            timer.stop_and_record();
            let page = page.map_err(|error| {
                let failure = render_failure(&error);
                let message = format!("page {}: {}", number + 1, failure.message);
                Failure { message, ..failure }
            })?;
            let pixels = page.pixels.as_ref().map_or(0, Bytes::len);
            let bytes = page.encoded.len() + page.text.len() + pixels;
            let room = tokio::select! {
                room = self.pipeline.budget.room(bytes) => room,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
            };
            if drawn.send(Drawn { page, room }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Embeds what is drawn, batch after batch, and uploads its images meanwhile.
    async fn embed(
        &self,
        mut drawn: Receiver<Drawn>,
        embedded: Sender<EmbeddedBatch>,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::with_capacity(self.pipeline.batch_pages);
            if drawn.recv_many(&mut batch, self.pipeline.batch_pages).await == 0 {
                return Ok(());
            }
            let batch = tokio::select! {
                batch = self.embed_batch(batch) => batch?,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Embed)),
            };
            if embedded.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn embed_batch(&self, pages: Vec<Drawn>) -> Result<EmbeddedBatch, Failure> {
        let mut contents = Vec::with_capacity(pages.len());
        let mut images: Vec<(String, Bytes)> = Vec::with_capacity(pages.len());
        let mut entries = Vec::with_capacity(pages.len());
        let mut numbers = Vec::with_capacity(pages.len());
        // Kept until the images are uploaded.
        let mut rooms = Vec::with_capacity(pages.len());
        for Drawn { page, room } in pages {
            let key = self.plan.image_key(page.page);
            entries.push(PageEntry {
                image_id: self.plan.image_id(page.page),
                url: self.pipeline.objects.link(&key),
                key: key.clone(),
                number: page.page + 1,
            });
            images.push((key, page.encoded));
            let (width, height) = (page.width, page.height);
            let pixels = page.pixels.map(|rgb| PagePixels { width, height, rgb });
            contents.push(PageContent {
                text: page.text,
                pixels,
            });
            numbers.push(page.page);
            rooms.push(room);
        }
        let objects = &self.pipeline.objects;
        let content_type = self.plan.content_type();
        let upload = |_| objects.put_all(images.clone(), content_type);
        let (vectors, ()) = tokio::try_join!(
            self.pipeline.embedder.embed_pages(contents),
            self.pipeline.server(Stage::Objects, self.cancel, upload),
        )?;
        let vectors = numbers
            .into_iter()
            .zip(vectors)
            .map(|(page, vectors)| PageVectors {
                image_id: self.plan.image_id(page),
                page,
                vectors: vectors.rows().map(<[f32]>::to_vec).collect(),
            })
            .collect();
        drop(rooms);
        Ok(EmbeddedBatch { entries, vectors })
    }

    /// Writes what is embedded to MongoDB, then to Milvus, then its progress to the ledger. An
    /// attempt is never cut short; a claim that is lost ends the work before the next write.
    async fn store(&self, mut embedded: Receiver<EmbeddedBatch>) -> Result<Stored, Failure> {
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
                .map(|batch| (batch.entries, batch.vectors))
                .unzip();
            let (entries, vectors) = (entries.concat(), vectors.concat());
            let file_id = &self.plan.task.file.file_id;
            pipeline.hold(claim, cancel).await?;
            pipeline
                .ledger(cancel, || pipeline.documents.add_pages(file_id, &entries))
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
            let holds = pipeline.ledger(cancel, || pipeline.ledger.progress(claim, all, vectors));
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
        let vectors = &self.pipeline.vectors;
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
