//! The page embedders against colpali-engine: tiny checkpoints with random weights, and what the
//! reference implementation computed from them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod bad_input;
mod fixture;
mod layouts;
mod packing;
mod parity;
mod pooling;
