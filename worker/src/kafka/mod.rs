//! Kafka: receives messages, commits offsets of settled messages, and sends dead letters, page
//! ranges and repeated tasks. It never reads a document.

pub(crate) mod client;
pub(crate) mod committed;
pub(crate) mod consumer;
pub(crate) mod ends;
pub(crate) mod outbox;
pub(crate) mod read_ahead;
pub(crate) mod tracker;
pub(crate) mod turns;
mod unanswered;
pub(crate) mod watermark;
