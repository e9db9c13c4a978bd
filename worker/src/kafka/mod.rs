//! Kafka: messages come in, offsets are committed once their documents are dealt with, and dead
//! letters, ranges and repeated tasks go out. It never looks into a document.

pub mod client;
pub mod consumer;
pub mod outbox;
pub mod tracker;
pub mod watermark;
