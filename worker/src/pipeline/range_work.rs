//! The work on one page range, under a claim.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use layra_rendering::Document;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::admit::{Job, Source};
use super::page_plan::PagePlan;
use super::poison::{check_renderer_deaths, check_worker_deaths};
use super::stages::Stages;
use super::{Event, Observer, Outcome, Pipeline, Stored, render_failure};
use crate::document::page_range::even_length;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::retry::Refusals;
use crate::stores::ledger::{Claim, Entry, RangeEntry, State};

/// A page range of an open document, and everything that the work on it needs.
struct RangeWork<'a> {
    plan: &'a PagePlan<'a>,
    claim: &'a Claim,
    /// The page after the range's last one.
    end: u32,
    original: &'a Path,
    /// Whether the document has further ranges.
    is_split: bool,
    cancel: &'a CancellationToken,
    observer: Observer<'a>,
}

/// A lock on [`Pipeline::isolation`], held while a range is in progress.
#[expect(dead_code, reason = "the guards act by being dropped")]
enum Isolation<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Exclusive(RwLockWriteGuard<'a, ()>),
}

impl Pipeline {
    /// Ingests the range of `entry` that begins at page `first`, unless it is done.
    pub(super) async fn ingest_pages(
        &self,
        job: &Job<'_>,
        entry: &Entry,
        first: u32,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Outcome, Failure> {
        let (file_id, round) = (&entry.file_id, &entry.round);
        // The lock comes before the claim: a worker that dies while this range waits for the lock
        // must not make the range suspect.
        let mut exclusive = entry.range_entry(first).was_begun();
        let (_isolation, claim, entry) = loop {
            let isolation = self.isolate(exclusive, cancel).await?;
            let claim = Claim::new(file_id, round, first);
            let granted = self.ledger(cancel, || self.stores.ledger.claim(&claim));
            let Some(entry) = granted.await? else {
                drop(isolation);
                return self.claim_refused(&claim, cancel).await;
            };
            if exclusive || !entry.range_entry(first).is_suspect() {
                break (isolation, claim, entry);
            }
            // Another worker claimed the range after `entry` was read.
            self.ledger(cancel, || self.stores.ledger.release(&claim))
                .await?;
            exclusive = true;
        };
        let result = match check_worker_deaths(&entry.range_entry(first)) {
            Ok(()) => {
                self.ingest_claimed(job, &claim, &entry, cancel, observer)
                    .await
            }
            Err(failure) => Err(failure),
        };
        let result = match result {
            Err(failure) => Err(self.check_deletion(job, failure, cancel).await),
            stored => stored,
        };
        match result {
            Ok((_, Some(stored))) => self.finish_range(&claim, stored, cancel).await,
            Ok((split, None)) => {
                self.ledger(cancel, || self.stores.ledger.release(&claim))
                    .await?;
                let missing = split.missing_ranges();
                Ok(Outcome::Split(Box::new(split), missing))
            }
            Err(failure) if failure.class == Class::Superseded => {
                self.yield_claim(&claim, cancel).await
            }
            Err(failure) if failure.class == Class::Deleted => {
                self.drop_deleted(job, &claim, cancel).await
            }
            Err(failure) if failure.rejects_document() => {
                self.reject(&claim, &failure, cancel).await
            }
            Err(failure) => {
                // This worker did not die while it processed the document: the attempt must not
                // count.
                if let Err(error) = self.stores.ledger.release(&claim).await {
                    tracing::warn!(%error, "claim could not be released");
                }
                Err(failure)
            }
        }
    }

    /// A document whose knowledge base is gone because somebody asked for that did not fail: it was
    /// deleted.
    async fn check_deletion(
        &self,
        job: &Job<'_>,
        failure: Failure,
        cancel: &CancellationToken,
    ) -> Failure {
        if !matches!(
            failure.reason,
            Reason::KnowledgeBaseNotFound | Reason::CollectionGone
        ) {
            return failure;
        }
        let deleted = self.ledger(cancel, || self.is_knowledge_base_deleted(job));
        match deleted.await {
            Ok(true) => Failure::deleted(failure.stage, failure.message),
            Ok(false) => failure,
            Err(error) => error,
        }
    }

    /// Drops a document that was deleted while it was processed. The original of a file that LAYRA
    /// deleted is LAYRA's: it stays, unless somebody asked for the deletion of the knowledge base.
    async fn drop_deleted(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let requested = self
            .ledger(cancel, || self.is_knowledge_base_deleted(job))
            .await?;
        let dropped = self.ledger(cancel, || {
            self.stores.ledger.record_deleted(claim, requested)
        });
        if dropped.await?.is_some() {
            tracing::warn!("the file was deleted while it was processed, dropping it");
        }
        self.yield_claim(claim, cancel).await
    }

    /// Takes the lock for normal work, or for exclusive work on a suspect document. If a worker
    /// dies during exclusive work, no other document comes under suspicion.
    async fn isolate(
        &self,
        exclusive: bool,
        cancel: &CancellationToken,
    ) -> Result<Isolation<'_>, Failure> {
        let lock = async {
            if exclusive {
                tracing::info!("a worker died on this document before, processing it in isolation");
                Isolation::Exclusive(self.isolation.write().await)
            } else {
                Isolation::Shared(self.isolation.read().await)
            }
        };
        tokio::select! {
            lock = lock => Ok(lock),
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Intake)),
        }
    }

    /// Opens the document and ingests the claimed range. Returns the new entry and how much is
    /// stored. `None`: the document is longer than one range and must be split.
    async fn ingest_claimed(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        entry: &Entry,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<(Entry, Option<Stored>), Failure> {
        let original = self.local_original(job, cancel).await?;
        let is_split = entry.range_pages.is_some() && entry.prepared;
        let document = self
            .open_document(original.as_ref(), is_split, cancel)
            .await?;
        let pages = document.pages();
        let plan = |pages| {
            let pixels = self.embedder.page_pixels();
            PagePlan::new(job.task, pages, &self.render, &self.stores.milvus, pixels)
        };
        let plan = plan(pages);
        let entry = match entry.pages {
            Some(expected) if expected == pages => entry.clone(),
            Some(expected) if entry.range_pages.is_some() => {
                let message =
                    format!("the original has {pages} pages now and had {expected} before");
                return Err(Failure::permanent(
                    Stage::Fetch,
                    Reason::OriginalChanged,
                    message,
                ));
            }
            _ => {
                let split = matches!(job.source, Source::ObjectStore) && pages > self.range_pages;
                let length = split.then(|| even_length(pages, self.range_pages));
                let record = || self.stores.ledger.record_page_count(claim, pages, length);
                self.ledger(cancel, record)
                    .await?
                    .ok_or_else(|| Failure::superseded(Stage::Mongodb))?
            }
        };
        observer(Event::Opened(pages));
        if !entry.prepared {
            self.prepare(claim, &plan, cancel).await?;
            if entry.range_pages.is_some() {
                drop(document);
                return Ok((entry, None));
            }
        }
        let count = entry
            .ranges()
            .into_iter()
            .find_map(|(first, count)| (first == claim.first).then_some(count))
            .ok_or_else(|| {
                let message = format!("no range begins at page {}", claim.first + 1);
                Failure::permanent(Stage::Intake, Reason::InvalidRange, message)
            })?;

        let work = RangeWork {
            plan: &plan,
            claim,
            end: claim.first + count,
            original: original.as_ref(),
            is_split,
            cancel,
            observer,
        };
        let range = entry.range_entry(claim.first);
        let stored = self.store_every_page(&work, range, document).await?;
        Ok((entry, Some(stored)))
    }

    /// Stores the remaining pages of the range, and repeats that until Milvus holds each page
    /// exactly once.
    async fn store_every_page(
        &self,
        work: &RangeWork<'_>,
        mut range: RangeEntry,
        mut document: Document,
    ) -> Result<Stored, Failure> {
        let RangeWork {
            plan,
            claim,
            end,
            cancel,
            ..
        } = *work;
        let mut clean = range.turns <= 1;
        // Both count since a page was stored.
        let (mut attempts, mut renderers_killed) = (0, 0);
        let mut refusals = Refusals::default();
        loop {
            let start = claim.first + range.stored;
            if !clean {
                self.clear_rows(plan, start..end, cancel).await?;
            }
            let stages = Stages {
                pipeline: self,
                plan,
                claim,
                cancel,
                observer: work.observer,
                before: Stored {
                    pages: range.stored,
                    vectors: range.rows,
                },
            };
            let failure = match stages.run(document, start..end).await {
                Ok(stored) => {
                    let found = self.count_rows(plan, claim.first..end, cancel).await?;
                    if found == stored.vectors {
                        return Ok(stored);
                    }
                    self.metrics.repeats.inc();
                    let reset =
                        self.ledger(cancel, || self.stores.ledger.record_progress(claim, 0, 0));
                    if !reset.await? {
                        return Err(Failure::superseded(Stage::Mongodb));
                    }
                    range.stored = 0;
                    range.rows = 0;
                    let message =
                        format!("Milvus holds {found} rows instead of {}", stored.vectors);
                    Failure::refused(Stage::Milvus, Reason::RowsNotOnce, message)
                }
                Err(failure) if failure.class == Class::Transient => {
                    let now = self.claimed_range(claim, cancel).await?;
                    if now.stored > range.stored {
                        (attempts, renderers_killed) = (0, 0);
                    }
                    range = now;
                    if failure.reason.is_lost_renderer() {
                        renderers_killed += 1;
                        check_renderer_deaths(renderers_killed, &failure)?;
                    }
                    failure
                }
                Err(failure) => return Err(failure),
            };
            self.retry
                .pause(cancel, &failure, attempts, &mut refusals)
                .await?;
            attempts += 1;
            clean = false;
            document = self
                .open_document(work.original, work.is_split, cancel)
                .await?;
        }
    }

    async fn open_document(
        &self,
        original: &Path,
        is_split: bool,
        cancel: &CancellationToken,
    ) -> Result<Document, Failure> {
        let killed = AtomicU32::new(0);
        let open = |_| async {
            let opened = if is_split {
                self.renderer.open_part(original).await
            } else {
                self.renderer.open(original).await
            };
            let failure = match opened {
                Ok(document) => return Ok(document),
                Err(error) => render_failure(&error),
            };
            if failure.reason.is_lost_renderer() {
                check_renderer_deaths(killed.fetch_add(1, Ordering::Relaxed) + 1, &failure)?;
            }
            Err(failure)
        };
        tokio::select! {
            opened = self.retry.run(Stage::Render, cancel, open) => opened,
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Render)),
        }
    }

    /// Records that every page of the range is stored. The last range completes the document.
    async fn finish_range(
        &self,
        claim: &Claim,
        stored: Stored,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let Stored { pages, vectors } = stored;
        let entry = self.ledger(cancel, || {
            self.stores.ledger.record_range_done(claim, pages, vectors)
        });
        let Some(entry) = entry.await? else {
            return self.yield_claim(claim, cancel).await;
        };
        if entry.range_pages.is_some() {
            self.metrics.ranges.inc();
            self.metrics.range_pages.inc_by(pages.into());
        }
        match entry.stored_rows() {
            Some(rows) => self.complete_document(&entry, rows, cancel).await,
            None => Ok(Outcome::RangeStored),
        }
    }

    /// Decides what follows when a claim was not granted: the range is done, or its round is over.
    async fn claim_refused(
        &self,
        claim: &Claim,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let now = self.ledger(cancel, || self.stores.ledger.find(&claim.file_id));
        let Some(entry) = now.await?.filter(|now| now.round == claim.round) else {
            return Ok(Outcome::Superseded);
        };
        match (entry.state, &entry.failure) {
            // The worker that finished the last range may have died before it completed the
            // document.
            (State::Working, _) => match entry.stored_rows() {
                Some(rows) => self.complete_document(&entry, rows, cancel).await,
                None if entry.range_entry(claim.first).done => Ok(Outcome::AlreadyStored),
                None => self.leave_to_other_worker(&entry.file_id, cancel).await,
            },
            (State::Done, _) => Ok(Outcome::AlreadyStored),
            (State::Failed, Some(rejection)) if !rejection.letter => {
                self.withdraw_rejected(Box::new(entry), cancel).await
            }
            (State::Failed | State::Deleted, _) => Ok(Outcome::Settled),
        }
    }

    /// Rejects the document, if this worker still has the claim: another worker that has taken over
    /// the range may succeed. The first range that fails rejects the document.
    async fn reject(
        &self,
        claim: &Claim,
        failure: &Failure,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let failed = self.ledger(cancel, || self.stores.ledger.record_failed(claim, failure));
        let Some(entry) = failed.await? else {
            return self.yield_claim(claim, cancel).await;
        };
        self.ledger(cancel, || self.stores.ledger.close(claim))
            .await?;
        self.withdraw_rejected(Box::new(entry), cancel).await
    }

    /// Leaves the range to the worker that has taken it over. A late write of this worker may have
    /// landed after the end of the round: then the document is rechecked here.
    async fn yield_claim(
        &self,
        claim: &Claim,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let entry = self.ledger(cancel, || self.stores.ledger.find(&claim.file_id));
        let outcome = match entry.await? {
            Some(entry) if entry.state != State::Working => {
                self.retry
                    .run(Stage::Milvus, cancel, |_| self.recheck(&entry))
                    .await?
            }
            _ => self.leave_to_other_worker(&claim.file_id, cancel).await?,
        };
        self.ledger(cancel, || self.stores.ledger.close(claim))
            .await?;
        Ok(outcome)
    }

    /// Leaves the document to another worker. The recheck finds out whether that worker exists, so
    /// the message may be committed.
    async fn leave_to_other_worker(
        &self,
        file_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        self.ledger(cancel, || self.stores.ledger.schedule_recheck(file_id))
            .await?;
        Ok(Outcome::Superseded)
    }
}
