//! The work on one page range, under a claim.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use layra_rendering::Document;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admit::{Job, Source};
use super::limits::check_limits;
use super::page_plan::{PagePlan, skips_bad_pages};
use super::poison::{check_renderer_deaths, check_worker_deaths, works_page_by_page};
use super::stages::{Ended, Stages};
use super::turn::{Ingested, Worked};
use super::{Event, Observer, Outcome, Pipeline, render_failure};
use crate::document::page_range::even_length;
use crate::document::task::Task;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::retry::Refusals;
use crate::runtime::work;
use crate::stores::ledger::{Claim, Decider, Entry, RangeEntry, SkippedPage, State};

/// A page range of an open document, and everything that the work on it needs.
struct RangeWork<'a> {
    plan: &'a PagePlan<'a>,
    claim: &'a Claim,
    /// The page after the range's last one.
    end: u32,
    original: &'a Path,
    /// Whether the document has further ranges.
    is_split: bool,
    /// A page that several workers died on.
    deadly: Option<SkippedPage>,
    cancel: &'a CancellationToken,
    observer: Observer<'a>,
}

/// Fails if the page that was to be rendered is bad: by its failure, or because it has killed several
/// renderers.
fn check_page(renderers_killed: u32, failure: &Failure) -> Result<(), Failure> {
    if failure.rejects_document() {
        Err(failure.clone())
    } else {
        check_renderer_deaths(renderers_killed, failure)
    }
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
        let (open, result) = match self
            .work_in_turns(job, entry, first, cancel, observer)
            .await?
        {
            Worked::Refused(open) => return self.claim_refused(open.claim(), cancel).await,
            Worked::Ended(open, result) => (open, result),
        };
        let ended = self.end_claim(job, open.claim(), result, cancel).await;
        match &ended {
            Ok(_) => {}
            // The attempt counts, so that the document ends as poison.
            Err(failure) if failure.may_be_the_documents() => {
                let ledger = &self.stores.ledger;
                if let Err(error) = ledger.record_end_of_worker(open.claim(), failure).await {
                    tracing::warn!(%error, "the end of the worker was not recorded");
                }
            }
            // This worker does not end because of the document: the attempt must not count.
            Err(_) => self.release(open).await,
        }
        ended
    }

    /// Carries out what follows from the work on a claimed range.
    async fn end_claim(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        result: Ingested,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let result = match result {
            Err(failure) => Err(self.check_deletion(job, failure, cancel).await),
            stored => stored,
        };
        match result {
            Ok((_, Some(range))) => self.finish_range(claim, &range, cancel).await,
            Ok((split, None)) => {
                self.ledger(cancel, || self.stores.ledger.release(claim))
                    .await?;
                let missing = split.missing_ranges();
                Ok(Outcome::Split(split, missing))
            }
            Err(failure) if failure.class == Class::Superseded => {
                self.yield_claim(claim, cancel).await
            }
            Err(failure) if failure.class == Class::Deleted => {
                let decider = Decider::Claim(claim);
                self.record_deletion(job, decider, cancel).await?;
                self.yield_claim(claim, cancel).await
            }
            Err(failure) if failure.rejects_document() => {
                self.reject(claim, &failure, cancel).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Opens the document and ingests the claimed range. Returns the new entry and how far the range
    /// is. `None`: the document is longer than one range and must be split.
    pub(super) async fn ingest_claimed(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        entry: &Entry,
        original: &Path,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Ingested {
        check_limits(entry, &self.limits)?;
        let skips_bad_pages = skips_bad_pages(&self.render, entry.pages.unwrap_or_default());
        let deadly = check_worker_deaths(entry, claim.first, skips_bad_pages)?;
        let is_split = entry.range_pages.is_some() && entry.prepared;
        let document = self
            .open_document(job.task, original, is_split, cancel)
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
            self.prepare(job, claim, &plan, cancel).await?;
            if entry.range_pages.is_some() {
                drop(document);
                return Ok((Box::new(entry), None));
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
            original,
            is_split,
            deadly,
            cancel,
            observer,
        };
        let range = entry.range_entry(claim.first);
        let range = self.store_every_page(&work, range, document).await?;
        Ok((Box::new(entry), Some(Box::new(range))))
    }

    /// Stores the remaining pages of the range, and checks that Milvus holds each page exactly once.
    /// A lost renderer is replaced, and a page that is the renderer's end is skipped, where bad pages
    /// are skipped. Other transient failures end the turn.
    async fn store_every_page(
        &self,
        work: &RangeWork<'_>,
        mut range: RangeEntry,
        mut document: Document,
    ) -> Result<RangeEntry, Failure> {
        let RangeWork {
            plan,
            claim,
            end,
            cancel,
            ..
        } = *work;
        // A lost renderer does not cost the document another conversion.
        let _converted = document.converted();
        let page_by_page = works_page_by_page(&range);
        let deadly = work.deadly.iter().cloned();
        let mut bad_pages: BTreeMap<u32, SkippedPage> =
            deadly.map(|deadly| (deadly.page, deadly)).collect();
        let cpu_ms = AtomicU64::new(range.cpu_ms);
        let mut clean = range.turns <= 1;
        // Both count since a page was stored.
        let (mut attempts, mut renderers_killed) = (0, 0);
        let mut refusals = Refusals::default();
        loop {
            let start = claim.first + range.stored;
            if !clean {
                self.clear_pages(plan, start..end, cancel).await?;
            }
            let stages = Stages {
                pipeline: self,
                plan,
                claim,
                cancel,
                observer: work.observer,
                range: &range,
                bad_pages: &bad_pages,
                page_by_page,
                settled: watch::Sender::new(start),
                cpu_ms: &cpu_ms,
            };
            let failure = match Box::pin(stages.run(document, start..end)).await {
                Ok(stored) => {
                    let found = self.count_rows(plan, claim.first..end, cancel).await?;
                    if found == stored.rows {
                        return Ok(stored);
                    }
                    self.metrics.repeats.inc();
                    let message = format!("Milvus holds {found} rows instead of {}", stored.rows);
                    range = stored;
                    range.restart();
                    let reset =
                        self.ledger(cancel, || self.stores.ledger.record_progress(claim, &range));
                    if reset.await?.is_none() {
                        return Err(Failure::superseded(Stage::Mongodb));
                    }
                    return Err(Failure::refused(
                        Stage::Milvus,
                        Reason::RowsNotOnce,
                        message,
                    ));
                }
                Err(Ended { failure, at_page }) => {
                    let is_bad_page = at_page && failure.rejects_document();
                    // The time of pages that were drawn while a server was away is not charged:
                    // an outage must not use up what the document may cost.
                    if !is_bad_page && !failure.reason.is_lost_renderer() {
                        return Err(failure);
                    }
                    let now = self.record_cpu_time(claim, &cpu_ms, cancel).await?;
                    if now.stored > range.stored {
                        (attempts, renderers_killed) = (0, 0);
                    }
                    range = now;
                    renderers_killed += u32::from(failure.reason.is_lost_renderer());
                    match check_page(renderers_killed, &failure) {
                        // A renderer that hardly computed says nothing about the page: the document
                        // becomes a dead letter, which can be redriven.
                        Err(bad)
                            if plan.skips_bad_pages() && bad.reason != Reason::RendererStalled =>
                        {
                            let page = claim.first + range.stored;
                            bad_pages.insert(page, SkippedPage::new(page, &bad));
                            renderers_killed = 0;
                            clean = true;
                            document = self
                                .open_document(plan.task, work.original, work.is_split, cancel)
                                .await?;
                            continue;
                        }
                        checked => checked?,
                    }
                    failure
                }
            };
            self.retry
                .pause(cancel, &failure, attempts, &mut refusals)
                .await?;
            attempts += 1;
            clean = false;
            document = self
                .open_document(plan.task, work.original, work.is_split, cancel)
                .await?;
        }
    }

    /// Records the CPU time that the range has taken so far, and returns how far it is.
    async fn record_cpu_time(
        &self,
        claim: &Claim,
        cpu_ms: &AtomicU64,
        cancel: &CancellationToken,
    ) -> Result<RangeEntry, Failure> {
        let cpu_ms = cpu_ms.load(Ordering::Relaxed);
        let entry = self.ledger(cancel, || self.stores.ledger.record_cpu_time(claim, cpu_ms));
        let entry = entry
            .await?
            .ok_or_else(|| Failure::superseded(Stage::Mongodb))?;
        check_limits(&entry, &self.limits)?;
        Ok(entry.range_entry(claim.first))
    }

    async fn open_document(
        &self,
        task: &Task,
        original: &Path,
        is_split: bool,
        cancel: &CancellationToken,
    ) -> Result<Document, Failure> {
        let killed = AtomicU32::new(0);
        let renderer = self.renderer.for_group(&task.knowledge_base);
        let open = |_| async {
            let opened = if is_split {
                renderer.open_part(original).await
            } else {
                renderer.open(original).await
            };
            let failure = match opened {
                Ok(document) => return Ok(document),
                Err(error) => render_failure(&error),
            };
            self.metrics.count_lost_renderer(failure.reason);
            if failure.reason.is_lost_renderer() {
                check_renderer_deaths(killed.fetch_add(1, Ordering::Relaxed) + 1, &failure)?;
            }
            Err(failure)
        };
        let opened = self.retry.run(Stage::Render, cancel, open);
        tokio::select! {
            opened = work::timed(Stage::Render, opened) => opened,
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Render)),
        }
    }

    /// Records that every page of the range is stored. The last range completes the document.
    async fn finish_range(
        &self,
        claim: &Claim,
        range: &RangeEntry,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let entry = self.ledger(cancel, || {
            self.stores.ledger.record_range_done(claim, range)
        });
        let Some(entry) = entry.await? else {
            return self.yield_claim(claim, cancel).await;
        };
        if entry.range_pages.is_some() {
            self.metrics.ranges.inc();
            self.metrics.range_pages.inc_by(range.stored.into());
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
        let failed = self.ledger(cancel, || {
            let decider = Decider::Claim(claim);
            self.stores.ledger.record_failed(decider, failure)
        });
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
        let outcome = match self.recheck_if_over(&claim.file_id, cancel).await? {
            Some(outcome) => outcome,
            None => self.leave_to_other_worker(&claim.file_id, cancel).await?,
        };
        self.ledger(cancel, || self.stores.ledger.close(claim))
            .await?;
        Ok(outcome)
    }

    /// Rechecks a document that is done, failed or deleted. Its entry is read again for each attempt:
    /// meanwhile its original may have been deleted and uploaded again. `None`: it is in progress.
    pub(super) async fn recheck_if_over(
        &self,
        file_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Outcome>, Failure> {
        let recheck = |_| async {
            match self.stores.ledger.find(file_id).await? {
                Some(entry) if entry.state != State::Working => {
                    self.recheck(&entry).await.map(Some)
                }
                _ => Ok(None),
            }
        };
        Box::pin(self.retry.run(Stage::Milvus, cancel, recheck)).await
    }

    /// Leaves the document to another worker. The recheck finds out whether that worker exists, so
    /// the message may be committed. Not when this worker exits: it may have given the claim back
    /// itself.
    async fn leave_to_other_worker(
        &self,
        file_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        if cancel.is_cancelled() {
            return Err(Failure::stopped(Stage::Mongodb));
        }
        self.ledger(cancel, || self.stores.ledger.schedule_recheck(file_id))
            .await?;
        Ok(Outcome::Superseded)
    }
}
