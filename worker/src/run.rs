//! The `run` command: documents from Kafka into the stores, until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use layra_crds::ForeignMessageAction;
use rdkafka::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::assembly::Common;
use crate::failure::{Class, Failure, Stage};
use crate::intake::consumer::{Delivery, Intake};
use crate::outbox::Outbox;
use crate::pipeline::{Pipeline, Stored};
use crate::server;
use crate::store::progress::Progress;
use crate::task::{self, Message, Task};

/// Documents worked on at the same time, so that one renders while another embeds.
const DOCUMENTS_AT_ONCE: usize = 2;
/// Messages taken from Kafka and not finished, those that wait for their turn included.
const MESSAGES_AHEAD: usize = 2 * DOCUMENTS_AT_ONCE;

/// Runs until `common.stop` is cancelled and the documents in flight are finished, or until
/// something is wrong that only a person can mend.
pub async fn run(common: Common, listen: SocketAddr) -> Result<(), Failure> {
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
        result = work(&common) => match result {
            // Told to stop before everything was connected.
            Err(failure) if failure.class == Class::Stopped => Ok(()),
            result => result,
        },
    }
}

async fn work(common: &Common) -> Result<(), Failure> {
    let outbox = Outbox::new(&common.settings)?;
    let progress = connect_progress(common).await?;
    let pipeline = common.pipeline().await?;
    let worker = Arc::new(Worker {
        common: common.clone(),
        pipeline,
        outbox,
        progress,
    });

    let member = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let intake = Intake::subscribe(
        &common.settings,
        member.as_deref(),
        MESSAGES_AHEAD,
        Arc::clone(&common.health),
        Arc::clone(&common.metrics),
    )?;
    let source = &common.settings.config.source.kafka;
    tracing::info!(
        topic = source.topic,
        group = source.consumer_group,
        member,
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
}

impl Worker {
    /// Works on messages as they come. Once `leave` is cancelled nothing new is begun; messages
    /// that wait are given back. Returns the first fatal failure.
    async fn work_all(
        self: &Arc<Self>,
        mut deliveries: mpsc::UnboundedReceiver<Delivery>,
        leave: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut working = JoinSet::new();
        loop {
            let free = working.len() < DOCUMENTS_AT_ONCE;
            tokio::select! {
                () = leave.cancelled() => break,
                Some(result) = working.join_next() => finished(result)?,
                delivery = deliveries.recv(), if free => match delivery {
                    Some(delivery) => {
                        let worker = Arc::clone(self);
                        working.spawn(async move { worker.work(delivery).await });
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
        while let Some(result) = working.join_next().await {
            finished(result)?;
        }
        Ok(())
    }

    /// Works on one message. An error is fatal; anything else has been dealt with.
    async fn work(&self, delivery: Delivery) -> Result<(), Failure> {
        let Delivery { message, ticket } = delivery;
        let cancel = ticket.cancel().clone();
        let payload = message.payload().unwrap_or_default();
        let span = tracing::info_span!(
            "message",
            partition = ticket.partition(),
            offset = ticket.offset(),
            file = tracing::field::Empty
        );
        async {
            let result = match task::parse(payload) {
                Err(error) => Err(Failure::from(error)),
                Ok(Message::Foreign) => self.foreign(&message, &cancel).await,
                Ok(Message::Task(task)) => {
                    tracing::Span::current().record("file", &task.file.file_id);
                    self.document(&task, &cancel).await
                }
            };
            let settled = match result {
                Err(failure) if failure.class == Class::Permanent => {
                    self.dead_letter(&message, &failure, &cancel).await
                }
                result => result,
            };
            match settled {
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

    async fn document(&self, task: &Task, cancel: &CancellationToken) -> Result<(), Failure> {
        let started = std::time::Instant::now();
        self.progress.started(task).await;
        let result = self
            .pipeline
            .ingest(task, &self.common.paths.cache, cancel)
            .await;
        let seconds = started.elapsed().as_secs_f64();
        match &result {
            Ok(Stored { pages, vectors }) => {
                tracing::info!(pages, vectors, seconds, name = task.file.name, "stored");
                self.pipeline
                    .metrics
                    .files
                    .with_label_values(&["success"])
                    .inc();
                self.pipeline.metrics.ingestion_duration.observe(seconds);
                self.progress.succeeded(task).await;
            }
            Err(failure) if failure.class == Class::Permanent => {
                self.progress.failed(task, failure).await;
            }
            Err(_) => {}
        }
        result.map(|_| ())
    }

    async fn foreign(
        &self,
        message: &rdkafka::message::OwnedMessage,
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
        message: &rdkafka::message::OwnedMessage,
        failure: &Failure,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        tracing::warn!(
            stage = failure.stage.as_str(),
            reason = failure.reason,
            error = failure.message,
            "dead letter"
        );
        let send = |_| self.outbox.dead_letter(message, failure);
        self.pipeline
            .retry
            .run(Stage::DeadLetter, cancel, send)
            .await?;
        self.common
            .metrics
            .files
            .with_label_values(&["failed"])
            .inc();
        self.common
            .metrics
            .dead_letters
            .with_label_values(&[failure.reason])
            .inc();
        Ok(())
    }
}

fn finished(result: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    result.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, "WorkerDied", error)))
}
