//! The LAYRA ingestion worker: takes document tasks and renders, embeds and stores every page.
//!
//! One direction: [`kafka`] hands a message to the [`pipeline`], which admits it, works on ranges of
//! pages stage by stage, writes to the [`stores`] and settles it; only then is its offset committed.
//! Whatever happens, a document is in the stores once, in the dead-letter topic, or still in Kafka.

pub mod assembly;
pub mod commands;
pub mod document;
pub mod kafka;
pub mod model_files;
pub mod pipeline;
pub mod runtime;
pub mod stores;
