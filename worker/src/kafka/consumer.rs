//! The poll loop: a thread of its own that takes messages, commits what is done and answers
//! rebalances, and is never held up by work.
//!
//! Tasks and ranges have a consumer each, both members of the one group. The assignor shares out
//! partitions by their number, whatever their topic: a worker with one consumer for both would
//! often get nothing but partitions of the topic in which nothing waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedMessage};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::kafka::client::{consumer_config, in_words};
use crate::kafka::tracker::{Place, Ticket, Tracker};
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::settings::Settings;

/// Longest wait for messages; also how late a finished document can resume the partitions.
const POLL: Duration = Duration::from_millis(50);
/// How often finished work is committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a partition that moves waits for its documents, and once more after they are called
/// off. The group waits for this worker meanwhile.
const REVOKE_PATIENCE: Duration = Duration::from_secs(10);

/// A message to work on.
#[derive(Debug)]
pub struct Delivery {
    /// The message, as it came.
    pub message: OwnedMessage,
    /// Ends the work on it.
    pub ticket: Ticket,
}

/// Consumers that have subscribed.
pub struct Intake {
    tracker: Arc<Tracker>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    lanes: [Lane; 2],
}

/// A topic with its consumer, and the number of its messages that are taken and not finished at a
/// time: the ranges of a long document never keep short ones waiting in Kafka.
struct Lane {
    consumer: BaseConsumer<Context>,
    topic: String,
    limit: usize,
    paused: AtomicBool,
}

struct Context {
    topic: String,
    tracker: Arc<Tracker>,
    metrics: Arc<Metrics>,
    assignment_changed: AtomicBool,
}

impl Intake {
    /// Subscribes to tasks and to ranges of pages. At most so many of `tasks` and `ranges` are
    /// taken and not finished at a time.
    pub fn subscribe(
        settings: &Settings,
        name: Option<&str>,
        tasks: usize,
        ranges: usize,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let kafka = &settings.config.source.kafka;
        let tracker = Arc::new(Tracker::default());
        let lane = |topic: String, limit| -> Result<Lane, KafkaError> {
            let context = Context {
                topic: topic.clone(),
                tracker: Arc::clone(&tracker),
                metrics: Arc::clone(&metrics),
                assignment_changed: AtomicBool::new(false),
            };
            let consumer: BaseConsumer<Context> =
                consumer_config(settings, name).create_with_context(context)?;
            consumer.subscribe(&[&topic])?;
            Ok(Lane {
                consumer,
                topic,
                limit,
                paused: AtomicBool::new(false),
            })
        };
        let invalid = |error: KafkaError| {
            Failure::fatal(Stage::Intake, "InvalidKafkaConfig", in_words(&error))
        };
        let lanes = [
            lane(kafka.topic.clone(), tasks).map_err(invalid)?,
            lane(kafka.ranges_topic(), ranges).map_err(invalid)?,
        ];
        health.consumer_running(true);
        Ok(Self {
            tracker,
            health,
            metrics,
            lanes,
        })
    }

    /// Takes messages until `stop`; then waits until those that were taken are finished or given
    /// back, commits and leaves.
    pub fn run(
        &self,
        deliveries: &mpsc::UnboundedSender<Delivery>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut last_commit = Instant::now();
        let mut last_turn = Instant::now();
        loop {
            self.health.polled(Instant::now());
            let in_flight = self.tracker.in_flight();
            if in_flight > 0 {
                let busy = last_turn.elapsed().as_secs_f64();
                self.metrics.busy_seconds.inc_by(busy);
            }
            last_turn = Instant::now();
            self.metrics
                .documents_in_flight
                .set(i64::try_from(in_flight).unwrap_or(i64::MAX));
            if stop.is_cancelled() && in_flight == 0 {
                break;
            }
            for lane in &self.lanes {
                let context = lane.consumer.context();
                let changed = context.assignment_changed.swap(false, Ordering::Relaxed);
                let full = self.tracker.in_flight_of(&lane.topic) >= lane.limit;
                let pause = full || stop.is_cancelled();
                if lane.paused.swap(pause, Ordering::Relaxed) != pause || changed {
                    lane.set_paused(pause);
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
        tracing::info!("everything that was done is committed");
        Ok(())
    }

    /// Takes a message of each topic that has one within `wait`. Returns whether one had.
    ///
    /// Every message is entered into the tracker, one that comes while the worker leaves too: it
    /// lies below the consumer's position, and what nobody has entered there counts as no message.
    fn poll(
        &self,
        wait: Duration,
        deliveries: &mpsc::UnboundedSender<Delivery>,
    ) -> Result<bool, Failure> {
        let mut found = false;
        for lane in &self.lanes {
            match lane.consumer.poll(wait) {
                None => continue,
                Some(Err(error)) => judge(&error)?,
                Some(Ok(message)) => self.take(&message, deliveries),
            }
            found = true;
        }
        Ok(found)
    }

    fn commit(&self, mode: CommitMode) {
        for lane in &self.lanes {
            lane.note_positions(&self.tracker);
            commit(&lane.consumer, &self.tracker, None, mode);
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>, deliveries: &mpsc::UnboundedSender<Delivery>) {
        let place = (message.topic().to_owned(), message.partition());
        let ticket = self.tracker.take(place, message.offset());
        let delivery = Delivery {
            message: message.detach(),
            ticket,
        };
        // Without a receiver the delivery is dropped, which gives the message back.
        let _ = deliveries.send(delivery);
    }
}

impl Lane {
    /// The consumer's position also passes what it never hands out: the markers that end
    /// transactions, and records of aborted ones. Where nothing is in flight they are done too;
    /// without this one of them would look like a task for ever.
    fn note_positions(&self, tracker: &Tracker) {
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        for element in positions.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let place = (element.topic().to_owned(), element.partition());
                tracker.reached(&place, offset);
            }
        }
    }

    fn set_paused(&self, paused: bool) {
        let topic = self.topic.as_str();
        let result = self.consumer.assignment().and_then(|assignment| {
            let mut partitions = TopicPartitionList::new();
            for element in assignment.elements_for_topic(topic) {
                partitions.add_partition(topic, element.partition());
            }
            if paused {
                self.consumer.pause(&partitions)
            } else {
                self.consumer.resume(&partitions)
            }
        });
        if let Err(error) = result {
            tracing::warn!(%error, topic, paused, "partitions cannot be paused or resumed");
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
            "partitions are leaving"
        );
        if !consumer.assignment_lost() {
            if !self.tracker.wind_up(&partitions, REVOKE_PATIENCE) {
                tracing::warn!(?partitions, "work goes on for partitions that have left");
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
                tracing::info!(partitions = ?partitions(list), "partitions have come");
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "the rebalance failed"),
        }
        if let Ok(assignment) = consumer.assignment() {
            let places = partitions(&assignment);
            let numbers = places.into_iter().map(|(_, partition)| partition);
            self.metrics.assigned(&self.topic, numbers.collect());
        }
    }

    fn commit_callback(
        &self,
        result: rdkafka::error::KafkaResult<()>,
        offsets: &TopicPartitionList,
    ) {
        match result {
            Ok(()) => {
                for element in offsets.elements() {
                    if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                        let place = (element.topic().to_owned(), element.partition());
                        self.tracker.committed(&place, offset);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "a commit failed and will be repeated"),
        }
    }
}

/// Commits what is done of the consumer's topic, in all its partitions or in `only` some. A commit that
/// fails is repeated with the next one.
fn commit(
    consumer: &BaseConsumer<Context>,
    tracker: &Tracker,
    only: Option<&[Place]>,
    mode: CommitMode,
) {
    let mut offsets = TopicPartitionList::new();
    for (place, offset) in tracker.uncommitted() {
        let own = place.0 == consumer.context().topic;
        if own && only.is_none_or(|only| only.contains(&place)) {
            let (topic, partition) = place;
            // The list is new: a partition cannot be in it twice.
            let _ = offsets.add_partition_offset(&topic, partition, Offset::Offset(offset));
        }
    }
    if offsets.count() > 0
        && let Err(error) = consumer.commit(&offsets, mode)
    {
        tracing::warn!(%error, "a commit failed and will be repeated");
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<Place> {
    list.elements()
        .iter()
        .map(|element| (element.topic().to_owned(), element.partition()))
        .collect()
}

/// Most errors go away by themselves; librdkafka reconnects. Some cannot.
fn judge(error: &KafkaError) -> Result<(), Failure> {
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
            "KafkaRefused",
            format!("{error} ({code:?})"),
        ));
    }
    tracing::warn!(%error, "Kafka");
    Ok(())
}
