//! The work on one range of pages, under a claim.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use layra_rendering::Document;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::admit::{Job, Source};
use super::page_plan::PagePlan;
use super::poison::{RENDERER_KILLED, blame_for_renderers, blame_for_workers};
use super::stages::Stages;
use super::{Event, Observer, Outcome, Pipeline, Stored, render_failure};
use crate::runtime::failure::{Class, Failure, Stage};
use crate::stores::ledger::{Claim, Entry, State, Unit};

/// A range of pages of an open document, and all that the work on it needs.
struct Part<'a> {
    plan: &'a PagePlan<'a>,
    claim: &'a Claim,
    /// The page after its last one.
    end: u32,
    original: &'a Path,
    /// Whether the document has further ranges.
    is_split: bool,
    cancel: &'a CancellationToken,
    observer: Observer<'a>,
}

/// Held while work is done.
#[expect(dead_code, reason = "the guards act by being dropped")]
enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Pipeline {
    /// Works on the range of `entry` that begins at page `first`, unless it is done.
    pub(super) async fn work_on(
        &self,
        job: &Job<'_>,
        entry: &Entry,
        first: u32,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Outcome, Failure> {
        let (file_id, round) = (&entry.file_id, &entry.round);
        // Work that waits for its turn is not begun: a death meanwhile is none of its own.
        let mut alone = entry.unit(first).was_begun();
        let (_turn, claim, entry) = loop {
            let turn = self.turn(alone, cancel).await?;
            let claim = Claim::new(file_id, round, first);
            let granted = self.ledger(cancel, || self.stores.ledger.claim(&claim));
            let Some(entry) = granted.await? else {
                drop(turn);
                return self.refused(&claim, cancel).await;
            };
            if alone || !entry.unit(first).is_suspect() {
                break (turn, claim, entry);
            }
            // Somebody began it after `entry` was read.
            self.ledger(cancel, || self.stores.ledger.release(&claim))
                .await?;
            alone = true;
        };
        let result = match blame_for_workers(&entry.unit(first)) {
            Ok(()) => self.claimed(job, &claim, &entry, cancel, observer).await,
            Err(failure) => Err(failure),
        };
        match result {
            Ok((_, Some(stored))) => self.done(&claim, stored, cancel).await,
            Ok((split, None)) => {
                self.ledger(cancel, || self.stores.ledger.release(&claim))
                    .await?;
                let missing = split.missing_ranges();
                Ok(Outcome::Split(Box::new(split), missing))
            }
            Err(failure) if failure.class == Class::Superseded => {
                self.yield_to(&claim, cancel).await
            }
            Err(failure) if failure.class == Class::Deleted => {
                let knowledge_base = &entry.knowledge_db_id;
                self.ledger(cancel, || {
                    self.stores.ledger.delete(&claim.file_id, knowledge_base)
                })
                .await?;
                self.yield_to(&claim, cancel).await
            }
            Err(failure) if failure.rejects_document() => {
                self.reject(&claim, &failure, cancel).await
            }
            Err(failure) => {
                // Whatever comes next, this worker did not die of the document.
                if let Err(error) = self.stores.ledger.release(&claim).await {
                    tracing::warn!(%error, "the claim could not be given back");
                }
                Err(failure)
            }
        }
    }

    /// The right to work beside others, or alone: a document on which a worker has died is worked
    /// on alone, so that its next victim says which document it was.
    async fn turn(&self, alone: bool, cancel: &CancellationToken) -> Result<Turn<'_>, Failure> {
        let turn = async {
            if alone {
                tracing::info!("a worker has died here; the work is done alone");
                Turn::Alone(self.together.write().await)
            } else {
                Turn::Together(self.together.read().await)
            }
        };
        tokio::select! {
            turn = turn => Ok(turn),
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Intake)),
        }
    }

    /// Opens the document and does the claimed range. Returns the entry as it is once the document
    /// was opened, and what is stored: nothing when the document is longer than one range and is
    /// to be split.
    async fn claimed(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        entry: &Entry,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<(Entry, Option<Stored>), Failure> {
        let original = self.local(job, cancel).await?;
        let is_split = entry.range_pages.is_some() && entry.prepared;
        let document = self.open(original.as_ref(), is_split, cancel).await?;
        let pages = document.pages();
        let plan = |pages| {
            let pixels = self.embedder.page_pixels();
            PagePlan::new(job.task, pages, &self.render, &self.stores.milvus, pixels)
        };
        let plan = plan(pages);
        let entry = match entry.pages {
            Some(expected) if expected == pages => entry.clone(),
            Some(expected) if entry.range_pages.is_some() => {
                let message = format!("it has {pages} pages now and had {expected} before");
                return Err(Failure::permanent(Stage::Fetch, "OriginalChanged", message));
            }
            _ => {
                let split = matches!(job.source, Source::ObjectStore) && pages > self.range_pages;
                let length = split.then_some(self.range_pages);
                self.ledger(cancel, || self.stores.ledger.opened(entry, pages, length))
                    .await?
                    .ok_or_else(|| Failure::superseded(Stage::Mongodb))?
            }
        };
        observer(Event::Opened(pages));
        if !entry.prepared {
            self.prepare(&entry, &plan, cancel).await?;
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
                Failure::permanent(Stage::Intake, "InvalidRange", message)
            })?;

        let part = Part {
            plan: &plan,
            claim,
            end: claim.first + count,
            original: original.as_ref(),
            is_split,
            cancel,
            observer,
        };
        let unit = entry.unit(claim.first);
        let stored = self.every_page(&part, unit, document).await?;
        Ok((entry, Some(stored)))
    }

    /// Does the pages of the range that are not stored, again and again if need be, until Milvus
    /// holds each exactly once.
    async fn every_page(
        &self,
        part: &Part<'_>,
        mut unit: Unit,
        mut document: Document,
    ) -> Result<Stored, Failure> {
        let Part {
            plan,
            claim,
            end,
            cancel,
            ..
        } = *part;
        let mut clean = unit.turns <= 1;
        // Since a page was stored.
        let (mut attempts, mut renderers_killed) = (0, 0);
        loop {
            let start = claim.first + unit.stored;
            if !clean {
                self.clear_rows(plan, start..end, cancel).await?;
            }
            let stages = Stages {
                pipeline: self,
                plan,
                claim,
                cancel,
                observer: part.observer,
                before: Stored {
                    pages: unit.stored,
                    vectors: unit.rows,
                },
            };
            let failure = match stages.run(document, start..end).await {
                Ok(stored) => {
                    let found = self.count_rows(plan, claim.first..end, cancel).await?;
                    if found == stored.vectors {
                        return Ok(stored);
                    }
                    self.metrics.repeats.inc();
                    let again = self.ledger(cancel, || self.stores.ledger.progress(claim, 0, 0));
                    if !again.await? {
                        return Err(Failure::superseded(Stage::Mongodb));
                    }
                    unit.stored = 0;
                    unit.rows = 0;
                    let message = format!("{found} rows instead of {}", stored.vectors);
                    Failure::transient(Stage::Milvus, "RowsNotOnce", message)
                }
                Err(failure) if failure.class == Class::Transient => {
                    let now = self.held(claim, cancel).await?;
                    if now.stored > unit.stored {
                        (attempts, renderers_killed) = (0, 0);
                    }
                    unit = now;
                    if failure.reason == RENDERER_KILLED {
                        renderers_killed += 1;
                        blame_for_renderers(renderers_killed, &failure)?;
                    }
                    failure
                }
                Err(failure) => return Err(failure),
            };
            self.retry.pause(cancel, &failure, attempts).await?;
            attempts += 1;
            clean = false;
            document = self.open(part.original, part.is_split, cancel).await?;
        }
    }

    async fn open(
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
            if failure.reason == RENDERER_KILLED {
                blame_for_renderers(killed.fetch_add(1, Ordering::Relaxed) + 1, &failure)?;
            }
            Err(failure)
        };
        tokio::select! {
            opened = self.retry.run(Stage::Render, cancel, open) => opened,
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Render)),
        }
    }

    /// Every page of the range is stored.
    async fn done(
        &self,
        claim: &Claim,
        stored: Stored,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let Stored { pages, vectors } = stored;
        let entry = self.ledger(cancel, || {
            self.stores.ledger.unit_done(claim, pages, vectors)
        });
        let Some(entry) = entry.await? else {
            return self.yield_to(claim, cancel).await;
        };
        match entry.complete() {
            Some(rows) => self.complete(&entry, rows, cancel).await,
            None => Ok(Outcome::PartStored),
        }
    }

    /// The claim was not granted: the range is done, or the round is over.
    async fn refused(&self, claim: &Claim, cancel: &CancellationToken) -> Result<Outcome, Failure> {
        let now = self.ledger(cancel, || self.stores.ledger.find(&claim.file_id));
        let Some(entry) = now.await?.filter(|now| now.round == claim.round) else {
            return Ok(Outcome::Superseded);
        };
        match (entry.state, &entry.failure) {
            // The worker that did it may have died before it could say that this was the last one.
            (State::Working, _) => match entry.complete() {
                Some(rows) => self.complete(&entry, rows, cancel).await,
                None if entry.unit(claim.first).done => Ok(Outcome::AlreadyStored),
                None => self.leave_to_others(&entry.file_id, cancel).await,
            },
            (State::Done, _) => Ok(Outcome::AlreadyStored),
            (State::Failed, Some(rejection)) if !rejection.letter => {
                self.retry
                    .run(Stage::Mongodb, cancel, |_| {
                        self.owed(Box::new(entry.clone()))
                    })
                    .await
            }
            (State::Failed | State::Deleted, _) => Ok(Outcome::Settled),
        }
    }

    /// The document is given up, by the first of its ranges that fails.
    async fn reject(
        &self,
        claim: &Claim,
        failure: &Failure,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let Claim { file_id, round, .. } = claim;
        self.ledger(cancel, || self.stores.ledger.close(claim))
            .await?;
        let first = self.ledger(cancel, || self.stores.ledger.fail(file_id, round, failure));
        if !first.await? {
            return self.yield_to(claim, cancel).await;
        }
        let entry = self
            .ledger(cancel, || self.stores.ledger.find(file_id))
            .await?;
        let Some(entry) = entry else {
            return Ok(Outcome::Superseded);
        };
        self.retry
            .run(Stage::Mongodb, cancel, |_| {
                self.owed(Box::new(entry.clone()))
            })
            .await
    }

    /// Somebody else has taken over. What this worker wrote last may have landed after the other
    /// one had looked.
    async fn yield_to(
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
            _ => self.leave_to_others(&claim.file_id, cancel).await?,
        };
        self.ledger(cancel, || self.stores.ledger.close(claim))
            .await?;
        Ok(outcome)
    }

    /// The message may be committed once the ledger has a note to see whether there are others.
    async fn leave_to_others(
        &self,
        file_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        self.ledger(cancel, || self.stores.ledger.watch(file_id))
            .await?;
        Ok(Outcome::Superseded)
    }
}
