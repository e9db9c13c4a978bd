//! Kafka: receives messages, commits offsets of settled messages, and sends dead letters, page
//! ranges and repeated tasks. It never reads a document.

pub(crate) mod client;
pub(crate) mod committed;
pub(crate) mod consumer;
pub(crate) mod ends;
pub(crate) mod outbox;
pub(crate) mod tracker;
mod unanswered;
pub(crate) mod watermark;
