//! Taking messages from Kafka and committing what is done.

pub mod client;
pub mod consumer;
pub mod tracker;
pub mod watermark;
