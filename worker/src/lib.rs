//! The LAYRA ingestion worker: takes document tasks and renders, embeds and stores every page.
//!
//! Messages flow in one direction. `kafka` passes a message to the `pipeline`, which admits it,
//! processes page ranges stage by stage, writes to the `stores` and settles the message. Only then
//! is its offset committed. At any time a document is in the stores exactly once, in the
//! dead-letter topic, or still in Kafka.

mod assembly;
mod bench_store;
mod cli;
mod collection_commands;
mod commands;
mod document;
mod kafka;
mod model_files;
mod pipeline;
mod program;
mod runtime;
mod stores;

#[doc(hidden)]
pub use bench_store::BenchStore;
pub use program::main;
