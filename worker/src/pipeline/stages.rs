//! The stages of one document, running at the same time and joined by short queues.
//!
//! Pages stream: in memory are the pages drawn ahead (one batch), the batch that is embedded and
//! uploaded, and two batches' vectors.

use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Stage};
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::pipeline::plan::Plan;
use crate::pipeline::{Event, Observer, Pipeline, Stored, render_failure};
use crate::render::{Document, RenderedPage};
use crate::store::milvus::PageVectors;
use crate::store::mongo::PageEntry;

/// Batches between the model and the databases.
const EMBEDDED_BATCHES: usize = 1;

pub(super) struct Stages<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) plan: &'a Plan<'a>,
    pub(super) cancel: &'a CancellationToken,
    pub(super) observer: Observer<'a>,
}

/// Pages whose images are stored and whose vectors are not.
struct EmbeddedBatch {
    entries: Vec<PageEntry>,
    vectors: Vec<PageVectors>,
}

impl Stages<'_> {
    /// Runs all stages to their end. When one fails the others stop at their next page, never in
    /// the middle of a write; the failure furthest down the line is the one that counts.
    pub(super) async fn run(&self, document: Document) -> Result<Stored, Failure> {
        let (drawn, to_embed) = mpsc::channel(self.pipeline.batch_pages);
        let (embedded, to_store) = mpsc::channel(EMBEDDED_BATCHES);
        let (render, embed, store) = tokio::join!(
            self.render(document, drawn),
            self.embed(to_embed, embedded),
            self.store(to_store)
        );
        let stored = store?;
        embed?;
        render?;
        Ok(stored)
    }

    /// Draws every page. A queue that nobody reads any more ends the stage: the reader knows why.
    async fn render(
        &self,
        mut document: Document,
        drawn: Sender<RenderedPage>,
    ) -> Result<(), Failure> {
        for number in 0..self.plan.pages {
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
            if drawn.send(page).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Embeds batch after batch, and uploads its images meanwhile.
    async fn embed(
        &self,
        mut drawn: Receiver<RenderedPage>,
        embedded: Sender<EmbeddedBatch>,
    ) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::with_capacity(self.pipeline.batch_pages);
            while batch.len() < self.pipeline.batch_pages {
                let Some(page) = drawn.recv().await else {
                    break;
                };
                batch.push(page);
            }
            if batch.is_empty() {
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

    async fn embed_batch(&self, pages: Vec<RenderedPage>) -> Result<EmbeddedBatch, Failure> {
        let mut contents = Vec::with_capacity(pages.len());
        let mut images: Vec<(String, Bytes)> = Vec::with_capacity(pages.len());
        let mut entries = Vec::with_capacity(pages.len());
        let numbers: Vec<u32> = pages.iter().map(|page| page.page).collect();
        for page in pages {
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
        }
        let objects = &self.pipeline.objects;
        let content_type = self.plan.content_type();
        let (vectors, ()) = tokio::try_join!(
            self.pipeline.embedder.embed_pages(contents),
            self.pipeline.objects(self.cancel, || objects
                .put_all(images.clone(), content_type)),
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
        Ok(EmbeddedBatch { entries, vectors })
    }

    /// Writes batch after batch to MongoDB, then to Milvus. An attempt is never cut short.
    async fn store(&self, mut embedded: Receiver<EmbeddedBatch>) -> Result<Stored, Failure> {
        let file_id = &self.plan.task.file.file_id;
        let mut stored = Stored::default();
        while let Some(batch) = embedded.recv().await {
            if self.cancel.is_cancelled() {
                return Err(Failure::stopped(Stage::Milvus));
            }
            let documents = &self.pipeline.documents;
            self.pipeline
                .mongodb(self.cancel, || documents.add_pages(file_id, &batch.entries))
                .await?;
            let rows = self
                .pipeline
                .milvus(self.cancel, |attempts| {
                    self.insert(&batch.vectors, attempts)
                })
                .await?;
            let pages = u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
            stored.pages += pages;
            stored.vectors += rows;
            self.pipeline.metrics.pages.inc_by(pages.into());
            self.pipeline
                .metrics
                .vectors
                .inc_by(u64::try_from(rows).unwrap_or(u64::MAX));
            (self.observer)(Event::Stored(pages));
        }
        Ok(stored)
    }

    /// Milvus cannot replace rows, and a failed insert may have added some: before another attempt
    /// they are removed.
    async fn insert(&self, pages: &[PageVectors], attempts: u32) -> Result<usize, Failure> {
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
