//! The `serve` command: LAYRA's model server, and a search service over HTTP.
//!
//! Two ports. On one LAYRA's requests are answered as its own model server answers them, without a
//! token ([`layra`]). The other has the search ([`api`]), metrics and probes. Nothing is written to
//! the stores but the note that a collection was searched.

mod access;
mod api;
mod body;
mod cache;
mod cors;
mod embeddings;
mod heat;
mod layra;
mod library;
mod links;
mod listener;
mod measured;
mod model;
mod openapi;
mod page;
mod rates;
mod refusal;
mod search;
mod service;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::HeaderValue;
use clap::Args;
use layra_crds::WORKER_HTTP_PORT;
use tokio::net::TcpListener;

use crate::assembly::Common;
use crate::cli::WorkerArgs;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use access::Access;
use cache::Cache;
use library::StoredPages;
use links::{LinkArgs, Links};
use model::Model;
use service::Service;

/// LAYRA's model server, and a search service over HTTP.
///
/// Serves until SIGTERM or SIGINT. LAYRA finds its model server at `model-server:8005`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address of LAYRA's model server: `/embed_text`, `/embed_image` and `/healthy-check`, without
    /// a token.
    #[arg(long, env = "LAYRA_MODEL_LISTEN", default_value_t = address(8005))]
    model_listen: SocketAddr,
    /// Address of the search: its page, `/v1/search`, `/openapi.json`, `/metrics`, `/livez` and `/readyz`.
    #[arg(long, env = "LAYRA_LISTEN", default_value_t = address(WORKER_HTTP_PORT))]
    listen: SocketAddr,
    /// File with the tokens that may search. It is read again when it changes.
    #[arg(long, env = "LAYRA_QUERY_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Let everyone search everything, without a token.
    #[arg(long, conflicts_with = "tokens")]
    open: bool,
    /// An origin, for example `https://example.com`, whose web pages may call `/v1`. Can be given
    /// several times; `*`: all.
    #[arg(long = "allow-origin", env = "LAYRA_QUERY_ORIGINS", value_name = "ORIGIN",
          value_delimiter = ',', value_parser = cors::origin)]
    origins: Vec<HeaderValue>,
    #[command(flatten)]
    links: LinkArgs,
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

/// Serves until `common.stop` is cancelled, or until a fatal failure. Requests are refused until the
/// model is loaded, searches also until the stores answer.
pub(crate) async fn run(common: &Common, args: &ServeArgs) -> anyhow::Result<()> {
    let access = match &args.tokens {
        _ if args.open => Access::open(),
        Some(file) => Access::of_file(file.clone()).map_err(anyhow::Error::msg)?,
        None => Access::closed(),
    };
    let secrets = &common.settings.secrets;
    let cache = match &secrets.redis_uri {
        Some(uri) => Cache::in_redis(uri, secrets.authorities.redis.as_deref())?,
        None => Cache::in_memory(),
    };
    let health = Arc::clone(&common.health);
    let metrics = Arc::clone(&common.metrics);
    let service = Arc::new(Service::new(health, metrics, access, cache));
    let (model, search) = (bind(args.model_listen).await?, bind(args.listen).await?);
    tracing::info!(model = %args.model_listen, search = %args.listen, "listening");
    let api = cors::allow(api::router(Arc::clone(&service)), &args.origins);
    let serving = async {
        tokio::join!(
            listener::serve(model, layra::router(Arc::clone(&service)), &common.stop),
            listener::serve(search, api, &common.stop),
        );
    };
    let prepared = async {
        match prepare(common, &service, &args.links).await {
            Err(failure) if failure.class == Class::Stopped => std::future::pending().await,
            Err(failure) => failure,
            Ok(()) => service.failed().await,
        }
    };
    tokio::select! {
        () = serving => Ok(()),
        failure = prepared => Err(failure.into()),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::fatal(
            Stage::Intake,
            Reason::HttpServer,
            format!("{address}: {error}"),
        )
    })
}

/// Loads the model, then connects to the stores: what needs no store can be asked before.
async fn prepare(common: &Common, service: &Service, links: &LinkArgs) -> Result<(), Failure> {
    let settings = &common.settings;
    let store = &settings.config.documents.object_store;
    let links = Links::new(links, store, &settings.secrets)?;
    let model = Model::load(common).await?;
    let dimensions = model.dimensions();
    service.has_loaded(model);
    let pages = StoredPages::connect(common, dimensions, links).await?;
    service.has_connected(Box::new(pages));
    tracing::info!("ready");
    Ok(())
}
