//! The `check` command: whether a worker can work with its configuration.
//!
//! It makes the same calls as a worker at its start, and finds what an edit of the object or of a
//! Secret can have broken: that for which a worker exits. A server that is away is no error, because
//! workers wait for servers. It takes a second, or [`PATIENCE`] while a server is away, and needs no
//! GPU and no model. The init container `fetch-model` runs it before it fetches anything, so that a
//! rollout stops there.

mod fields;

use std::io::Write;
use std::time::Duration;

use futures::future::join_all;
use layra_crds::{CheckReport, FailedCheck};
use rdkafka::consumer::BaseConsumer;

use crate::assembly::Common;
use crate::cli::WorkerArgs;
use crate::kafka::client::{consumer_config, describe_error};
use crate::model_files;
use crate::program::common;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::settings::{Settings, SettingsError};
use crate::stores::milvus::Vectors;
use crate::stores::mongo::Documents;
use crate::stores::objects::Objects;
use crate::stores::progress;

/// Longest wait for the answer of a server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks the configuration of a worker with these arguments.
pub(crate) async fn check(arguments: WorkerArgs) -> anyhow::Result<CheckReport> {
    if let Err(error) = Settings::load(&arguments.config, &arguments.secrets) {
        return Ok(CheckReport {
            failed_checks: vec![unloadable(&error, &arguments)],
        });
    }
    Ok(check_settings(&common(arguments)?).await)
}

fn unloadable(error: &SettingsError, arguments: &WorkerArgs) -> FailedCheck {
    FailedCheck {
        field: fields::of_settings(error, &arguments.secrets).to_owned(),
        problem: format!("{error}. Correct the field, or the Secret and key that it names"),
    }
}

/// Checks settings that could be loaded.
pub(crate) async fn check_settings(common: &Common) -> CheckReport {
    let settings = &common.settings;
    let servers = [
        tokio::spawn(mongodb(settings.clone())),
        tokio::spawn(objects(settings.clone())),
        tokio::spawn(milvus(settings.clone())),
    ];
    let renderer = async { common.tested_renderer().await.map(drop) };
    let (servers, renderer) = tokio::join!(join_all(servers), renderer);
    let mut results = vec![kafka(settings), redis(settings)];
    // A check that panicked has found nothing: the worker will tell.
    results.extend(servers.into_iter().filter_map(Result::ok));
    results.push(model_files::check_addresses(&settings.config));
    results.push(renderer);
    let failures = results.into_iter().filter_map(Result::err);
    let failed = failures.filter(is_error);
    let config = &settings.config;
    CheckReport {
        failed_checks: failed
            .map(|failure| FailedCheck {
                field: fields::of_failure(&failure, config).to_owned(),
                problem: fields::problem(&failure),
            })
            .collect(),
    }
}

/// Whether a worker would exit for it. What the node lacks is not in the configuration.
fn is_error(failure: &Failure) -> bool {
    failure.class == Class::Fatal && failure.reason != Reason::SandboxUnavailable
}

/// Writes the result for people.
pub(crate) fn write(report: &CheckReport, out: &mut impl Write) -> std::io::Result<()> {
    for FailedCheck { field, problem } in &report.failed_checks {
        writeln!(out, "{field}: {problem}")?;
    }
    if report.failed_checks.is_empty() {
        writeln!(out, "a worker can work with this configuration")?;
    }
    Ok(())
}

/// Only the client's settings: whether Kafka accepts them, the operator checks all the time.
fn kafka(settings: &Settings) -> Result<(), Failure> {
    let client: Result<BaseConsumer, _> = consumer_config(settings, None).create();
    client.map(drop).map_err(|error| {
        let message = describe_error(&error);
        Failure::fatal(Stage::Intake, Reason::InvalidKafkaConfig, message)
    })
}

/// Only the connection string: workers work without Redis.
fn redis(settings: &Settings) -> Result<(), Failure> {
    let secrets = &settings.secrets;
    let Some(uri) = &secrets.redis_uri else {
        return Ok(());
    };
    progress::client(uri, secrets.authorities.redis.as_deref()).map(drop)
}

async fn mongodb(settings: Settings) -> Result<(), Failure> {
    let secrets = &settings.secrets;
    let authorities = secrets.authorities.mongodb.as_deref();
    let database = &settings.config.stores.mongodb.database;
    within_patience(Box::pin(async {
        let documents = Documents::new(&secrets.mongodb_uri, authorities, database).await?;
        documents.ping().await
    }))
    .await
}

async fn objects(settings: Settings) -> Result<(), Failure> {
    let store = &settings.config.documents.object_store;
    let objects = Objects::new(store, &settings.secrets)?;
    within_patience(Box::pin(objects.check())).await
}

async fn milvus(settings: Settings) -> Result<(), Failure> {
    let secrets = &settings.secrets;
    let authorities = secrets.authorities.milvus.as_deref();
    let spec = &settings.config.stores.milvus;
    within_patience(Box::pin(async {
        let token = secrets.milvus_token.as_ref();
        Vectors::connect(spec, token, authorities, 0)
            .await?
            .check()
            .await
    }))
    .await
}

/// A server that does not answer in time is away.
async fn within_patience(check: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::time::timeout(PATIENCE, check)
        .await
        .unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests;
