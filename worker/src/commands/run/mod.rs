//! The `run` command: ingests documents from Kafka until a shutdown. This module starts and stops
//! the worker; [`dispatch`] processes messages.

mod bucket;
mod dispatch;
mod faults;
mod in_flight;
mod polling;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;

use crate::assembly::Common;
use crate::kafka::committed::Committed;
use crate::kafka::consumer::{Delivery, Intake};
use crate::kafka::outbox::Outbox;
use crate::kafka::read_ahead::ReadAhead;
use crate::kafka::turns::Limits;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::server;
use crate::stores::progress::Progress;
use dispatch::Dispatcher;
use in_flight::InFlight;
use polling::Polling;

/// Documents and page ranges in progress at the same time. Renderers, memory and the model have
/// limits of their own; `each`, of one knowledge base, keeps them busy when documents are short. One
/// more place lets a document of another knowledge base start at once. Page ranges leave places for
/// whole documents.
const IN_PROGRESS: Limits = Limits {
    all: 9,
    each: 8,
    ranges: 6,
};
/// Part of the grace period that is reserved for releasing work, committing and leaving the group.
const LEAVE_MARGIN: Duration = Duration::from_secs(20);
/// Longest wait for updates of the progress display at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker exits with work unfinished this long before the end of its grace period: it gives its
/// claims back first.
const EXIT_MARGIN: Duration = Duration::from_secs(4);

/// Runs until `common.stop` is cancelled and the documents in progress are finished, or until a
/// fatal failure.
///
/// During a shutdown, work continues for most of `grace`. Unfinished work is then released, and its
/// stored pages are kept. Requests are not interrupted: if a server or the group does not respond,
/// the worker exits shortly before the end of `grace` and logs the reason. Other workers then
/// continue its work, as after a crash, but no document comes under suspicion.
///
/// `serves_faults`: see [`faults`].
pub(crate) async fn run(
    common: Common,
    listen: SocketAddr,
    grace: Duration,
    serves_faults: bool,
) -> Result<(), Failure> {
    let more = if serves_faults {
        tracing::warn!("faults are served: this worker is one of a validation");
        faults::router(common.paths.cache.clone())
    } else {
        Router::new()
    };
    let server = server::serve(
        listen,
        Arc::clone(&common.health),
        Arc::clone(&common.metrics),
        Arc::clone(&common.quotas),
        more,
    );
    let dispatcher = OnceLock::new();
    tokio::select! {
        result = server => {
            let problem = result.err().map(|error| error.to_string());
            let problem = problem.unwrap_or_else(|| "the server stopped unexpectedly".to_owned());
            Err(Failure::fatal(Stage::Intake, Reason::HttpServer, format!("{listen}: {problem}")))
        }
        result = work(&common, &dispatcher, grace) => match result {
            // The shutdown came before everything was connected.
            Err(failure) if failure.class == Class::Stopped => Ok(()),
            result => result,
        },
        () = deadline(&common, &dispatcher, grace) => Ok(()),
    }
}

/// Returns when the worker must exit. The attempts of unfinished work do not count.
async fn deadline(common: &Common, dispatcher: &OnceLock<Arc<Dispatcher>>, grace: Duration) {
    common.stop.cancelled().await;
    tokio::time::sleep(grace.saturating_sub(EXIT_MARGIN).max(grace / 2)).await;
    tracing::warn!(
        documents = common.metrics.in_progress(),
        retries = ?common.health.retries(),
        "shutdown deadline reached, exiting with work unfinished"
    );
    if let Some(dispatcher) = dispatcher.get() {
        dispatcher.pipeline.give_back_claims().await;
    }
}

async fn work(
    common: &Common,
    started: &OnceLock<Arc<Dispatcher>>,
    grace: Duration,
) -> Result<(), Failure> {
    let outbox = Outbox::new(&common.settings)?;
    let progress = progress(common)?;
    let dispatcher = Arc::new(Dispatcher {
        common: common.clone(),
        pipeline: common.pipeline().await?,
        outbox,
        progress,
    });
    let dispatcher = started.get_or_init(|| dispatcher);
    let committed = Committed::new(&common.settings)?;
    let rechecks = {
        let dispatcher = Arc::clone(dispatcher);
        tokio::spawn(async move {
            let Dispatcher {
                pipeline, outbox, ..
            } = dispatcher.as_ref();
            pipeline.recheck_all(outbox, &committed).await;
        })
    };
    let _rechecks = tokio_util::task::AbortOnDropHandle::new(rechecks);
    dispatcher.pipeline.load_usage().await;
    let quotas = {
        let dispatcher = Arc::clone(dispatcher);
        tokio::spawn(async move { dispatcher.pipeline.watch_quotas().await })
    };
    let _quotas = tokio_util::task::AbortOnDropHandle::new(quotas);
    let indexes = {
        let dispatcher = Arc::clone(dispatcher);
        let manage = common.settings.config.stores.mongodb.manage_indexes;
        tokio::spawn(async move { dispatcher.pipeline.watch_indexes(manage).await })
    };
    let _indexes = tokio_util::task::AbortOnDropHandle::new(indexes);
    let models = {
        let dispatcher = Arc::clone(dispatcher);
        tokio::spawn(async move { dispatcher.pipeline.watch_models().await })
    };
    let _models = tokio_util::task::AbortOnDropHandle::new(models);

    let read_ahead = Arc::new(ReadAhead::new(IN_PROGRESS));
    let intake = subscribe(common, &read_ahead)?;
    // Ends the poll loop, on a signal or after a fatal failure.
    let shutdown = common.stop.child_token();
    let polling = Polling::start(intake, shutdown.clone());
    let mut in_flight = InFlight::new(common.quotas.held(), common.quotas.waiting());
    let process = |delivery, cancel_all| {
        let dispatcher = Arc::clone(dispatcher);
        async move { in_flight::process(&dispatcher, delivery, &cancel_all).await }
    };
    let outcome = in_flight.process_all(&read_ahead, &shutdown, drain_time(grace), process);
    let outcome = outcome.await;
    // Claims of work that did not end in time, or that could not be released.
    dispatcher.pipeline.give_back_claims().await;
    drop(in_flight);
    shutdown.cancel();
    let ended = polling.ended().await;
    dispatcher.progress.flush(FLUSH_TIMEOUT).await;
    outcome.and(ended)
}

fn subscribe(common: &Common, read_ahead: &Arc<ReadAhead<Delivery>>) -> Result<Intake, Failure> {
    let name = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let intake = Intake::subscribe(
        &common.settings,
        name.as_deref(),
        read_ahead,
        Arc::clone(&common.health),
        Arc::clone(&common.metrics),
        Arc::clone(&common.quotas),
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

fn progress(common: &Common) -> Result<Progress, Failure> {
    let secrets = &common.settings.secrets;
    match &secrets.redis_uri {
        Some(uri) => Progress::new(uri, secrets.authorities.redis.as_deref()),
        None => Ok(Progress::none()),
    }
}

/// The part of the grace period in which work continues: at least half of it.
fn drain_time(grace: Duration) -> Duration {
    grace.saturating_sub(LEAVE_MARGIN).max(grace / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So the definition needs no rule against short periods.
    #[test]
    fn a_short_grace_period_leaves_half_of_it_for_work() {
        let seconds = |grace| drain_time(Duration::from_secs(grace)).as_secs();
        assert_eq!([5, 20, 40, 120].map(seconds), [2, 10, 20, 100]);
    }
}
