//! `/metrics`, `/healthz` and `/readyz`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Without an answer of the API server for this long the operator is not ready.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

/// Whether the operator takes part in the election, as leader or standby, and reaches the API
/// server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<Contact>>);

#[derive(Debug, Default)]
struct Contact {
    is_in_election: bool,
    /// The last answer of the API server.
    answered: Option<Instant>,
}

impl Health {
    /// Records that the operator has joined the election.
    pub(crate) fn set_ready(&self) {
        let mut contact = self.contact();
        contact.is_in_election = true;
        contact.answered = Some(Instant::now());
    }

    /// Records an answer of the API server.
    pub(crate) fn answered(&self) {
        self.contact().answered = Some(Instant::now());
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        // An answer is proof enough of being alive: the process ends when the lease is lost or a
        // controller ends, and a reconcile that hangs is dropped.
        .route("/healthz", get(async || "ok"))
        .route(
            "/readyz",
            get(async |State((_, health)): State<(Metrics, Health)>| {
                ready(&health, Instant::now())
            }),
        )
        .with_state((metrics, health));
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics and health");
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn ready(health: &Health, now: Instant) -> (StatusCode, &'static str) {
    let contact = health.contact();
    let silence = contact
        .answered
        .map(|answered| now.saturating_duration_since(answered));
    if !contact.is_in_election {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not connected to the API server yet",
        )
    } else if silence.is_none_or(|silence| silence >= LONGEST_SILENCE) {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server does not respond",
        )
    } else {
        (StatusCode::OK, "ok")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readyz_fails_until_the_operator_takes_part_in_the_election() {
        let health = Health::default();
        let now = Instant::now();
        assert_eq!(ready(&health, now).0, StatusCode::SERVICE_UNAVAILABLE);
        health.set_ready();
        assert_eq!(ready(&health, now).0, StatusCode::OK);
    }

    #[test]
    fn readyz_fails_while_the_api_server_does_not_respond() {
        let health = Health::default();
        health.set_ready();
        let later = Instant::now() + LONGEST_SILENCE;
        assert_eq!(
            ready(&health, later),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the API server does not respond"
            )
        );
        health.answered();
        assert_eq!(ready(&health, Instant::now()).0, StatusCode::OK);
    }
}
