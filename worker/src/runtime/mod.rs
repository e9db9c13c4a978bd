//! What every part of the worker leans on: failures and their classes, waiting for servers, health,
//! metrics, settings and logs. It knows nothing of documents.

pub mod failure;
pub mod health;
pub mod metrics;
pub mod retry;
pub mod server;
pub mod settings;
pub mod telemetry;
