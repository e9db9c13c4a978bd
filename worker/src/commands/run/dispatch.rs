//! Dispatches a message by its type: a document, a page range, a deletion, or a foreign message.
//! The pipeline processes and settles it.

use layra_crds::ForeignMessageAction;
use layra_crds::metric_names::worker as names;
use mongodb::bson::DateTime;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio_util::sync::CancellationToken;

use crate::assembly::Common;
use crate::document::page_range::Range;
use crate::document::sent::from_millis;
use crate::document::task::{self, Deletion, Message, Task};
use crate::document::{Cutoff, Origin, Sent};
use crate::kafka::outbox::Outbox;
use crate::pipeline::settle::Incoming;
use crate::pipeline::{Deleter, Job, Outcome, Pipeline, Source, Stored};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::{span, traces};
use crate::stores::progress::Progress;

/// Passes messages to the pipeline.
pub(super) struct Dispatcher {
    pub(super) common: Common,
    pub(super) pipeline: Pipeline,
    pub(super) outbox: Outbox,
    pub(super) progress: Progress,
}

impl Dispatcher {
    /// Processes a message. Once this returns `Ok`, its offset may be committed.
    pub(super) async fn message(
        &self,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let position = Origin {
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
        let result = match self.notification(payload).filter(|_| range.is_none()) {
            Some(Ok(notification)) => {
                let notified = self.notified(&notification, &position, message, cancel);
                Box::pin(notified).await
            }
            Some(Err(failure)) => Err(failure),
            None => {
                self.parsed(range, payload, &position, message, cancel)
                    .await
            }
        };
        match result {
            Err(failure) if failure.rejects_document() => {
                if let Some((task_id, Some(file_id))) = task::progress_ids(payload) {
                    span::name_document(&file_id, Some(&task_id));
                }
                let incoming = self.incoming(message, &position, false);
                let pipeline = &self.pipeline;
                pipeline.reject_message(&failure, incoming, cancel).await
            }
            result => result,
        }
    }

    async fn parsed(
        &self,
        range: Option<Result<Range, Failure>>,
        payload: &[u8],
        position: &Origin,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let parsed = task::parse(payload).map_err(Failure::from);
        match (range.transpose(), parsed) {
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
            (Ok(None), Ok(Message::Foreign)) => self.foreign(message, cancel).await,
            (Ok(None), Ok(Message::Delete(deletion))) => {
                let cutoff = Cutoff::of_message(position, written_at(message));
                self.delete(&deletion, &cutoff, cancel).await
            }
            (Ok(range), Ok(Message::Task(task))) => match &self.pipeline.bucket {
                // Since the task was sent, the object may have changed.
                Some(bucket) if range.is_none() && task.file.version.is_some() => {
                    let key = &task.file.key;
                    self.object(bucket, key, position, message, cancel).await
                }
                _ => {
                    self.task(&task, range, position.clone(), message, cancel)
                        .await
                }
            },
            (Ok(Some(_)), Ok(_)) => Err(Failure::permanent(
                Stage::Intake,
                Reason::InvalidRange,
                "range headers on a message that is not a task",
            )),
        }
    }

    pub(super) async fn task(
        &self,
        task: &Task,
        range: Option<Range>,
        position: Origin,
        message: &OwnedMessage,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        span::name_document(&task.file.file_id, Some(&task.task_id));
        if range.is_none() {
            let quotas = &self.pipeline.quotas;
            quotas.wait_for_room(cancel, &self.common.stop).await?;
        }
        let started = std::time::Instant::now();
        let sent = match &range {
            Some(range) => Sent {
                origin: range.origin.to_string(),
                at: from_millis(range.at),
            },
            None => Sent::of_message(message.headers(), &position, written_at(message))?,
        };
        let origin = sent.position().unwrap_or(position);
        let written_at = sent.at;
        let job = Job {
            task,
            request: self.common.request(sent.clone()),
            source: Source::ObjectStore,
        };
        let outcome = if let Some(range) = &range {
            span::name_range(range.first + 1);
            Box::pin(self.pipeline.ingest_range(&job, range, cancel)).await?
        } else {
            self.progress.started(task);
            Box::pin(self.pipeline.ingest_document(&job, cancel, &|_| {})).await?
        };
        self.report(&outcome, task, started.elapsed().as_secs_f64());
        let incoming = Incoming {
            written_at,
            ..self.incoming(message, &origin, range.is_some())
        };
        let settled = self.pipeline.settle(&outcome, task, Some(incoming), cancel);
        traces::timed("settle", settled).await?;
        self.replace_versions(task, &sent, cancel).await
    }

    fn report(&self, outcome: &Outcome, task: &Task, seconds: f64) {
        let name = &task.file.name;
        match outcome {
            Outcome::Stored(Stored {
                pages,
                skipped,
                vectors,
            }) => {
                tracing::info!(pages, skipped, vectors, seconds, name, "stored");
                let metrics = &self.common.metrics;
                metrics
                    .files
                    .with_label_values(&[names::STATUS_SUCCESS])
                    .inc();
                metrics.ingestion_duration.observe(seconds);
            }
            Outcome::RangeStored => tracing::info!(seconds, name, "page range stored"),
            Outcome::AlreadyStored | Outcome::Settled | Outcome::Deleted | Outcome::Superseded => {
                tracing::info!(reason = ?outcome, "nothing to do");
            }
            // Logged when they are settled.
            Outcome::Split(..)
            | Outcome::Rejected(..)
            | Outcome::Repeat(_)
            | Outcome::NoRoom(_) => {}
        }
    }

    fn incoming<'a>(
        &'a self,
        message: &'a OwnedMessage,
        origin: &'a Origin,
        is_range: bool,
    ) -> Incoming<'a> {
        Incoming {
            message,
            origin,
            written_at: written_at(message),
            is_range,
            outbox: &self.outbox,
            progress: &self.progress,
        }
    }

    async fn delete(
        &self,
        deletion: &Deletion,
        cutoff: &Cutoff,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        if let Deletion::File { file_id, .. } = deletion {
            span::name_document(file_id, None);
        }
        let deleter = Deleter {
            stores: &self.pipeline.stores,
            retry: &self.pipeline.retry,
        };
        deleter.delete(deletion, cutoff, cancel).await?;
        let kind = match deletion {
            Deletion::File { .. } => names::KIND_FILE,
            Deletion::KnowledgeBase(_) => names::KIND_KNOWLEDGE_BASE,
        };
        let deletions = &self.common.metrics.deletions;
        deletions.with_label_values(&[kind]).inc();
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
                names::ACTION_FORWARD
            }
            _ => names::ACTION_SKIP,
        };
        self.common
            .metrics
            .foreign_messages
            .with_label_values(&[action])
            .inc();
        Ok(())
    }
}

pub(super) fn written_at(message: &OwnedMessage) -> DateTime {
    let written = message.timestamp().to_millis();
    written.map_or_else(DateTime::now, from_millis)
}
