//! The poll loop: receives messages, commits offsets and handles rebalances, on its own thread.
//! Work never blocks it.
//!
//! Tasks and page ranges have a consumer each, both members of the same group. The assignor
//! balances the number of partitions regardless of their topics: with one consumer for both topics,
//! a worker would often get only partitions of the topic without backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedMessage};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::kafka::client::{consumer_config, describe_error};
use crate::kafka::tracker::{Ticket, TopicPartition, Tracker};
use crate::kafka::unanswered::Unanswered;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::quotas::Quotas;
use crate::runtime::settings::Settings;

/// Longest wait for messages, and longest delay until a finished document resumes partitions.
const POLL: Duration = Duration::from_millis(50);
/// How often offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a revoked partition waits for its documents to finish, and again as long after they are
/// cancelled. The group waits for this worker during this time.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: OwnedMessage,
    pub(crate) ticket: Ticket,
}

/// The consumers of tasks and page ranges, and their messages in progress.
pub(crate) struct Intake {
    tracker: Arc<Tracker>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    quotas: Arc<Quotas>,
    consumers: [TopicConsumer; 2],
}

/// The consumer of one topic, and its limit of messages in progress. Each topic has its own limit,
/// so that the ranges of a long document do not hold up short documents.
struct TopicConsumer {
    client: BaseConsumer<Context>,
    topic: String,
    limit: usize,
    /// Whether a quota of the pipeline holds up its messages. Page ranges belong to documents that
    /// were begun.
    heeds_quotas: bool,
    paused: AtomicBool,
}

struct Context {
    topic: String,
    tracker: Arc<Tracker>,
    metrics: Arc<Metrics>,
    assignment_changed: AtomicBool,
    commit: Unanswered,
}

impl Intake {
    /// Subscribes to tasks and page ranges. `tasks` and `ranges` limit the messages in progress.
    pub(crate) fn subscribe(
        settings: &Settings,
        name: Option<&str>,
        tasks: usize,
        ranges: usize,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        quotas: Arc<Quotas>,
    ) -> Result<Self, Failure> {
        let kafka = &settings.config.source.kafka;
        let tracker = Arc::new(Tracker::default());
        let consumer = |topic: String, limit| -> Result<TopicConsumer, KafkaError> {
            let context = Context {
                topic: topic.clone(),
                tracker: Arc::clone(&tracker),
                metrics: Arc::clone(&metrics),
                assignment_changed: AtomicBool::new(false),
                commit: Unanswered::default(),
            };
            let client: BaseConsumer<Context> =
                consumer_config(settings, name).create_with_context(context)?;
            client.subscribe(&[&topic])?;
            Ok(TopicConsumer {
                client,
                limit,
                heeds_quotas: topic == kafka.topic,
                topic,
                paused: AtomicBool::new(false),
            })
        };
        let invalid = |error: KafkaError| {
            Failure::fatal(
                Stage::Intake,
                Reason::InvalidKafkaConfig,
                describe_error(&error),
            )
        };
        let consumers = [
            consumer(kafka.topic.clone(), tasks).map_err(invalid)?,
            consumer(kafka.ranges_topic(), ranges).map_err(invalid)?,
        ];
        health.consumer_running(true);
        Ok(Self {
            tracker,
            health,
            metrics,
            quotas,
            consumers,
        })
    }

    /// Receives messages until `stop` is cancelled. Then waits until the messages in progress are
    /// settled or released, commits and leaves the group.
    pub(crate) fn run(
        &self,
        deliveries: &mpsc::UnboundedSender<Delivery>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut last_commit = Instant::now();
        let mut last_loop = Instant::now();
        loop {
            self.health.polled(Instant::now());
            let in_flight = self.tracker.in_flight();
            if in_flight > 0 && self.health.waiting_for().is_empty() {
                let busy = last_loop.elapsed().as_secs_f64();
                self.metrics.busy_seconds.inc_by(busy);
            }
            last_loop = Instant::now();
            self.metrics
                .documents_in_flight
                .set(i64::try_from(in_flight).unwrap_or(i64::MAX));
            if stop.is_cancelled() && in_flight == 0 {
                break;
            }
            for consumer in &self.consumers {
                let context = consumer.client.context();
                let changed = context.assignment_changed.swap(false, Ordering::Relaxed);
                let full = self.tracker.in_flight_of(&consumer.topic) >= consumer.limit;
                let held = consumer.heeds_quotas && self.quotas.is_held();
                let pause = full || held || stop.is_cancelled();
                if consumer.paused.swap(pause, Ordering::Relaxed) != pause || changed {
                    consumer.set_paused(pause);
                }
            }
            if !self.poll(Duration::ZERO, deliveries)? {
                self.poll(POLL / 2, deliveries)?;
            }
            if last_commit.elapsed() >= COMMIT_INTERVAL {
                self.commit(CommitMode::Async);
                last_commit = Instant::now();
            }
        }
        self.commit(CommitMode::Sync);
        self.health.consumer_running(false);
        tracing::info!("all processed messages are committed");
        Ok(())
    }

    /// Receives a message from each topic that has one within `wait`. Returns whether any had one.
    ///
    /// Every message is entered into the tracker, also during shutdown: it is below the consumer's
    /// position, and an offset below the position that was not entered counts as processed.
    fn poll(
        &self,
        wait: Duration,
        deliveries: &mpsc::UnboundedSender<Delivery>,
    ) -> Result<bool, Failure> {
        let mut found = false;
        for consumer in &self.consumers {
            match consumer.client.poll(wait) {
                None => continue,
                Some(Err(error)) => check(&error)?,
                Some(Ok(message)) => self.take(&message, deliveries),
            }
            found = true;
        }
        Ok(found)
    }

    fn commit(&self, mode: CommitMode) {
        for consumer in &self.consumers {
            consumer.track_positions(&self.tracker);
            commit(&consumer.client, &self.tracker, None, mode);
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>, deliveries: &mpsc::UnboundedSender<Delivery>) {
        let partition = (message.topic().to_owned(), message.partition());
        let ticket = self.tracker.take(partition, message.offset());
        let delivery = Delivery {
            message: message.detach(),
            ticket,
        };
        // Without a receiver the delivery is dropped, which releases the message.
        let _ = deliveries.send(delivery);
    }
}

impl TopicConsumer {
    /// Enters the consumer's positions into the tracker. A position also passes records that are
    /// never delivered: transaction markers, and records of aborted transactions. They count as
    /// processed once no message is in progress; otherwise one of them would look like a task
    /// forever.
    fn track_positions(&self, tracker: &Tracker) {
        let Ok(positions) = self.client.position() else {
            return;
        };
        for element in positions.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let partition = (element.topic().to_owned(), element.partition());
                tracker.reached(&partition, offset);
            }
        }
    }

    fn set_paused(&self, paused: bool) {
        let topic = self.topic.as_str();
        let result = self.client.assignment().and_then(|assignment| {
            let mut partitions = TopicPartitionList::new();
            for element in assignment.elements_for_topic(topic) {
                partitions.add_partition(topic, element.partition());
            }
            if paused {
                self.client.pause(&partitions)
            } else {
                self.client.resume(&partitions)
            }
        });
        if let Err(error) = result {
            tracing::warn!(%error, topic, paused, "partitions could not be paused or resumed");
        }
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else {
            return;
        };
        let partitions = partitions(list);
        tracing::info!(
            ?partitions,
            lost = consumer.assignment_lost(),
            "partitions revoked"
        );
        if !consumer.assignment_lost() {
            if !self.tracker.drain(&partitions, REVOKE_TIMEOUT) {
                tracing::warn!(?partitions, "work still in progress on revoked partitions");
            }
            commit(consumer, &self.tracker, Some(&partitions), CommitMode::Sync);
        }
        self.tracker.forget(&partitions);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.metrics.rebalances.inc();
        self.assignment_changed.store(true, Ordering::Relaxed);
        match rebalance {
            Rebalance::Assign(list) => {
                tracing::info!(partitions = ?partitions(list), "partitions assigned");
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
        if let Ok(assignment) = consumer.assignment() {
            let partitions = partitions(&assignment);
            let numbers = partitions.into_iter().map(|(_, partition)| partition);
            self.metrics.set_assigned(&self.topic, numbers.collect());
        }
    }

    fn commit_callback(
        &self,
        result: rdkafka::error::KafkaResult<()>,
        offsets: &TopicPartitionList,
    ) {
        self.commit.answered();
        match result {
            Ok(()) => {
                for element in offsets.elements() {
                    if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                        let partition = (element.topic().to_owned(), element.partition());
                        self.tracker.committed(&partition, offset);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "commit failed, will retry"),
        }
    }
}

/// Commits the offsets of the consumer's topic, for all its partitions or `only` for some. A regular
/// (`Async`) commit waits for the answer to the one before. The next commit repeats one that failed.
fn commit(
    consumer: &BaseConsumer<Context>,
    tracker: &Tracker,
    only: Option<&[TopicPartition]>,
    mode: CommitMode,
) {
    let context = consumer.context();
    let is_regular = matches!(mode, CommitMode::Async);
    if is_regular && context.commit.is_waiting(Instant::now()) {
        return;
    }
    let mut offsets = TopicPartitionList::new();
    for (partition, offset) in tracker.uncommitted() {
        let is_own = partition.0 == context.topic;
        if is_own && only.is_none_or(|only| only.contains(&partition)) {
            let (topic, partition) = partition;
            // Fails only for a duplicate, which a new list cannot have.
            let _ = offsets.add_partition_offset(&topic, partition, Offset::Offset(offset));
        }
    }
    if offsets.count() == 0 {
        return;
    }
    if is_regular {
        context.commit.sent(Instant::now());
    }
    if let Err(error) = consumer.commit(&offsets, mode) {
        context.commit.answered();
        tracing::warn!(%error, "commit failed, will retry");
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| (element.topic().to_owned(), element.partition()))
        .collect()
}

/// Fails for errors that are permanent. From others librdkafka recovers by itself.
fn check(error: &KafkaError) -> Result<(), Failure> {
    let code = error.rdkafka_error_code();
    let refused = matches!(
        code,
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::InconsistentGroupProtocol
        )
    );
    if refused {
        return Err(Failure::fatal(
            Stage::Intake,
            Reason::KafkaRefused,
            format!("{error} ({code:?})"),
        ));
    }
    tracing::warn!(%error, "Kafka client error");
    Ok(())
}
