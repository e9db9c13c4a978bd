//! End to end on the test-bed: real Kubernetes, Kafka, Milvus, MongoDB wire server, S3 and Redis.
//!
//! Every assertion reads the servers themselves. `cargo e2e` starts what these tests need. None takes
//! more than a minute or has 300 pages embedded: such ones belong to `cargo faults` and
//! `cargo measure`.

mod api;
mod cli;
mod documents;
mod leaving;
mod ledger;
mod lifecycle;
mod progress;
mod scaling;
mod scene;
mod secured_broker;
mod secured_kafka;
mod trouble;
mod visual;
