//! Common parts of the worker: failures, retries, health, metrics, settings and logs. Nothing here
//! knows documents.

mod counts;
pub(crate) mod failure;
pub(crate) mod health;
mod longest;
mod message_metrics;
pub(crate) mod metrics;
#[cfg(test)]
mod metrics_table_tests;
#[cfg(test)]
mod metrics_tests;
mod page_metrics;
pub(crate) mod process_metrics;
pub(crate) mod quotas;
pub(crate) mod reason;
mod registration;
pub(crate) mod retry;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod span;
pub(crate) mod stage_times;
pub(crate) mod telemetry;
pub(crate) mod traces;
pub(crate) mod watched;
pub(crate) mod work;
