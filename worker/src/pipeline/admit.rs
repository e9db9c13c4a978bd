//! What a task, or a range of one, needs: to be begun, gone on with, split, or nothing at all.

use std::path::Path;

use mongodb::bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::{Observer, Outcome, Pipeline, Reason};
use crate::document::page_range::Range;
use crate::document::task::Task;
use crate::pipeline::stages::fetch::Original;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Delivery, Entry, State, Verdict, judge};

/// A task with the way it came.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The document.
    pub task: &'a Task,
    /// Its delivery.
    pub delivery: Delivery,
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

enum Entered {
    Work(Box<Entry>),
    Settled(Outcome),
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
                Entered::Work(entry) => entry,
                Entered::Settled(outcome) => return Ok(outcome),
            };
            if entry.range_pages.is_some() && entry.prepared {
                return self.go_on(entry, cancel).await;
            }
            match self.unit(job, &entry, 0, cancel, observer).await? {
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
        let entry = self.ledger(cancel, || self.ledger.find(file_id)).await?;
        match entry {
            Some(entry) if entry.round == range.round => {
                if entry.recipe == job.delivery.recipe {
                    self.unit(job, &entry, range.first, cancel, &|_| {}).await
                } else {
                    // The configuration changed on the way: the whole document anew.
                    self.document(job, cancel, &|_| {}).await
                }
            }
            _ => Ok(Outcome::Nothing(Reason::Superseded)),
        }
    }

    /// Enters the task into the ledger, unless there is nothing to do.
    async fn enter(&self, job: &Job<'_>) -> Result<Entered, Failure> {
        let Job { task, delivery, .. } = job;
        loop {
            let before = self.ledger.find(&task.file.file_id).await?;
            let verdict = judge(before.as_ref(), delivery);
            match (verdict, before) {
                (Verdict::Begin, before) => {
                    if let Some(entry) = self.begin(job, before.as_ref()).await? {
                        return Ok(entry);
                    }
                }
                (Verdict::Resume, Some(entry)) => return Ok(Entered::Work(Box::new(entry))),
                (Verdict::Check, Some(entry)) => match self.whereabouts(&entry).await? {
                    Whereabouts::Stored => {
                        return Ok(Entered::Settled(Outcome::Nothing(Reason::AlreadyStored)));
                    }
                    // The user deleted it through LAYRA after this very task had been done.
                    Whereabouts::Gone if entry.origin == delivery.origin => {
                        return Ok(Entered::Settled(Outcome::Nothing(Reason::Deleted)));
                    }
                    Whereabouts::Gone | Whereabouts::Damaged => {
                        if let Some(entry) = self.begin(job, Some(&entry)).await? {
                            return Ok(entry);
                        }
                    }
                },
                (Verdict::OweLetter, Some(entry)) => {
                    return self.owed(entry).await.map(Entered::Settled);
                }
                (Verdict::GiveWay, _) => {
                    let message = "a worker with a newer configuration works on the document";
                    return Err(Failure::transient(
                        Stage::Intake,
                        "NewerConfiguration",
                        message,
                    ));
                }
                (Verdict::Settled, Some(entry)) => {
                    let reason = match entry.state {
                        State::Deleted => Reason::Deleted,
                        _ => Reason::Settled,
                    };
                    return Ok(Entered::Settled(Outcome::Nothing(reason)));
                }
                (_, None) => unreachable!("an unknown document is begun"),
            }
        }
    }

    async fn begin(
        &self,
        job: &Job<'_>,
        before: Option<&Entry>,
    ) -> Result<Option<Entered>, Failure> {
        if before.is_some() {
            tracing::info!("the file was here before; it is stored anew");
            self.metrics.files.with_label_values(&["retried"]).inc();
        }
        let entry = self.ledger.begin(job.task, &job.delivery, before).await?;
        Ok(entry.map(|entry| Entered::Work(Box::new(entry))))
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
        let collection = self.milvus.collection_of(&entry.knowledge_db_id);
        let count = || self.vectors.count_file(&collection, &entry.file_id);
        let found = self.server(Stage::Milvus, cancel, |_| count()).await?;
        if found != rows {
            tracing::warn!(found, expected = rows, "somebody else wrote the file too");
            self.metrics.repeats.inc();
            return self.restart(entry, cancel).await;
        }
        let finished = self.ledger(cancel, || self.ledger.finish(entry, rows));
        if !finished.await? {
            return Ok(Outcome::Nothing(Reason::Superseded));
        }
        Ok(Outcome::Stored(super::Stored {
            pages: entry.pages.unwrap_or_default(),
            vectors: rows,
        }))
    }

    /// Begins a new round for a document whose stores are not as they should be.
    async fn restart(&self, entry: &Entry, cancel: &CancellationToken) -> Result<Outcome, Failure> {
        let task = Task::from(entry);
        let delivery = Delivery {
            origin: entry.origin.clone(),
            at: DateTime::now(),
            recipe: entry.recipe.clone(),
            worker_since: entry.worker_since,
        };
        let begun = self.ledger(cancel, || self.ledger.begin(&task, &delivery, Some(entry)));
        Ok(match begun.await? {
            Some(entry) => Outcome::Again(Box::new(entry)),
            None => Outcome::Nothing(Reason::Superseded),
        })
    }

    /// A document that failed while its dead letter could not be written.
    pub(super) async fn owed(&self, entry: Entry) -> Result<Outcome, Failure> {
        self.withdraw(&entry).await?;
        let rejection = entry.failure.clone().unwrap_or_else(|| {
            let unknown = Failure::permanent(Stage::Intake, "Unknown", "the reason is not known");
            (&unknown).into()
        });
        Ok(Outcome::Rejected(Box::new(entry), rejection))
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

/// What the stores hold of a document that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// All of it, once.
    Stored,
    /// LAYRA does not know it any more.
    Gone,
    /// Not what the ledger says.
    Damaged,
}
