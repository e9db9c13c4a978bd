//! The HTTP server of a run: `/reindex`, `/metrics` and `/healthz`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use layra_crds::{REINDEX_PATH, ReindexProgress};
use tokio::net::TcpListener;

use super::progress::Progress;
use crate::runtime::metrics::Metrics;

#[derive(Clone)]
struct Shared {
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
}

/// Answers requests until the process ends.
pub(super) async fn serve(
    listener: TcpListener,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route(REINDEX_PATH, get(report))
        .route("/metrics", get(render))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Shared { progress, metrics });
    axum::serve(listener, router).await
}

async fn report(State(shared): State<Shared>) -> Json<ReindexProgress> {
    Json(shared.progress.report())
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    (
        [("content-type", "text/plain; version=0.0.4")],
        shared.metrics.render(),
    )
}
