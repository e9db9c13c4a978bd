//! The `run` command: documents from Kafka into the stores, until told to stop. Here a worker starts
//! and ends; what it does with a message is in [`dispatch`].

mod dispatch;
mod in_flight;
mod polling;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::assembly::Common;
use crate::kafka::consumer::Intake;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::{Class, Failure, Stage};
use crate::runtime::server;
use crate::stores::progress::Progress;
use dispatch::Dispatcher;
use polling::Polling;

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
    let dispatcher = Arc::new(Dispatcher {
        common: common.clone(),
        pipeline: common.pipeline().await?,
        outbox,
        progress,
    });
    let rechecks = {
        let dispatcher = Arc::clone(&dispatcher);
        tokio::spawn(async move {
            let Dispatcher {
                pipeline, outbox, ..
            } = dispatcher.as_ref();
            pipeline.recheck_all(outbox).await;
        })
    };
    let _rechecks = tokio_util::task::AbortOnDropHandle::new(rechecks);

    let intake = subscribe(common)?;
    // Ends the poll loop, on request or after a fatal failure.
    let leave = common.stop.child_token();
    let (polling, deliveries) = Polling::start(intake, leave.clone());
    let patience = grace.saturating_sub(TO_LEAVE).max(grace / 2);
    let outcome = in_flight::work_all(&dispatcher, deliveries, &leave, patience).await;
    leave.cancel();
    outcome.and(polling.ended().await)
}

fn subscribe(common: &Common) -> Result<Intake, Failure> {
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
    Ok(intake)
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
