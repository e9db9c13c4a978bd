//! Decides what a task or page range needs: start, resume, split, or nothing.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use layra_crds::metric_names::worker::STATUS_RETRIED;
use mongodb::bson::DateTime;
use tokio_util::sync::CancellationToken;

use super::bucket::leaves_to_other_message;
use super::decision::{Decision, decide};
use super::patience::Patience;
use super::poison::check_repeats;
use super::quota::replaces_stored;
use super::{Observer, Outcome, Pipeline};
use crate::document::Cutoff;
use crate::document::page_range::Range;
use crate::document::task::{FileMeta, Task};
use crate::pipeline::stages::fetch::Original;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::retry::Refusals;
use crate::runtime::work;
use crate::stores::Stores;
use crate::stores::ledger::{Entry, Request, State};

/// A document and the request to ingest it.
#[derive(Clone, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) task: &'a Task,
    pub(crate) request: Request,
    /// Where the original is.
    pub(crate) source: Source<'a>,
}

/// Where the original of a document is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// In the object store. The document may be split.
    ObjectStore,
    /// In the object store, and in this local file. The document is never split.
    Local(&'a Path),
}

/// The original in a local file.
pub(super) enum LocalOriginal<'a> {
    Copy(Original),
    File(&'a Path),
}

impl AsRef<Path> for LocalOriginal<'_> {
    fn as_ref(&self) -> &Path {
        match self {
            Self::Copy(original) => original.as_ref(),
            Self::File(path) => path,
        }
    }
}

impl Pipeline {
    /// Ingests the document of a task, as far as that is not done.
    pub(crate) async fn ingest_document(
        &self,
        job: &Job<'_>,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Outcome, Failure> {
        let patience = Patience::default();
        let mut job = job.clone();
        loop {
            let admit = |_| self.admit(&job, &patience, cancel);
            let admitted = self.retry.run(Stage::Mongodb, cancel, admit);
            let entry = match admitted.await? {
                ControlFlow::Continue(entry) => entry,
                ControlFlow::Break(outcome) => return Ok(outcome),
            };
            let result = if entry.range_pages.is_some() && entry.prepared {
                self.resume_split(entry.clone(), cancel).await
            } else {
                self.ingest_pages(&job, &entry, 0, cancel, observer).await
            };
            match Box::pin(self.conclude(&job, &entry, result, cancel)).await? {
                // A new round has begun in the ledger, for the latest request of the document.
                Outcome::Repeat(begun) if !cancel.is_cancelled() => {
                    job.request.sent = begun.requested();
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// Ingests one page range of a document that was split.
    pub(crate) async fn ingest_range(
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
                if job.request.recipe.matches(&entry.recipe) {
                    let ingest = self.ingest_pages(job, &entry, range.first, cancel, &|_| {});
                    let result = ingest.await;
                    Box::pin(self.conclude(job, &entry, result, cancel)).await
                } else if entry.state == State::Working {
                    Box::pin(self.restart_split(job, range, cancel)).await
                } else {
                    self.ingest_document(job, cancel, &|_| {}).await
                }
            }
            _ => Ok(Outcome::Superseded),
        }
    }

    /// Ingests a whole document again whose configuration changed since it was split. Of its page
    /// ranges, which arrive at the same time, one begins the new round. The others are void: if
    /// they joined that round, each would take the claim of the one before.
    async fn restart_split(
        &self,
        job: &Job<'_>,
        range: &Range,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let file_id = &job.task.file.file_id;
        let patience = Patience::default();
        let begin = |_| async {
            let known = self.stores.ledger.find(file_id).await?;
            let Some(entry) = known.filter(|entry| entry.round == range.round) else {
                return Ok(None);
            };
            match decide(Some(Box::new(entry)), &job.request) {
                Decision::Begin(before) => self.begin_round(job, before.as_deref()).await,
                Decision::WaitForNewerWorker(entry) => {
                    let before = patient(&patience, entry)?;
                    self.begin_round(job, Some(&before)).await
                }
                _ => Ok(None),
            }
        };
        match self.retry.run(Stage::Mongodb, cancel, begin).await? {
            Some(entry) => {
                let result = self.ingest_pages(job, &entry, 0, cancel, &|_| {}).await;
                Box::pin(self.conclude(job, &entry, result, cancel)).await
            }
            None => Ok(Outcome::Superseded),
        }
    }

    /// Enters the task into the ledger. `Break`: there is nothing to do.
    async fn admit(
        &self,
        job: &Job<'_>,
        patience: &Patience,
        cancel: &CancellationToken,
    ) -> Result<ControlFlow<Outcome, Box<Entry>>, Failure> {
        let Job { task, request, .. } = job;
        let ledger = &self.stores.ledger;
        loop {
            let known = ledger.find(&task.file.file_id).await?;
            let before = match decide(known.map(Box::new), request) {
                Decision::Begin(before) => before,
                Decision::Resume(entry) => {
                    if let Some(outcome) = self.wait_for_archive(&entry, cancel).await? {
                        return Ok(ControlFlow::Break(outcome));
                    }
                    let others = leaves_to_other_message(job, &entry);
                    if ledger.record_request(&entry, &request.sent).await? {
                        return match others {
                            Some(outcome) => Ok(ControlFlow::Break(outcome)),
                            None => self.wait_for_base(job, entry).await,
                        };
                    }
                    continue;
                }
                Decision::Inspect(entry) => match self.inspect(&entry).await? {
                    Outcome::AlreadyStored => {
                        if ledger.record_request(&entry, &request.sent).await? {
                            return Ok(ControlFlow::Break(Outcome::AlreadyStored));
                        }
                        continue;
                    }
                    // The user deleted it through LAYRA after this same task was processed.
                    Outcome::Deleted if entry.origin == request.sent.origin => {
                        return Ok(ControlFlow::Break(Outcome::Deleted));
                    }
                    _ => Some(entry),
                },
                Decision::SendDeadLetter(entry) => {
                    match self.withdraw_rejected(entry, cancel).await? {
                        // Another worker changed the entry in the meantime.
                        Outcome::Superseded => continue,
                        outcome => return Ok(ControlFlow::Break(outcome)),
                    }
                }
                Decision::WaitForNewerWorker(entry) => Some(patient(patience, entry)?),
                Decision::Drop(entry) => {
                    match Box::pin(self.delete_dropped_original(job, &entry)).await {
                        Err(failure) if failure.class == Class::Superseded => continue,
                        dropped => dropped?,
                    }
                    return Ok(ControlFlow::Break(Outcome::Deleted));
                }
                Decision::End(outcome) => return Ok(ControlFlow::Break(outcome)),
            };
            if Box::pin(self.drop_if_deleted(job)).await? {
                return Ok(ControlFlow::Break(Outcome::Deleted));
            }
            self.check_archive(&job.task.knowledge_base).await?;
            if let Some(entry) = self.begin_round(job, before.as_deref()).await? {
                if let Some(outcome) = self.wait_for_archive(&entry, cancel).await? {
                    return Ok(ControlFlow::Break(outcome));
                }
                let entry = Box::new(entry);
                let replaces = replaces_stored(before.as_deref());
                if replaces || self.replaces_version(job.task).await? {
                    return Ok(ControlFlow::Continue(entry));
                }
                return self.wait_for_base(job, entry).await;
            }
        }
    }

    /// Fails if the knowledge base is archived, or will be. The document has no round yet, so
    /// nothing of it is touched.
    async fn check_archive(&self, knowledge_base: &str) -> Result<(), Failure> {
        let archive = self.stores.archives.find(knowledge_base).await?;
        let refusal = archive.and_then(|archive| archive.refusal(DateTime::now()));
        refusal.map_or(Ok(()), Err)
    }

    /// Fails, to be retried, while a command archives the knowledge base of a round: it sees the
    /// round, and gives up. If it looked a moment before the round began, it drops the collection.
    /// Then the round ends like the task of an archived knowledge base: it would wait for ever.
    async fn wait_for_archive(
        &self,
        round: &Entry,
        cancel: &CancellationToken,
    ) -> Result<Option<Outcome>, Failure> {
        match self.check_archive(&round.knowledge_db_id).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.rejects_document() => {
                let rejected = self.reject_round(round, &failure, cancel);
                Box::pin(rejected).await.map(Some)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The deletion of the task's knowledge base, if it was requested after the task was sent.
    pub(super) async fn knowledge_base_deletion(
        &self,
        job: &Job<'_>,
    ) -> Result<Option<Cutoff>, Failure> {
        let id = &job.task.knowledge_base;
        let ledger = &self.stores.ledger;
        ledger
            .knowledge_base_deletion_after(id, &job.request.sent)
            .await
    }

    /// Drops the task of a deleted knowledge base, with its original: no worker had received it
    /// when the knowledge base was deleted. Returns whether it did.
    async fn drop_if_deleted(&self, job: &Job<'_>) -> Result<bool, Failure> {
        let Some(deletion) = self.knowledge_base_deletion(job).await? else {
            return Ok(false);
        };
        let task = job.task;
        let ledger = &self.stores.ledger;
        let (file_id, knowledge_base) = (&task.file.file_id, &task.knowledge_base);
        let original = Some(task.file.key.as_str());
        let deleted = ledger.delete(file_id, knowledge_base, original, &deletion);
        let Some((lease, entry)) = deleted.await? else {
            // The file was sent again after the deletion: that task has the original.
            return Ok(true);
        };
        tracing::info!("the knowledge base was deleted after the task was sent, original deleted");
        let removal = self.stores.objects.delete_all(vec![task.file.key.clone()]);
        match ledger.under_lease(&lease, Box::pin(removal)).await {
            // Another deletion of the same file continues.
            Err(failure) if failure.class == Class::Superseded => return Ok(true),
            removed => removed?,
        }
        ledger.end_deletion(&lease, &entry).await?;
        Ok(true)
    }

    /// Deletes the original of a task that was sent before the deletion of its file, if no worker
    /// had received the task: then the deletion did not know it. Fails with the class `Superseded`
    /// if the entry has changed.
    async fn delete_dropped_original(&self, job: &Job<'_>, entry: &Entry) -> Result<(), Failure> {
        let Stores {
            ledger, objects, ..
        } = &self.stores;
        let key = &job.task.file.key;
        if entry.state != State::Deleted && entry.minio_filename == *key {
            return Ok(());
        }
        let uploaded = objects.written_at(key).await?;
        if !uploaded.is_some_and(|at| entry.is_upload_deleted(&job.request.sent, at)) {
            return Ok(());
        }
        let removal = objects.delete_all(vec![key.clone()]);
        if entry.state != State::Deleted {
            return removal.await;
        }
        // No round begins meanwhile that could have the same original.
        let lease = ledger.lease(entry).await?;
        ledger.under_lease(&lease, Box::pin(removal)).await?;
        ledger.end_lease(&lease).await
    }

    /// Begins a round. `None`: another worker changed the entry in the meantime.
    async fn begin_round(
        &self,
        job: &Job<'_>,
        before: Option<&Entry>,
    ) -> Result<Option<Entry>, Failure> {
        if before.is_some() {
            tracing::info!("file is in the ledger already, ingesting it again");
            let files = &self.metrics.files;
            files.with_label_values(&[STATUS_RETRIED]).inc();
        }
        self.stores
            .ledger
            .begin(job.task, &job.request, before)
            .await
    }

    /// Resumes a document that was split before: its missing ranges must be sent.
    async fn resume_split(
        &self,
        entry: Box<Entry>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        if let Some(rows) = entry.stored_rows() {
            return self.complete_document(&entry, rows, cancel).await;
        }
        let missing = entry.missing_ranges();
        Ok(Outcome::Split(entry, missing))
    }

    /// Completes a document whose last page is stored: verifies that Milvus holds each vector once,
    /// and records that in the ledger.
    pub(super) async fn complete_document(
        &self,
        entry: &Entry,
        rows: u64,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let collection = self.stores.collection_of(&entry.knowledge_db_id);
        let count = || self.stores.vectors.count_file(&collection, &entry.file_id);
        let found = self.server(Stage::Milvus, cancel, |_| count()).await?;
        if found != rows {
            tracing::warn!(
                found,
                expected = rows,
                "unexpected number of rows in Milvus, ingesting the document again"
            );
            self.metrics.repeats.inc();
            check_repeats(entry.repeats, found, rows)?;
            return self.restart_document(entry, cancel).await;
        }
        let finished = self.ledger(cancel, || self.stores.ledger.record_done(entry, rows));
        if !finished.await? {
            return Ok(Outcome::Superseded);
        }
        Ok(Outcome::Stored(super::Stored {
            pages: entry.good_pages().unwrap_or_default(),
            skipped: u32::try_from(entry.skipped().len()).unwrap_or(u32::MAX),
            vectors: rows,
        }))
    }

    /// Begins a new round for a document that the stores do not hold exactly once.
    async fn restart_document(
        &self,
        entry: &Entry,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let message = "Milvus does not hold the document exactly once";
        let failure = Failure::transient(Stage::Milvus, Reason::RowsNotOnce, message);
        // Milvus may be in trouble: the pauses grow from some seconds to half a minute.
        let attempts = entry.repeats + 4;
        let mut refusals = Refusals::default();
        self.retry
            .pause(cancel, &failure, attempts, &mut refusals)
            .await?;
        let ledger = &self.stores.ledger;
        let restart = || async {
            let mut known = Some(entry.clone());
            while let Some(before) = known.filter(|now| now.round == entry.round) {
                if before.state != State::Working {
                    break;
                }
                if let Some(begun) = ledger.repeat(&before).await? {
                    return Ok(Outcome::Repeat(Box::new(begun)));
                }
                // Another task for the document may have been recorded.
                known = ledger.find(&before.file_id).await?;
            }
            Ok(Outcome::Superseded)
        };
        self.ledger(cancel, restart).await
    }

    pub(super) async fn local_original<'a>(
        &self,
        job: &Job<'a>,
        round: &str,
        cancel: &CancellationToken,
    ) -> Result<LocalOriginal<'a>, Failure> {
        if let Source::Local(path) = job.source {
            return Ok(LocalOriginal::File(path));
        }
        let timer = self.metrics.fetch_duration.start_timer();
        let FileMeta { key, version, .. } = &job.task.file;
        let version = version.as_ref().map(|of| of.version.as_str());
        let copy = self.originals.place(round, key);
        let fetch = |_| self.originals.fetch(key, version, &copy);
        let fetched = self.retry.run(Stage::Fetch, cancel, fetch);
        work::timed(Stage::Fetch, fetched).await?;
        timer.stop_and_record();
        Ok(LocalOriginal::Copy(copy))
    }
}

/// The entry, if nobody works on it any more. Otherwise fails, to be retried.
fn patient(patience: &Patience, entry: Box<Entry>) -> Result<Box<Entry>, Failure> {
    if patience.is_over(&entry, Instant::now()) {
        tracing::warn!(
            since = %entry.worker_since,
            "no worker with the newer configuration continues the document, taking it over"
        );
        return Ok(entry);
    }
    let message = "a worker with a newer configuration is processing the document";
    Err(Failure::transient(
        Stage::Intake,
        Reason::NewerConfiguration,
        message,
    ))
}
