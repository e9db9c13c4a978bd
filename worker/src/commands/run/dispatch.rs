//! What one message asks for: a document, a range of its pages, a deletion, or nothing that is
//! ours. The pipeline does it and settles it.

use layra_crds::ForeignMessageAction;
use mongodb::bson::DateTime;
use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio_util::sync::CancellationToken;

use crate::assembly::Common;
use crate::document::Origin;
use crate::document::page_range::Range;
use crate::document::task::{self, Deletion, Message, Task};
use crate::kafka::outbox::Outbox;
use crate::pipeline::settle::Sender;
use crate::pipeline::{Deleter, Job, Outcome, Pipeline, Source, Stored};
use crate::runtime::failure::{Failure, Stage};
use crate::stores::progress::Progress;

/// Hands messages to the pipeline.
pub(super) struct Dispatcher {
    pub(super) common: Common,
    pub(super) pipeline: Pipeline,
    pub(super) outbox: Outbox,
    pub(super) progress: Progress,
}

impl Dispatcher {
    /// Deals with a message. Once this returns `Ok`, it may be committed.
    pub(super) async fn message(
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
                let sender = self.sender(message, &own, false);
                let pipeline = &self.pipeline;
                pipeline.reject_message(&failure, sender, cancel).await
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
        let (origin, at) = match &range {
            Some(range) => (range.origin.clone(), range.at),
            None => (own, written_at(message)),
        };
        let job = Job {
            task,
            request: self
                .common
                .request(origin.to_string(), DateTime::from_millis(at)),
            source: Source::ObjectStore,
        };
        let outcome = if let Some(range) = &range {
            span.record("first_page", range.first + 1);
            self.pipeline.range(&job, range, cancel).await?
        } else {
            self.progress.started(task).await;
            self.pipeline.document(&job, cancel, &|_| {}).await?
        };
        self.report(&outcome, task, started.elapsed().as_secs_f64());
        let sender = Sender {
            written_at: at,
            ..self.sender(message, &origin, range.is_some())
        };
        self.pipeline
            .settle(&outcome, task, Some(sender), cancel)
            .await
    }

    fn report(&self, outcome: &Outcome, task: &Task, seconds: f64) {
        let name = &task.file.name;
        match outcome {
            Outcome::Stored(Stored { pages, vectors }) => {
                tracing::info!(pages, vectors, seconds, name, "stored");
                let metrics = &self.common.metrics;
                metrics.files.with_label_values(&["success"]).inc();
                metrics.ingestion_duration.observe(seconds);
            }
            Outcome::PartStored => tracing::info!(seconds, name, "range stored"),
            Outcome::AlreadyStored | Outcome::Settled | Outcome::Deleted | Outcome::Superseded => {
                tracing::info!(reason = ?outcome, "nothing to do");
            }
            // Said when it is done.
            Outcome::Split(..) | Outcome::Rejected(..) | Outcome::Again(_) => {}
        }
    }

    fn sender<'a>(
        &'a self,
        message: &'a OwnedMessage,
        origin: &'a Origin,
        is_range: bool,
    ) -> Sender<'a> {
        Sender {
            message,
            origin,
            written_at: written_at(message),
            is_range,
            outbox: &self.outbox,
            progress: &self.progress,
        }
    }

    async fn delete(&self, deletion: &Deletion, cancel: &CancellationToken) -> Result<(), Failure> {
        let deleter = Deleter {
            stores: &self.pipeline.stores,
            retry: &self.pipeline.retry,
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
}

/// Milliseconds since 1970.
fn written_at(message: &OwnedMessage) -> i64 {
    let written = message.timestamp().to_millis();
    written.unwrap_or_else(|| DateTime::now().timestamp_millis())
}
