//! Logs, metrics, and the HTTP endpoints.

#[cfg(test)]
mod alerts_tests;
mod gauges;
mod http;
mod metrics;
#[cfg(test)]
mod metrics_table_tests;
mod scaling;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub(crate) use http::{Health, serve};
#[cfg(test)]
pub(crate) use metrics::ERROR_LABELS;
pub(crate) use metrics::Metrics;

/// Starts the logs: text on a terminal, else one JSON object a line. `RUST_LOG` filters them.
pub(crate) fn start_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).with_span_list(false).init();
    }
}
