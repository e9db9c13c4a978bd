//! The program's commands, one file each. They put parts together and decide nothing about a
//! document.

pub mod delete;
pub mod ingest;
pub mod redrive;
pub mod run;
pub mod search;
