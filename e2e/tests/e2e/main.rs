//! End to end on the test-bed: real Kubernetes, Kafka, Milvus, MongoDB wire server, S3 and Redis.
//!
//! Every assertion reads the servers themselves. `cargo e2e` starts what these tests need.

mod api;
mod documents;
mod faults;
mod leaving;
mod ledger;
mod lifecycle;
mod memory;
mod progress;
mod scaling;
mod scene;
mod secured_broker;
mod secured_kafka;
mod trouble;
mod visual;
