//! What a task, or a range of one, needs: to be begun, gone on with, split, or nothing at all.

use std::ops::ControlFlow;
use std::path::Path;

use mongodb::bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::decision::{Decision, decide};
use super::{Observer, Outcome, Pipeline};
use crate::document::page_range::Range;
use crate::document::task::Task;
use crate::pipeline::stages::fetch::Original;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Entry, Request};

/// A task and the request for it.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The document.
    pub task: &'a Task,
    /// Who asked for it, and when.
    pub request: Request,
    /// Where its original is.
    pub source: Source<'a>,
}

/// Where an original is.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// In the object store. The document may be split.
    ObjectStore,
    /// In a local file too. The document is never split.
    Local(&'a Path),
}

/// A local file with the original.
pub(super) enum LocalOriginal<'a> {
    Copy(Original),
    Own(&'a Path),
}

impl AsRef<Path> for LocalOriginal<'_> {
    fn as_ref(&self) -> &Path {
        match self {
            Self::Copy(original) => original.as_ref(),
            Self::Own(path) => path,
        }
    }
}

impl Pipeline {
    /// Does what a task asks for, as far as it is not done.
    pub async fn document(
        &self,
        job: &Job<'_>,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Outcome, Failure> {
        loop {
            let entered = self.retry.run(Stage::Mongodb, cancel, |_| self.enter(job));
            let entry = match entered.await? {
                ControlFlow::Continue(entry) => entry,
                ControlFlow::Break(outcome) => return Ok(outcome),
            };
            if entry.range_pages.is_some() && entry.prepared {
                return self.go_on(entry, cancel).await;
            }
            match self.work_on(job, &entry, 0, cancel, observer).await? {
                // Begun anew in the ledger.
                Outcome::Again(_) if !cancel.is_cancelled() => {}
                outcome => return Ok(outcome),
            }
        }
    }

    /// Works on one range of a document that was split.
    pub async fn range(
        &self,
        job: &Job<'_>,
        range: &Range,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let file_id = &job.task.file.file_id;
        let entry = self
            .ledger(cancel, || self.stores.ledger.find(file_id))
            .await?;
        match entry {
            Some(entry) if entry.round == range.round => {
                if entry.recipe == job.request.recipe {
                    self.work_on(job, &entry, range.first, cancel, &|_| {})
                        .await
                } else {
                    // The configuration changed on the way: the whole document anew.
                    self.document(job, cancel, &|_| {}).await
                }
            }
            _ => Ok(Outcome::Superseded),
        }
    }

    /// Enters the task into the ledger and goes on with the entry, unless there is nothing to do.
    async fn enter(&self, job: &Job<'_>) -> Result<ControlFlow<Outcome, Box<Entry>>, Failure> {
        let Job { task, request, .. } = job;
        loop {
            let known = self.stores.ledger.find(&task.file.file_id).await?;
            let before = match decide(known.map(Box::new), request) {
                Decision::Begin(before) => before,
                Decision::Resume(entry) => return Ok(ControlFlow::Continue(entry)),
                Decision::Inspect(entry) => match self.inspect(&entry).await? {
                    Outcome::AlreadyStored => {
                        return Ok(ControlFlow::Break(Outcome::AlreadyStored));
                    }
                    // The user deleted it through LAYRA after this very task had been done.
                    Outcome::Deleted if entry.origin == request.origin => {
                        return Ok(ControlFlow::Break(Outcome::Deleted));
                    }
                    _ => Some(entry),
                },
                Decision::OweDeadLetter(entry) => {
                    return self.owed(entry).await.map(ControlFlow::Break);
                }
                Decision::GiveWay => {
                    let message = "a worker with a newer configuration works on the document";
                    return Err(Failure::transient(
                        Stage::Intake,
                        "NewerConfiguration",
                        message,
                    ));
                }
                Decision::End(outcome) => return Ok(ControlFlow::Break(outcome)),
            };
            if let Some(entry) = self.begin(job, before.as_deref()).await? {
                return Ok(ControlFlow::Continue(Box::new(entry)));
            }
        }
    }

    /// Begins a round. `None` when somebody else was faster.
    async fn begin(&self, job: &Job<'_>, before: Option<&Entry>) -> Result<Option<Entry>, Failure> {
        if before.is_some() {
            tracing::info!("the file was here before; it is stored anew");
            self.metrics.files.with_label_values(&["retried"]).inc();
        }
        self.stores
            .ledger
            .begin(job.task, &job.request, before)
            .await
    }

    /// A document that was split before: its missing ranges are sent (once more).
    async fn go_on(
        &self,
        entry: Box<Entry>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        if let Some(rows) = entry.complete() {
            return self.complete(&entry, rows, cancel).await;
        }
        let missing = entry.missing_ranges();
        Ok(Outcome::Split(entry, missing))
    }

    /// The last page is in: makes sure that Milvus holds each vector once, and says so in the
    /// ledger.
    pub(super) async fn complete(
        &self,
        entry: &Entry,
        rows: u64,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let collection = self.stores.collection_of(&entry.knowledge_db_id);
        let count = || self.stores.vectors.count_file(&collection, &entry.file_id);
        let found = self.server(Stage::Milvus, cancel, |_| count()).await?;
        if found != rows {
            tracing::warn!(found, expected = rows, "somebody else wrote the file too");
            self.metrics.repeats.inc();
            return self.restart(entry, cancel).await;
        }
        let finished = self.ledger(cancel, || self.stores.ledger.finish(entry, rows));
        if !finished.await? {
            return Ok(Outcome::Superseded);
        }
        Ok(Outcome::Stored(super::Stored {
            pages: entry.pages.unwrap_or_default(),
            vectors: rows,
        }))
    }

    /// Begins a new round for a document whose stores are not as they should be.
    async fn restart(&self, entry: &Entry, cancel: &CancellationToken) -> Result<Outcome, Failure> {
        let task = Task::from(entry);
        let request = Request {
            origin: entry.origin.clone(),
            at: DateTime::now(),
            recipe: entry.recipe.clone(),
            worker_since: entry.worker_since,
        };
        let begun = self.ledger(cancel, || {
            self.stores.ledger.begin(&task, &request, Some(entry))
        });
        Ok(match begun.await? {
            Some(entry) => Outcome::Again(Box::new(entry)),
            None => Outcome::Superseded,
        })
    }

    /// A document that failed while its dead letter could not be written.
    pub(super) async fn owed(&self, entry: Box<Entry>) -> Result<Outcome, Failure> {
        self.withdraw(&entry).await?;
        let rejection = entry.failure.clone().unwrap_or_else(|| {
            let unknown = Failure::permanent(Stage::Intake, "Unknown", "the reason is not known");
            (&unknown).into()
        });
        Ok(Outcome::Rejected(entry, rejection))
    }

    pub(super) async fn local<'a>(
        &self,
        job: &Job<'a>,
        cancel: &CancellationToken,
    ) -> Result<LocalOriginal<'a>, Failure> {
        if let Source::Local(path) = job.source {
            return Ok(LocalOriginal::Own(path));
        }
        let timer = self.metrics.fetch_duration.start_timer();
        let key = &job.task.file.key;
        let copy = self
            .retry
            .run(Stage::Fetch, cancel, |_| self.originals.get(key))
            .await?;
        timer.stop_and_record();
        Ok(LocalOriginal::Copy(copy))
    }
}
