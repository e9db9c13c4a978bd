//! End-to-end tests on the test-bed: real Kubernetes, Kafka, Milvus, MongoDB wire server, S3 and
//! Redis.
//!
//! Every assertion reads the servers themselves. `cargo e2e` starts the servers. A test should
//! take at most a minute and embed fewer than 300 pages: longer ones belong to `cargo faults` and
//! `cargo measure`.

mod api;
mod cli;
mod documents;
mod learning;
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
