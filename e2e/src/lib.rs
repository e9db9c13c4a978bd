//! Shared code of the demo, the fault suite, the measurements and the end-to-end tests: clients of
//! every server of the test-bed. It contains no test and no product code, and starts no server.

pub mod audit;
pub mod clients;
pub mod cluster;
pub mod command;
pub mod faults;
pub mod kinds;
pub mod layra;
pub mod leadership;
pub mod measure;
pub mod milvus_admin;
pub mod notifications;
pub mod pdf;
pub mod processes;
pub mod prometheus;
pub mod query;
pub mod rebuild;
pub mod report;
pub mod rows;
pub mod stores;
pub mod stress;
pub mod timeline;
pub mod topics;
pub mod worker_cli;
