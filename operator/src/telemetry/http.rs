//! `/metrics`, `/healthz` and `/readyz`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Whether the operator takes part in the election, as leader or standby.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<AtomicBool>);

impl Health {
    pub(crate) fn set_ready(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves the endpoints until `stop`.
pub(crate) async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route(
            "/metrics",
            get(async |State((metrics, _)): State<(Metrics, Health)>| metrics.text()),
        )
        // An answer is proof enough of being alive.
        .route("/healthz", get(async || "ok"))
        .route(
            "/readyz",
            get(async |State((_, health)): State<(Metrics, Health)>| ready(&health)),
        )
        .with_state((metrics, health));
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics and health");
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn ready(health: &Health) -> (StatusCode, &'static str) {
    if health.0.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not connected to the API server yet",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readyz_fails_until_the_operator_takes_part_in_the_election() {
        let health = Health::default();
        assert_eq!(ready(&health).0, StatusCode::SERVICE_UNAVAILABLE);
        health.set_ready();
        assert_eq!(ready(&health).0, StatusCode::OK);
    }
}
