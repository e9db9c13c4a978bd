//! The worker's HTTP server: `/metrics`, `/counts`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use layra_crds::{WORKER_COUNTS_PATH, WorkerCounts};

use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::quotas::Quotas;

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    quotas: Arc<Quotas>,
}

/// Answers requests until the process ends, also those of the routes in `more`.
pub(crate) async fn serve(
    listen: SocketAddr,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    quotas: Arc<Quotas>,
    more: Router,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let shared = Shared {
        health,
        metrics,
        quotas,
    };
    axum::serve(listener, router(shared).merge(more)).await
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route(WORKER_COUNTS_PATH, get(counts))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    (
        [("content-type", "text/plain; version=0.0.4")],
        shared.metrics.render(),
    )
}

async fn counts(State(shared): State<Shared>) -> Json<WorkerCounts> {
    let waiting_for = shared.health.waiting_for().into_iter();
    let retries = shared.health.retries_with_reasons().into_iter();
    let (retrying, reasons): (Vec<String>, Vec<&str>) = retries.unzip();
    Json(WorkerCounts {
        waiting_for: waiting_for.map(str::to_owned).collect(),
        held_by_quota: shared.quotas.is_held(),
        quotas: shared.quotas.report(),
        missing_indexes: shared.health.missing_indexes(),
        startup_seconds: shared.health.startup_seconds(),
        retrying,
        retry_reasons: reasons.into_iter().map(str::to_owned).collect(),
        other_models: shared.health.other_models(),
        ..shared.metrics.counts()
    })
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.health.stuck(Instant::now()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let problems = shared.health.problems();
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(shared: &Shared, path: &str) -> (reqwest::StatusCode, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let response = reqwest::get(format!("http://{address}{path}")).await;
        let response = response.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    fn shared() -> Shared {
        let (health, metrics) = (Arc::default(), Arc::new(Metrics::new()));
        Shared {
            quotas: Arc::new(Quotas::new(None, Arc::clone(&health), Arc::clone(&metrics))),
            health,
            metrics,
        }
    }

    #[tokio::test]
    async fn the_operator_reads_counts_as_json() {
        let shared = shared();
        shared.metrics.pages.inc_by(7);
        shared.metrics.set_assigned("tasks", vec![3]);
        let (status, body) = get(&shared, WORKER_COUNTS_PATH).await;
        assert_eq!(status, StatusCode::OK);
        let counts: WorkerCounts = serde_json::from_str(&body).unwrap();
        let with_quotas = WorkerCounts {
            quotas: Some(Vec::new()),
            ..shared.metrics.counts()
        };
        assert_eq!(counts, with_quotas);
        assert_eq!((counts.pages, counts.partitions[0].partition), (7, 3));
        let (_, metrics) = get(&shared, "/metrics").await;
        assert!(metrics.contains("ingestion_pages_total 7"), "{metrics}");
    }

    #[tokio::test]
    async fn a_worker_that_is_not_ready_states_why() {
        let shared = shared();
        let (status, body) = get(&shared, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("the model is not loaded\n"), "{body}");
        let (status, _) = get(&shared, "/healthz").await;
        assert_eq!(status, StatusCode::OK);
    }
}
