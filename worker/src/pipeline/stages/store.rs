//! The stage that writes to MongoDB, then to Milvus, then the progress to the ledger.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc::Receiver;

use super::{EmbeddedBatch, Stages};
use crate::pipeline::Event;
use crate::pipeline::limits::check_limits;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work;
use crate::stores::ledger::{RangeEntry, SkippedPage};
use crate::stores::milvus::PageVectors;
use crate::stores::mongo::{PageEntry, PageText};

/// Batches that are written together if the databases are slower than the model.
const STORED_BATCHES: usize = 4;

impl Stages<'_> {
    /// Writes embedded pages to MongoDB, then to Milvus, then the progress to the ledger. An
    /// attempt is never interrupted. A lost claim ends the work before the next write, and so does a
    /// document that exceeds its limits. Returns how far the range is.
    pub(super) async fn store(
        &self,
        mut embedded: Receiver<EmbeddedBatch>,
    ) -> Result<RangeEntry, Failure> {
        let Self {
            pipeline,
            claim,
            cancel,
            ..
        } = *self;
        let mut range = self.range.clone();
        let mut batches = Vec::with_capacity(STORED_BATCHES);
        while embedded.recv_many(&mut batches, STORED_BATCHES).await > 0 {
            if cancel.is_cancelled() {
                return Err(Failure::stopped(Stage::Milvus));
            }
            let (mut entries, mut vectors, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
            let (mut texts, mut warnings) = (Vec::new(), Vec::new());
            for batch in batches.drain(..) {
                skipped.extend(batch.skipped);
                for page in batch.pages {
                    entries.push(page.entry);
                    texts.extend(page.text);
                    vectors.push(page.vectors);
                    warnings.push(page.warnings);
                }
            }
            pipeline.check_claim(claim, cancel).await?;
            self.keep_texts(&texts).await?;
            self.give_up(&skipped).await?;
            let rows = self.store_pages(&entries, &vectors).await?;
            let pages = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            let settled = pages + u32::try_from(skipped.len()).unwrap_or(u32::MAX);
            range.add(pages, rows, skipped.clone());
            range.cpu_ms = self.cpu_ms.load(Ordering::Relaxed);
            range.times_ms.add(work::take_times());
            let entry = pipeline.ledger(cancel, || {
                pipeline.stores.ledger.record_progress(claim, &range)
            });
            let Some(entry) = entry.await? else {
                return Err(Failure::superseded(Stage::Mongodb));
            };
            pipeline.metrics.pages.inc_by(pages.into());
            pipeline.metrics.vectors.inc_by(rows);
            let knowledge_base = &self.plan.task.knowledge_base;
            pipeline.quotas.record_stored(knowledge_base, rows);
            for warnings in &warnings {
                let metrics = &pipeline.metrics;
                metrics.count_page_warnings(&warnings.page);
                metrics.count_document_warnings(&warnings.document);
            }
            self.report(&skipped);
            (self.observer)(Event::Settled(settled));
            self.settled.send_replace(claim.first + range.stored);
            check_limits(&entry, &pipeline.limits)?;
        }
        Ok(range)
    }

    /// Writes the texts of pages, before the pages are entered: who finds a page finds its text.
    async fn keep_texts(&self, texts: &[PageText]) -> Result<(), Failure> {
        if texts.is_empty() {
            return Ok(());
        }
        let Self {
            pipeline, cancel, ..
        } = *self;
        let file_id = &self.plan.task.file.file_id;
        let keep = |attempts| async move {
            self.check_claim_again(attempts).await?;
            let documents = &pipeline.stores.documents;
            documents.keep_page_texts(file_id, texts).await
        };
        pipeline.server(Stage::Mongodb, cancel, keep).await?;
        // The writes that follow must come as soon after a check as without texts.
        pipeline.check_claim(self.claim, cancel).await
    }

    /// Returns the number of rows.
    async fn store_pages(
        &self,
        entries: &[PageEntry],
        vectors: &[PageVectors],
    ) -> Result<u64, Failure> {
        if entries.is_empty() {
            return Ok(0);
        }
        let Self {
            pipeline, cancel, ..
        } = *self;
        let file_id = &self.plan.task.file.file_id;
        let pages = pipeline.ledger(cancel, || {
            pipeline.stores.documents.add_pages(file_id, entries)
        });
        work::timed(Stage::Mongodb, pages).await?;
        let rows = pipeline.server(Stage::Milvus, cancel, |attempts| {
            self.insert(vectors, attempts)
        });
        work::timed(Stage::Milvus, rows).await
    }

    /// Lists skipped pages in the file's entry, and removes what an earlier attempt, or the upload
    /// before the model failed, has stored of them.
    async fn give_up(&self, skipped: &[SkippedPage]) -> Result<(), Failure> {
        if skipped.is_empty() {
            return Ok(());
        }
        let Self {
            pipeline, cancel, ..
        } = *self;
        let file_id = &self.plan.task.file.file_id;
        let pages: Vec<(u32, String)> = skipped
            .iter()
            .map(|skipped| (skipped.page + 1, self.plan.image_key(skipped.page)))
            .collect();
        pipeline
            .ledger(cancel, || {
                let documents = &pipeline.stores.documents;
                documents.list_failed_pages(file_id, &pages)
            })
            .await?;
        let image_ids: Vec<String> = skipped
            .iter()
            .map(|skipped| self.plan.image_id(skipped.page))
            .collect();
        pipeline
            .ledger(cancel, || {
                pipeline.stores.documents.remove_page_texts(&image_ids)
            })
            .await?;
        let keys: Vec<String> = pages.into_iter().map(|(_, key)| key).collect();
        pipeline
            .server(Stage::Objects, cancel, |attempts| {
                let removal = pipeline.stores.objects.delete_all(keys.clone());
                async move {
                    self.check_claim_again(attempts).await?;
                    removal.await
                }
            })
            .await
    }

    fn report(&self, skipped: &[SkippedPage]) {
        for SkippedPage {
            page,
            reason,
            message,
        } in skipped
        {
            tracing::warn!(page = page + 1, reason, error = message, "page skipped");
            let counter = &self.pipeline.metrics.pages_skipped;
            counter.with_label_values(&[reason]).inc();
        }
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
