//! The harness of the end-to-end tests and of the demo: real servers, started from package
//! registries. It holds no test and no product code.

pub mod testbed;
