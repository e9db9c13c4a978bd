//! What the demo, the fault suite, the measurements and the end-to-end tests share: clients of every
//! server of the test-bed. It holds no test, no product code, and starts no server.

pub mod audit;
pub mod clients;
pub mod cluster;
pub mod faults;
pub mod layra;
pub mod measure;
pub mod memory;
pub mod milvus_admin;
pub mod pdf;
pub mod report;
pub mod stores;
pub mod timeline;
pub mod worker_cli;
