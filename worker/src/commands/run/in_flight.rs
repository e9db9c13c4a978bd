//! Processes messages concurrently. Each message is settled, or released when the worker shuts down
//! or its partition is revoked. The poll loop commits the offsets of settled messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::MAX_IN_PROGRESS;
use super::dispatch::Dispatcher;
use crate::kafka::consumer::Delivery;
use crate::runtime::failure::{Class, Failure, Reason, Stage};

/// Processes messages as they arrive. Once `shutdown` is cancelled, no further message is started,
/// and messages that take longer than `drain_timeout` are released. Returns the first fatal
/// failure.
pub(super) async fn process_all(
    dispatcher: &Arc<Dispatcher>,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    shutdown: &CancellationToken,
    drain_timeout: Duration,
) -> Result<(), Failure> {
    let cancel_all = CancellationToken::new();
    let mut in_progress = JoinSet::new();
    loop {
        let free = in_progress.len() < MAX_IN_PROGRESS;
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(result) = in_progress.join_next() => check_ended(result)?,
            delivery = deliveries.recv(), if free => match delivery {
                Some(delivery) => {
                    let (dispatcher, cancel_all) = (Arc::clone(dispatcher), cancel_all.clone());
                    in_progress.spawn(async move {
                        process(&dispatcher, delivery, &cancel_all).await
                    });
                }
                None => break,
            },
        }
    }
    tracing::info!(
        documents = in_progress.len(),
        "draining, waiting for documents in progress"
    );
    // Releases the messages that were not started.
    drop(deliveries);
    let deadline = tokio::time::sleep(drain_timeout);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            result = in_progress.join_next() => match result {
                Some(result) => check_ended(result)?,
                None => return Ok(()),
            },
            () = &mut deadline, if !cancel_all.is_cancelled() => cancel_all.cancel(),
        }
    }
}

/// Processes one message until it is settled or released. Cancelling `cancel_all` releases it. An
/// error is fatal.
async fn process(
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
    let span = tracing::info_span!(
        "message",
        topic = ticket.partition().0,
        partition = ticket.partition().1,
        offset = ticket.offset(),
        file = tracing::field::Empty,
        first_page = tracing::field::Empty,
    );
    async {
        let began = std::time::Instant::now();
        let result = dispatcher.message(&message, &cancel).await;
        let metrics = &dispatcher.common.metrics;
        metrics.record_work_time(began.elapsed());
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
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
    .instrument(span)
    .await
}

fn check_ended(result: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    result.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, Reason::WorkerDied, error)))
}
