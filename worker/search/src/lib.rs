//! Compares a question with pages, exactly, and measures rankings. Pure: vectors go in, scores come
//! out. No model, no store and no network are involved.

mod max_sim;
pub mod metrics;

pub use max_sim::{Question, Scored, Vectors, rank};
