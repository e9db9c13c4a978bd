//! The harness of the end-to-end tests and of the demo: real servers, started from package
//! registries, and what tests need to use them. It holds no test and no product code.

pub mod arguments;
pub mod audit;
pub mod causes;
pub mod cluster;
pub mod faults;
pub mod layra;
pub mod measure;
pub mod memory;
pub mod milvus_admin;
pub mod pdf;
pub mod report;
pub mod stores;
pub mod testbed;
pub mod timeline;
pub mod worker_cli;
