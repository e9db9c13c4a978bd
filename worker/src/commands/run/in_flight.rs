//! The messages that are worked on at the same time: each is dealt with, or given back when the
//! worker leaves or its partition moves. Nothing is committed here; a ticket that is done says that
//! it may be.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::WORK_AT_ONCE;
use super::dispatch::Dispatcher;
use crate::kafka::consumer::Delivery;
use crate::runtime::failure::{Class, Failure, Stage};

/// Works on messages as they come. Once `leave` is cancelled nothing new is begun, and work that
/// takes longer than `patience` from then on is given back. Returns the first fatal failure.
pub(super) async fn work_all(
    dispatcher: &Arc<Dispatcher>,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    leave: &CancellationToken,
    patience: Duration,
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
                    let (dispatcher, call_off) = (Arc::clone(dispatcher), call_off.clone());
                    working.spawn(async move { work(&dispatcher, delivery, &call_off).await });
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
    let deadline = tokio::time::sleep(patience);
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
async fn work(
    dispatcher: &Dispatcher,
    delivery: Delivery,
    call_off: &CancellationToken,
) -> Result<(), Failure> {
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
        let result = dispatcher.message(&message, &cancel).await;
        dispatcher.common.metrics.worked_for(began.elapsed());
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
                tracing::info!("the message is given back");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
    .instrument(span)
    .await
}

fn finished(result: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    result.unwrap_or_else(|error| Err(Failure::fatal(Stage::Intake, "WorkerDied", error)))
}
