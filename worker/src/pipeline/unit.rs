//! The work on one range of pages, under a claim.

use std::time::Duration;

use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::document::{Job, Source};
use super::plan::Plan;
use super::stages::Stages;
use super::{Event, Observer, Outcome, Pipeline, Reason, Stored, render_failure};
use crate::failure::{Class, Failure, Stage};
use crate::ledger::{Claim, Claimed, Entry, State};
use crate::render::Document;

/// First pause before a range is done again; it doubles, up to half a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What became of claimed work.
enum Worked {
    /// Every page is in the stores, once.
    Done(Stored),
    /// The document is longer than one range: it is split, and nothing is stored yet.
    Split(Box<Entry>),
}

/// Held while work is done.
#[expect(dead_code, reason = "the guards act by being dropped")]
enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Pipeline {
    /// Works on the range of `entry` that begins at page `first`, unless it is done.
    pub(super) async fn unit(
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
            let entry = match self.ledger(cancel, || self.ledger.claim(&claim)).await? {
                Claimed::Granted(entry) => entry,
                Claimed::Refused(now) => {
                    drop(turn);
                    return self.refused(entry, first, now, cancel).await;
                }
            };
            if alone || !entry.unit(first).is_suspect() {
                break (turn, claim, entry);
            }
            // Somebody began it after `entry` was read.
            self.ledger(cancel, || self.ledger.release(&claim)).await?;
            alone = true;
        };
        let result = match entry.unit(first).blame() {
            Ok(()) => self.claimed(job, &claim, &entry, cancel, observer).await,
            Err(failure) => Err(failure),
        };
        match result {
            Ok(Worked::Done(stored)) => self.done(&claim, stored, cancel).await,
            Ok(Worked::Split(split)) => {
                self.ledger(cancel, || self.ledger.release(&claim)).await?;
                let missing = split.missing_ranges();
                Ok(Outcome::Split(split, missing))
            }
            Err(failure) if failure.is_superseded() => self.yield_to(&claim, cancel).await,
            Err(failure) if failure.reason == "FileDeleted" => {
                let knowledge_base = &entry.knowledge_db_id;
                self.ledger(cancel, || {
                    self.ledger.delete(&claim.file_id, knowledge_base)
                })
                .await?;
                self.yield_to(&claim, cancel).await
            }
            Err(failure) if failure.rejects_document() => {
                self.reject(&claim, &failure, cancel).await
            }
            Err(failure) => {
                // Whatever comes next, this worker did not die of the document.
                if let Err(error) = self.ledger.release(&claim).await {
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

    async fn claimed(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        entry: &Entry,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Worked, Failure> {
        let original = self.local(job, cancel).await?;
        let is_part = entry.range_pages.is_some() && entry.prepared;
        let mut document = self.open(original.as_ref(), is_part, cancel).await?;
        let pages = document.pages();
        let plan = |pages| {
            let pixels = self.embedder.page_pixels();
            Plan::new(job.task, pages, &self.render, &self.milvus, pixels)
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
                self.ledger(cancel, || self.ledger.opened(entry, pages, length))
                    .await?
                    .ok_or_else(|| Failure::superseded(Stage::Mongodb))?
            }
        };
        observer(Event::Opened(pages));
        if !entry.prepared {
            self.prepare(&entry, &plan, cancel).await?;
            if entry.range_pages.is_some() {
                drop(document);
                return Ok(Worked::Split(Box::new(entry)));
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

        let mut unit = entry.unit(claim.first);
        let mut clean = unit.turns <= 1;
        let mut pause = FIRST_PAUSE;
        loop {
            let start = claim.first + unit.stored;
            let end = claim.first + count;
            if !clean {
                self.clear_rows(&plan, start..end, cancel).await?;
            }
            let stages = Stages {
                pipeline: self,
                plan: &plan,
                claim,
                cancel,
                observer,
                before: Stored {
                    pages: unit.stored,
                    vectors: unit.rows,
                },
            };
            let stored = stages.run(document, start..end).await?;
            let found = self.count_rows(&plan, claim.first..end, cancel).await?;
            if found == stored.vectors {
                return Ok(Worked::Done(stored));
            }
            tracing::warn!(
                found,
                expected = stored.vectors,
                "Milvus does not hold the pages exactly once; they are done again"
            );
            self.metrics.repeats.inc();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Err(Failure::stopped(Stage::Milvus)),
            }
            pause = (2 * pause).min(Duration::from_secs(30));
            clean = false;
            unit.stored = 0;
            unit.rows = 0;
            if !self
                .ledger(cancel, || self.ledger.progress(claim, 0, 0))
                .await?
            {
                return Err(Failure::superseded(Stage::Mongodb));
            }
            document = self.open(original.as_ref(), is_part, cancel).await?;
        }
    }

    async fn open(
        &self,
        original: &std::path::Path,
        is_part: bool,
        cancel: &CancellationToken,
    ) -> Result<Document, Failure> {
        let open = |_| async {
            let opened = if is_part {
                self.renderer.open_part(original).await
            } else {
                self.renderer.open(original).await
            };
            opened.map_err(|error| render_failure(&error))
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
        let entry = self.ledger(cancel, || self.ledger.unit_done(claim, pages, vectors));
        let Some(entry) = entry.await? else {
            return self.yield_to(claim, cancel).await;
        };
        match entry.complete() {
            Some(rows) => self.complete(&entry, rows, cancel).await,
            None => Ok(Outcome::PartStored),
        }
    }

    /// The claim was not granted: the range is done, or the round is over.
    async fn refused(
        &self,
        asked: &Entry,
        first: u32,
        now: Option<Box<Entry>>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let Some(entry) = now.filter(|now| now.round == asked.round) else {
            return Ok(Outcome::Nothing(Reason::Superseded));
        };
        match (entry.state, &entry.failure) {
            // The worker that did it may have died before it could say that this was the last one.
            (State::Working, _) => match entry.complete() {
                Some(rows) => self.complete(&entry, rows, cancel).await,
                None if entry.unit(first).done => Ok(Outcome::Nothing(Reason::AlreadyStored)),
                None => self.leave_to_others(&entry.file_id, cancel).await,
            },
            (State::Done, _) => Ok(Outcome::Nothing(Reason::AlreadyStored)),
            (State::Failed, Some(rejection)) if !rejection.letter => {
                self.retry
                    .run(Stage::Mongodb, cancel, |_| {
                        self.owed(entry.as_ref().clone())
                    })
                    .await
            }
            (State::Failed | State::Deleted, _) => Ok(Outcome::Nothing(Reason::Settled)),
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
        self.ledger(cancel, || self.ledger.close(claim)).await?;
        let first = self.ledger(cancel, || self.ledger.fail(file_id, round, failure));
        if !first.await? {
            return self.yield_to(claim, cancel).await;
        }
        let entry = self.ledger(cancel, || self.ledger.find(file_id)).await?;
        let Some(entry) = entry else {
            return Ok(Outcome::Nothing(Reason::Superseded));
        };
        self.retry
            .run(Stage::Mongodb, cancel, |_| self.owed(entry.clone()))
            .await
    }

    /// Somebody else has taken over. What this worker wrote last may have landed after the other
    /// one had looked.
    async fn yield_to(
        &self,
        claim: &Claim,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let entry = self.ledger(cancel, || self.ledger.find(&claim.file_id));
        let outcome = match entry.await? {
            Some(entry) if entry.state != State::Working => {
                self.retry
                    .run(Stage::Milvus, cancel, |_| self.recheck(&entry))
                    .await?
            }
            _ => self.leave_to_others(&claim.file_id, cancel).await?,
        };
        self.ledger(cancel, || self.ledger.close(claim)).await?;
        Ok(outcome)
    }

    /// The message may be committed once the ledger has a note to see whether there are others.
    async fn leave_to_others(
        &self,
        file_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        self.ledger(cancel, || self.ledger.watch(file_id)).await?;
        Ok(Outcome::Nothing(Reason::Superseded))
    }
}

impl Failure {
    /// Somebody else has taken over the document.
    #[must_use]
    pub(super) fn superseded(stage: Stage) -> Self {
        let message = "another worker has taken over the document";
        Self {
            class: Class::Stopped,
            stage,
            reason: "Superseded",
            message: message.to_owned(),
        }
    }

    /// Whether somebody else has taken over the document.
    #[must_use]
    pub(super) fn is_superseded(&self) -> bool {
        self.class == Class::Stopped && self.reason == "Superseded"
    }
}
