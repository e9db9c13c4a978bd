//! The `run` command: documents from Kafka into the stores, until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use layra_crds::ForeignMessageAction;
use mongodb::bson::DateTime;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::assembly::Common;
use crate::commands::delete::Deleter;
use crate::document::page_range::Range;
use crate::document::task::{self, Deletion, Message, Task};
use crate::kafka::consumer::{Delivery, Intake};
use crate::kafka::outbox::Outbox;
use crate::pipeline::{Job, Outcome, Pipeline, Reason, Source, Stored};
use crate::runtime::failure::{Class, Failure, Stage};
use crate::runtime::server;
use crate::stores::ledger::{Entry, Origin, Rejection, State};
use crate::stores::progress::Progress;

/// Documents and ranges worked on at the same time. Renderers, memory and the model have bounds of
/// their own; this many keep them busy when documents are short.
const WORK_AT_ONCE: usize = 8;
/// Ranges of long documents among them; the other places are for whole documents.
const RANGES_AT_ONCE: usize = WORK_AT_ONCE - 2;
/// Tasks taken from Kafka and not finished, those that wait for their turn included.
const TASKS_AHEAD: usize = 2 * WORK_AT_ONCE;
/// Part of the grace that is left for giving work back, committing and leaving the group.
const TO_LEAVE: Duration = Duration::from_secs(20);
/// A worker that has not left so long before the end of its grace ends as it is.
const TO_END: Duration = Duration::from_secs(3);
/// How often the worker asks for documents that should be looked at once more.
const RECHECK_INTERVAL: Duration = Duration::from_secs(20);

/// Runs until `common.stop` is cancelled and the documents in flight are finished, or until
/// something is wrong that only a person can mend.
///
/// Once told to stop, work goes on for most of `grace`; what is not finished by then is given back,
/// and what is stored of it is kept. Requests are not cut short; when one is not answered, or the
/// group does not let go, the worker ends shortly before `grace` does: what it was about to do is
/// done by others, as after a crash, and the log says what held it.
pub async fn run(common: Common, listen: SocketAddr, grace: Duration) -> Result<(), Failure> {
    let server = server::serve(
        listen,
        Arc::clone(&common.health),
        Arc::clone(&common.metrics),
    );
    tokio::select! {
        result = server => {
            let problem = result.err().map_or_else(|| "it ended".to_owned(), |e| e.to_string());
            Err(Failure::fatal(Stage::Intake, "HttpServer", format!("{listen}: {problem}")))
        }
        result = work(&common, grace) => match result {
            // Told to stop before everything was connected.
            Err(failure) if failure.class == Class::Stopped => Ok(()),
            result => result,
        },
        () = overdue(&common, grace) => Ok(()),
    }
}

/// Ends when the worker should have left.
async fn overdue(common: &Common, grace: Duration) {
    common.stop.cancelled().await;
    tokio::time::sleep(grace.saturating_sub(TO_END).max(grace / 2)).await;
    tracing::warn!(
        documents = common.metrics.documents_in_flight.get(),
        waits = ?common.health.waits(),
        "leaving takes too long; ending as it is"
    );
}

async fn work(common: &Common, grace: Duration) -> Result<(), Failure> {
    let outbox = Outbox::new(&common.settings)?;
    let progress = connect_progress(common).await?;
    let pipeline = common.pipeline().await?;
    let worker = Arc::new(Worker {
        common: common.clone(),
        pipeline,
        outbox,
        progress,
        leave_patience: grace.saturating_sub(TO_LEAVE).max(grace / 2),
    });
    let rechecks = tokio::spawn(Arc::clone(&worker).recheck_all());
    let _rechecks = tokio_util::task::AbortOnDropHandle::new(rechecks);

    let name = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let intake = Intake::subscribe(
        &common.settings,
        name.as_deref(),
        TASKS_AHEAD,
        RANGES_AT_ONCE,
        Arc::clone(&common.health),
        Arc::clone(&common.metrics),
    )?;
    let source = &common.settings.config.source.kafka;
    tracing::info!(
        topic = source.topic,
        group = source.consumer_group,
        name,
        "ready for work"
    );

    // Ends the poll loop, on request or after a fatal failure.
    let leave = common.stop.child_token();
    let (sender, deliveries) = mpsc::unbounded_channel();
    let polling = {
        let leave = leave.clone();
        tokio::task::spawn_blocking(move || {
            let result = intake.run(&sender, &leave);
            leave.cancel();
            result
        })
    };
    let outcome = worker.work_all(deliveries, &leave).await;
    leave.cancel();
    let polled = polling
        .await
        .unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, "PollLoopDied", error)));
    outcome.and(polled)
}

async fn connect_progress(common: &Common) -> Result<Progress, Failure> {
    let Some(uri) = &common.settings.secrets.redis_uri else {
        return Ok(Progress::none());
    };
    common
        .retry()
        .run(Stage::Intake, &common.stop, |_| Progress::connect(uri))
        .await
}

struct Worker {
    common: Common,
    pipeline: Pipeline,
    outbox: Outbox,
    progress: Progress,
    /// How long work goes on after the worker was told to stop.
    leave_patience: Duration,
}

impl Worker {
    /// Works on messages as they come. Once `leave` is cancelled nothing new is begun, and work that
    /// takes too long is given back. Returns the first fatal failure.
    async fn work_all(
        self: &Arc<Self>,
        mut deliveries: mpsc::UnboundedReceiver<Delivery>,
        leave: &CancellationToken,
    ) -> Result<(), Failure> {
        let call_off = CancellationToken::new();
        let mut working = JoinSet::new();
        loop {
            let free = working.len() < WORK_AT_ONCE;
            tokio::select! {
                () = leave.cancelled() => break,
                Some(result) = working.join_next() => finished(result)?,
                delivery = deliveries.recv(), if free => match delivery {
                    Some(delivery) => {
                        let (worker, call_off) = (Arc::clone(self), call_off.clone());
                        working.spawn(async move { worker.work(delivery, &call_off).await });
                    }
                    None => break,
                },
            }
        }
        tracing::info!(
            documents = working.len(),
            "leaving after the documents in flight"
        );
        // Gives back what has not begun.
        drop(deliveries);
        let deadline = tokio::time::sleep(self.leave_patience);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                result = working.join_next() => match result {
                    Some(result) => finished(result)?,
                    None => return Ok(()),
                },
                () = &mut deadline, if !call_off.is_cancelled() => call_off.cancel(),
            }
        }
    }

    /// Works on one message until it is dealt with, given back, or `call_off` is cancelled. An
    /// error is fatal.
    async fn work(&self, delivery: Delivery, call_off: &CancellationToken) -> Result<(), Failure> {
        let Delivery { message, ticket } = delivery;
        let cancel = ticket.cancel().child_token();
        let _called_off = {
            let (cancel, call_off) = (cancel.clone(), call_off.clone());
            let watch = tokio::spawn(async move {
                call_off.cancelled().await;
                cancel.cancel();
            });
            tokio_util::task::AbortOnDropHandle::new(watch)
        };
        if cancel.is_cancelled() {
            // Its partition moved while it waited for its turn.
            return Ok(());
        }
        let span = tracing::info_span!(
            "message",
            topic = ticket.place().0,
            partition = ticket.place().1,
            offset = ticket.offset(),
            file = tracing::field::Empty,
            first_page = tracing::field::Empty,
        );
        async {
            let began = std::time::Instant::now();
            let result = self.message(&message, &cancel).await;
            self.common.metrics.worked_for(began.elapsed());
            match result {
                Ok(()) => {
                    ticket.done();
                    Ok(())
                }
                Err(failure) if failure.class == Class::Stopped => {
                    tracing::info!("the message is given back");
                    Ok(())
                }
                Err(failure) => Err(failure),
            }
        }
        .instrument(span)
        .await
    }

    /// Deals with a message. Once this returns `Ok`, it may be committed.
    async fn message(
        &self,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let own = Origin {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        };
        let source = &self.common.settings.config.source.kafka;
        let range = if message.topic() == source.topic {
            None
        } else {
            Some(Range::from_headers(message.headers()))
        };
        let payload = message.payload().unwrap_or_default();
        let parsed = task::parse(payload).map_err(Failure::from);
        let result = match (range.transpose(), parsed) {
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
            (Ok(None), Ok(Message::Foreign)) => self.foreign(message, cancel).await,
            (Ok(None), Ok(Message::Delete(deletion))) => self.delete(&deletion, cancel).await,
            (Ok(range), Ok(Message::Task(task))) => {
                self.task(&task, range, own.clone(), message, cancel).await
            }
            (Ok(Some(_)), Ok(_)) => Err(Failure::permanent(
                Stage::Intake,
                "InvalidRange",
                "a range of something that is no task",
            )),
        };
        match result {
            Err(failure) if failure.rejects_document() => {
                let rejection = Rejection::from(&failure);
                self.dead_letter(message, &own, &rejection, cancel).await?;
                if let Some((task_id, file_id)) = task::shown_as(payload) {
                    let file_id = file_id.unwrap_or_else(|| own.to_string());
                    let why = &rejection.message;
                    self.progress.failed(&task_id, &file_id, why).await;
                }
                Ok(())
            }
            result => result,
        }
    }

    async fn task(
        &self,
        task: &Task,
        range: Option<Range>,
        own: Origin,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let span = tracing::Span::current();
        span.record("file", &task.file.file_id);
        let started = std::time::Instant::now();
        let written = message.timestamp().to_millis();
        let written = written.unwrap_or_else(|| DateTime::now().timestamp_millis());
        let (origin, at) = match &range {
            Some(range) => (range.origin.clone(), range.at),
            None => (own, written),
        };
        let job = Job {
            task,
            delivery: self
                .common
                .delivery(origin.to_string(), DateTime::from_millis(at)),
            source: Source::ObjectStore,
        };
        let outcome = if let Some(range) = &range {
            span.record("first_page", range.first + 1);
            self.pipeline.range(&job, range, cancel).await?
        } else {
            self.progress.started(task).await;
            self.pipeline.document(&job, cancel, &|_| {}).await?
        };
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Outcome::Stored(Stored { pages, vectors }) => {
                tracing::info!(pages, vectors, seconds, name = task.file.name, "stored");
                let metrics = &self.common.metrics;
                metrics.files.with_label_values(&["success"]).inc();
                metrics.ingestion_duration.observe(seconds);
                self.progress.succeeded(task).await;
                Ok(())
            }
            Outcome::PartStored => {
                tracing::info!(seconds, name = task.file.name, "range stored");
                Ok(())
            }
            Outcome::Split(entry, ranges) => {
                self.split(&entry, &ranges, &origin, at, message, cancel)
                    .await
            }
            Outcome::Nothing(reason) => {
                tracing::info!(reason = reason.as_str(), "nothing to do");
                if matches!(reason, Reason::AlreadyStored | Reason::Deleted) && range.is_none() {
                    self.progress.succeeded(task).await;
                }
                Ok(())
            }
            Outcome::Rejected(entry, rejection) => {
                self.dead_letter(message, &origin, &rejection, cancel)
                    .await?;
                let ledger = &self.pipeline.ledger;
                let lettered = |_| ledger.lettered(&entry.file_id, &entry.round);
                self.pipeline
                    .retry
                    .run(Stage::Mongodb, cancel, lettered)
                    .await?;
                let why = &rejection.message;
                self.progress
                    .failed(&task.task_id, &task.file.file_id, why)
                    .await;
                Ok(())
            }
            Outcome::Again(entry) => self.request(&entry, cancel).await,
        }
    }

    /// Sends the ranges of a document to their topic.
    async fn split(
        &self,
        entry: &Entry,
        ranges: &[(u32, u32)],
        origin: &Origin,
        at: i64,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let pages = entry.pages.unwrap_or_default();
        tracing::info!(pages, ranges = ranges.len(), "split");
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|&(first, count)| Range {
                round: entry.round.clone(),
                first,
                count,
                origin: origin.clone(),
                at,
            })
            .collect();
        let send = |_| self.outbox.ranges(message, &ranges);
        self.pipeline
            .retry
            .run(Stage::DeadLetter, cancel, send)
            .await?;
        self.common.metrics.splits.inc();
        Ok(())
    }

    /// Has a document done again that the stores do not hold exactly once.
    async fn request(&self, entry: &Entry, cancel: &CancellationToken) -> Result<(), Failure> {
        let task = Task::from(entry);
        let send = |_| self.outbox.request(&task);
        self.pipeline
            .retry
            .run(Stage::DeadLetter, cancel, send)
            .await
    }

    async fn delete(&self, deletion: &Deletion, cancel: &CancellationToken) -> Result<(), Failure> {
        let Pipeline {
            objects,
            documents,
            ledger,
            vectors,
            milvus,
            retry,
            ..
        } = self.pipeline.clone();
        let deleter = Deleter {
            objects,
            documents,
            ledger,
            vectors,
            milvus,
            retry,
        };
        deleter.delete(deletion, cancel).await?;
        let kind = match deletion {
            Deletion::File { .. } => "file",
            Deletion::KnowledgeBase(_) => "knowledge_base",
        };
        let deletions = &self.common.metrics.deletions;
        deletions.with_label_values(&[kind]).inc();
        Ok(())
    }

    /// Looks once more at documents that somebody may have written late. Ends with the worker.
    async fn recheck_all(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RECHECK_INTERVAL).await;
            if let Err(error) = self.recheck_due().await {
                tracing::warn!(%error, "documents could not be looked at once more; later");
            }
        }
    }

    async fn recheck_due(&self) -> Result<(), Failure> {
        let ledger = &self.pipeline.ledger;
        while let Some(entry) = ledger.next_recheck().await? {
            if entry.state == State::Working {
                // Looked at again until it is done.
                if entry.is_orphan(DateTime::now()) {
                    tracing::warn!(file = entry.file_id, "nobody works on it; sent once more");
                    self.outbox.request(&Task::from(&entry)).await?;
                    ledger.adopted(&entry).await?;
                }
                continue;
            }
            if let Outcome::Again(entry) = self.pipeline.recheck(&entry).await? {
                self.outbox.request(&Task::from(entry.as_ref())).await?;
            }
            ledger.rechecked(&entry).await?;
        }
        Ok(())
    }

    async fn foreign(
        &self,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let foreign = &self.common.settings.config.source.kafka.foreign_messages;
        let action = match (foreign.action, &foreign.topic) {
            (ForeignMessageAction::Forward, Some(topic)) => {
                let forward = |_| self.outbox.forward(message, topic);
                self.pipeline
                    .retry
                    .run(Stage::DeadLetter, cancel, forward)
                    .await?;
                "forward"
            }
            _ => "skip",
        };
        self.common
            .metrics
            .foreign_messages
            .with_label_values(&[action])
            .inc();
        Ok(())
    }

    async fn dead_letter(
        &self,
        message: &OwnedMessage,
        origin: &Origin,
        rejection: &Rejection,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        tracing::warn!(
            stage = rejection.stage,
            reason = rejection.reason,
            error = rejection.message,
            "dead letter"
        );
        let send = |_| self.outbox.dead_letter(message, origin, rejection);
        self.pipeline
            .retry
            .run(Stage::DeadLetter, cancel, send)
            .await?;
        let metrics = &self.common.metrics;
        metrics.files.with_label_values(&["failed"]).inc();
        let letters = &metrics.dead_letters;
        letters.with_label_values(&[&rejection.reason]).inc();
        Ok(())
    }
}

fn finished(result: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    result.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, "WorkerDied", error)))
}
