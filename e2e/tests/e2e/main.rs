//! End-to-end tests on the test-bed: real Kubernetes, Kafka, Milvus, MongoDB wire server, S3 and
//! Redis.
//!
//! Every assertion reads the servers themselves. `cargo e2e` starts the servers. No test takes more
//! than a minute or embeds 300 pages: such tests belong to `cargo faults` and `cargo measure`.

mod api;
mod cli;
mod documents;
mod ledger;
mod lifecycle;
mod order;
mod progress;
mod scaling;
mod scene;
mod secured_broker;
mod secured_kafka;
mod shutdown;
mod trouble;
mod visual;
