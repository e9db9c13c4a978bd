//! Processes messages concurrently. Each message is settled, or released when the worker shuts down
//! or its partition is revoked. The poll loop commits the offsets of settled messages.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::dispatch::Dispatcher;
use crate::document::trace_context;
use crate::kafka::consumer::Delivery;
use crate::kafka::read_ahead::ReadAhead;
use crate::kafka::turns::Now;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::traces::{self, Received, Trace};
use crate::runtime::{span, work};

/// How long messages may take to be released before the worker exits for a fatal reason.
const CALL_OFF_WAIT: Duration = Duration::from_secs(10);

/// The messages in progress, each in its own task.
pub(super) struct InFlight {
    tasks: JoinSet<Result<(), Failure>>,
    /// Whether a quota of the pipeline is reached.
    held: watch::Receiver<bool>,
    /// The messages in progress that wait for such a quota. Others start in their place: page ranges
    /// of documents that were begun, and deletions.
    waiting: watch::Receiver<usize>,
    /// Cancelled to call all of them off.
    cancel_all: CancellationToken,
}

impl InFlight {
    pub(super) fn new(held: watch::Receiver<bool>, waiting: watch::Receiver<usize>) -> Self {
        Self {
            tasks: JoinSet::new(),
            held,
            waiting,
            cancel_all: CancellationToken::new(),
        }
    }

    /// Processes the messages that wait, with `process`. Once `shutdown` is cancelled, no further
    /// message is started, and messages that take longer than `drain_timeout` are released. Returns
    /// the first fatal failure; all other messages were released by then, or are dropped with this.
    pub(super) async fn process_all<D, Processed>(
        &mut self,
        read_ahead: &Arc<ReadAhead<D>>,
        shutdown: &CancellationToken,
        drain_timeout: Duration,
        process: impl Fn(D, CancellationToken) -> Processed,
    ) -> Result<(), Failure>
    where
        D: Send + 'static,
        Processed: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let received = self.receive(read_ahead, shutdown, process).await;
        // Releases the messages that were not started.
        read_ahead.close();
        let ended = match received {
            Ok(()) => self.drain(drain_timeout).await,
            fatal => fatal,
        };
        if ended.is_err() {
            self.call_off().await;
        }
        ended
    }

    async fn receive<D, Processed>(
        &mut self,
        read_ahead: &Arc<ReadAhead<D>>,
        shutdown: &CancellationToken,
        process: impl Fn(D, CancellationToken) -> Processed,
    ) -> Result<(), Failure>
    where
        D: Send + 'static,
        Processed: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        loop {
            let now = Now {
                held: *self.held.borrow_and_update(),
                waiting: *self.waiting.borrow_and_update(),
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Ok(()) = self.held.changed() => {}
                Ok(()) = self.waiting.changed() => {}
                Some(result) = self.tasks.join_next() => check_ended(result)?,
                (message, begun) = read_ahead.next(now) => {
                    let work = process(message, self.cancel_all.clone());
                    self.tasks.spawn(async move {
                        let _begun = begun;
                        work.await
                    });
                }
            }
        }
    }

    async fn drain(&mut self, timeout: Duration) -> Result<(), Failure> {
        tracing::info!(
            documents = self.tasks.len(),
            "draining, waiting for documents in progress"
        );
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                result = self.tasks.join_next() => match result {
                    Some(result) => check_ended(result)?,
                    None => return Ok(()),
                },
                () = &mut deadline, if !self.cancel_all.is_cancelled() => self.cancel_all.cancel(),
            }
        }
    }

    /// Calls off all messages, because the worker ends for a fatal reason, and waits shortly until
    /// they are released: one document's failure must not count against others.
    async fn call_off(&mut self) {
        tracing::warn!(
            documents = self.tasks.len(),
            "fatal failure, releasing the other documents in progress"
        );
        self.cancel_all.cancel();
        let released = async {
            while let Some(result) = self.tasks.join_next().await {
                if let Err(failure) = check_ended(result) {
                    tracing::warn!(%failure, "a further fatal failure");
                }
            }
        };
        if tokio::time::timeout(CALL_OFF_WAIT, released).await.is_err() {
            tracing::warn!(
                documents = self.tasks.len(),
                "documents are still in progress"
            );
        }
    }
}

/// Processes one message until it is settled or released. Cancelling `cancel_all` releases it. An
/// error is fatal.
pub(super) async fn process(
    dispatcher: &Dispatcher,
    delivery: Delivery,
    cancel_all: &CancellationToken,
) -> Result<(), Failure> {
    let Delivery { message, ticket } = delivery;
    let cancel = ticket.cancel().child_token();
    let _cancel_with_all = {
        let (cancel, cancel_all) = (cancel.clone(), cancel_all.clone());
        let watch = tokio::spawn(async move {
            cancel_all.cancelled().await;
            cancel.cancel();
        });
        tokio_util::task::AbortOnDropHandle::new(watch)
    };
    if cancel.is_cancelled() {
        // Its partition was revoked before the message was started.
        return Ok(());
    }
    let (topic, partition) = ticket.partition();
    let trace = trace_of(&message);
    let span = span::of_message(topic, *partition, ticket.offset(), &trace);
    let process = async {
        let working = dispatcher.common.health.working(Instant::now());
        let work = std::sync::Arc::clone(&working.work);
        let result = work::process(work, Box::pin(dispatcher.message(&message, &cancel))).await;
        let metrics = &dispatcher.common.metrics;
        metrics.record_work_time(working.work.worked(Instant::now()));
        match result {
            Ok(()) => {
                ticket.done();
                Ok(())
            }
            Err(failure)
                if matches!(
                    failure.class,
                    Class::Stopped | Class::Superseded | Class::Deleted
                ) =>
            {
                tracing::info!("message released, will be redelivered");
                traces::describe("released", true);
                Ok(())
            }
            Err(failure) => {
                traces::failed(failure.reason.as_str());
                Err(failure)
            }
        }
    };
    let result = trace.run(process.instrument(span)).await;
    trace.end();
    result
}

/// Begins the span of a message, below that of its sender.
fn trace_of(message: &OwnedMessage) -> Trace {
    let written = message.timestamp().to_millis();
    let written = written.and_then(|millis| u64::try_from(millis).ok());
    let received = Received {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        written: written.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
    };
    traces::message(&trace_context::of(message.headers()), received)
}

fn check_ended(result: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    result.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, Reason::WorkerDied, error)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::kafka::turns::{Kind, Limits, Owner, Waiting};

    const PLACES: usize = 8;

    /// Tasks of one knowledge base.
    fn tasks(count: usize) -> Arc<ReadAhead<usize>> {
        let limits = Limits {
            all: PLACES,
            each: PLACES,
            ranges: PLACES,
        };
        let read_ahead = ReadAhead::new(limits);
        for message in 0..count {
            read_ahead.add(Waiting {
                message,
                partition: ("tasks".to_owned(), 0),
                owner: Owner::KnowledgeBase("kb".to_owned()),
                kind: Kind::Task,
                bytes: 1,
            });
        }
        Arc::new(read_ahead)
    }

    fn in_flight(waiting: &watch::Sender<usize>) -> InFlight {
        InFlight::new(watch::Sender::new(false).subscribe(), waiting.subscribe())
    }

    fn fatal() -> Failure {
        Failure::fatal(Stage::DeadLetter, Reason::KafkaForbidden, "no access")
    }

    #[tokio::test]
    async fn a_fatal_failure_releases_every_other_message_before_the_worker_ends() {
        let read_ahead = tasks(PLACES);
        let released = Arc::new(AtomicU32::new(0));
        let mut in_flight = in_flight(&watch::Sender::new(0));
        let count = Arc::clone(&released);
        let process = move |number, cancel: CancellationToken| {
            let count = Arc::clone(&count);
            async move {
                if number == 3 {
                    return Err(fatal());
                }
                cancel.cancelled().await;
                // Giving a claim back takes a while.
                tokio::time::sleep(Duration::from_millis(20)).await;
                count.fetch_add(1, Ordering::Relaxed);
                if number == 4 { Err(fatal()) } else { Ok(()) }
            }
        };
        let shutdown = CancellationToken::new();
        let minute = Duration::from_mins(1);
        let ended = in_flight.process_all(&read_ahead, &shutdown, minute, process);
        assert_eq!(ended.await, Err(fatal()));
        let others = u32::try_from(PLACES).unwrap() - 1;
        assert_eq!(released.load(Ordering::Relaxed), others);
    }

    #[tokio::test]
    async fn messages_that_wait_for_a_quota_are_in_no_others_way() {
        let last = 2 * PLACES;
        let read_ahead = tasks(last + 1);
        let waiting = watch::Sender::new(0);
        let mut in_flight = in_flight(&waiting);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let process = move |number, cancel: CancellationToken| {
            let (stop, waiting) = (stop.clone(), waiting.clone());
            async move {
                if number == last {
                    stop.cancel();
                } else {
                    waiting.send_modify(|count| *count += 1);
                    cancel.cancelled().await;
                }
                Ok(())
            }
        };
        let moment = Duration::from_millis(20);
        let ended = in_flight.process_all(&read_ahead, &shutdown, moment, process);
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        assert_eq!(ended, Ok(Ok(())));
    }

    #[tokio::test]
    async fn messages_that_take_longer_than_the_shutdown_are_called_off() {
        let read_ahead = tasks(1);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let process = move |_, cancel: CancellationToken| {
            stop.cancel();
            async move {
                cancel.cancelled().await;
                Ok(())
            }
        };
        let mut in_flight = in_flight(&watch::Sender::new(0));
        let timeout = Duration::from_millis(20);
        let ended = in_flight.process_all(&read_ahead, &shutdown, timeout, process);
        assert_eq!(ended.await, Ok(()));
    }
}
