//! The poll loop: receives messages, commits offsets and handles rebalances, on its own thread.
//! Work never blocks it.
//!
//! Tasks and page ranges have a consumer each, both members of the same group. The assignor
//! balances the number of partitions regardless of their topics: with one consumer for both topics,
//! a worker would often get only partitions of the topic without backlog.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedMessage};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::document::bucket::Bucket;
use crate::kafka::client::{consumer_config, describe_error};
use crate::kafka::read_ahead::{ReadAhead, bytes_of, is_full, owner_and_kind};
use crate::kafka::tracker::{Ticket, TopicPartition, Tracker};
use crate::kafka::turns::Waiting;
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

/// The consumers of tasks and page ranges, and their messages that are not settled.
pub(crate) struct Intake {
    tracker: Arc<Tracker>,
    read_ahead: Arc<ReadAhead<Delivery>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    quotas: Arc<Quotas>,
    /// Of a pipeline whose messages are its notifications.
    bucket: Option<Bucket>,
    consumers: [TopicConsumer; 2],
}

/// The consumer of one topic. Each of its partitions is read ahead up to a limit, so that none keeps
/// the messages of another from being read.
struct TopicConsumer {
    client: BaseConsumer<Context>,
    topic: String,
    /// Messages of a partition that may wait.
    limit: usize,
    /// Page ranges belong to documents that were begun: no quota of the pipeline holds them up.
    is_of_ranges: bool,
    paused: Mutex<BTreeSet<i32>>,
}

struct Context {
    topic: String,
    tracker: Arc<Tracker>,
    read_ahead: Arc<ReadAhead<Delivery>>,
    metrics: Arc<Metrics>,
    assigned: Mutex<BTreeSet<i32>>,
    assignment_changed: AtomicBool,
    commit: Unanswered,
}

impl Intake {
    /// Subscribes to tasks and page ranges. Messages that were read wait in `read_ahead`.
    pub(crate) fn subscribe(
        settings: &Settings,
        name: Option<&str>,
        read_ahead: &Arc<ReadAhead<Delivery>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        quotas: Arc<Quotas>,
    ) -> Result<Self, Failure> {
        let kafka = &settings.config.source.kafka;
        let tracker = Arc::new(Tracker::default());
        let limit = usize::try_from(kafka.read_ahead_tasks()).unwrap_or(usize::MAX);
        let consumer = |topic: String| -> Result<TopicConsumer, KafkaError> {
            let context = Context {
                topic: topic.clone(),
                tracker: Arc::clone(&tracker),
                read_ahead: Arc::clone(read_ahead),
                metrics: Arc::clone(&metrics),
                assigned: Mutex::default(),
                assignment_changed: AtomicBool::new(false),
                commit: Unanswered::default(),
            };
            let client: BaseConsumer<Context> =
                consumer_config(settings, name).create_with_context(context)?;
            client.subscribe(&[&topic])?;
            Ok(TopicConsumer {
                client,
                limit,
                is_of_ranges: topic != kafka.topic,
                topic,
                paused: Mutex::default(),
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
            consumer(kafka.topic.clone()).map_err(invalid)?,
            consumer(kafka.ranges_topic()).map_err(invalid)?,
        ];
        health.consumer_running(true);
        Ok(Self {
            tracker,
            read_ahead: Arc::clone(read_ahead),
            health,
            metrics,
            quotas,
            bucket: Bucket::of(&settings.config),
            consumers,
        })
    }

    /// Receives messages until `stop` is cancelled. Then waits until the messages in progress are
    /// settled or released, commits and leaves the group.
    pub(crate) fn run(&self, stop: &CancellationToken) -> Result<(), Failure> {
        let mut last_commit = Instant::now();
        let mut last_loop = Instant::now();
        loop {
            self.health.polled(Instant::now());
            let waiting = self.read_ahead.len();
            let unsettled = self.tracker.in_flight();
            let in_progress = unsettled.saturating_sub(waiting);
            if in_progress > 0 && self.health.waiting_for().is_empty() {
                let busy = last_loop.elapsed().as_secs_f64();
                self.metrics.busy_seconds.inc_by(busy);
            }
            last_loop = Instant::now();
            self.metrics.set_messages(in_progress, waiting);
            if stop.is_cancelled() && unsettled == 0 {
                break;
            }
            for consumer in &self.consumers {
                let held = !consumer.is_of_ranges && self.quotas.is_held();
                consumer.pause_where_full(&self.read_ahead, held || stop.is_cancelled());
            }
            if !self.poll(Duration::ZERO)? {
                self.poll(POLL / 2)?;
            }
            if last_commit.elapsed() >= COMMIT_INTERVAL {
                self.commit(CommitMode::Async);
                let ahead = self.tracker.processed_ahead();
                self.metrics.set_processed_ahead(ahead);
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
    fn poll(&self, wait: Duration) -> Result<bool, Failure> {
        let mut found = false;
        for consumer in &self.consumers {
            match consumer.client.poll(wait) {
                None => continue,
                Some(Err(error)) => check(&error)?,
                Some(Ok(message)) => self.take(&message, consumer.is_of_ranges),
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

    fn take(&self, message: &BorrowedMessage<'_>, is_range: bool) {
        let partition = (message.topic().to_owned(), message.partition());
        let ticket = self.tracker.take(partition.clone(), message.offset());
        let message = message.detach();
        let payload = message.payload().unwrap_or_default();
        let (owner, kind) = owner_and_kind(&partition, is_range, self.bucket.as_ref(), payload);
        let bytes = bytes_of(&message);
        self.read_ahead.add(Waiting {
            message: Delivery { message, ticket },
            partition,
            owner,
            kind,
            bytes,
        });
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

    /// Pauses the partitions of which enough messages wait, or `all`, and resumes the others.
    fn pause_where_full(&self, read_ahead: &ReadAhead<Delivery>, all: bool) {
        let context = self.client.context();
        let has_changed = context.assignment_changed.swap(false, Ordering::Relaxed);
        let assigned = lock(&context.assigned).clone();
        let loads = read_ahead.loads(&self.topic);
        let mut paused = lock(&self.paused);
        let is_wanted = |partition: &i32| {
            let load = loads.get(partition).copied().unwrap_or_default();
            let is_paused = paused.contains(partition);
            all || is_full(load, self.limit, assigned.len(), is_paused)
        };
        let (wanted, others): (BTreeSet<i32>, BTreeSet<i32>) =
            assigned.iter().copied().partition(is_wanted);
        if has_changed {
            // Whether a partition is paused may be of an earlier assignment.
            self.pause(&wanted);
            self.resume(&others);
        } else {
            self.pause(&(&wanted - &*paused));
            self.resume(&(&others & &*paused));
        }
        *paused = wanted;
    }

    fn pause(&self, partitions: &BTreeSet<i32>) {
        if !partitions.is_empty()
            && let Err(error) = self.client.pause(&self.list(partitions))
        {
            tracing::warn!(%error, topic = self.topic, ?partitions, "partitions could not be paused");
        }
    }

    fn resume(&self, partitions: &BTreeSet<i32>) {
        if !partitions.is_empty()
            && let Err(error) = self.client.resume(&self.list(partitions))
        {
            tracing::warn!(%error, topic = self.topic, ?partitions, "partitions could not be resumed");
        }
    }

    fn list(&self, partitions: &BTreeSet<i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
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
        // What was not started is left to the next worker at once.
        self.read_ahead.revoke(&partitions);
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
            let partitions = partitions(&assignment).into_iter();
            let numbers: BTreeSet<i32> = partitions.map(|(_, partition)| partition).collect();
            self.metrics
                .set_assigned(&self.topic, numbers.iter().copied().collect());
            *lock(&self.assigned) = numbers;
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

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
