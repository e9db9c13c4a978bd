//! The page embedders compared with colpali-engine: tiny checkpoints with random weights, and the
//! outputs of the reference implementation.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod bad_input;
mod fixture;
mod layouts;
mod packing;
mod parity;
mod pooling;
