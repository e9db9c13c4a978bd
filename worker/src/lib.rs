//! The LAYRA ingestion worker: takes document tasks and renders, embeds and stores every page.
//!
//! One direction: intake → fetch → render → embed → store → acknowledge. Whatever happens, a
//! document is in the stores once, in the dead-letter topic, or still in Kafka.

pub mod assembly;
pub mod bench;
pub mod delete;
pub mod failure;
pub mod fetch;
pub mod health;
pub mod ids;
pub mod ingest;
pub mod intake;
pub mod ledger;
pub mod metrics;
pub mod model;
pub mod outbox;
pub mod pipeline;
pub mod range;
pub mod redrive;
pub mod retry;
pub mod run;
pub mod search;
pub mod server;
pub mod settings;
pub mod store;
pub mod task;
pub mod telemetry;
