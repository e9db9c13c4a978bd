//! Compares a question with pages, exactly, finds the words of a page that are closest to it, and
//! measures rankings. Pure: vectors and texts go in, scores and words come out. No model, no store
//! and no network are involved.

mod max_sim;
pub mod metrics;
mod snippet;

pub use max_sim::{Question, Scored, Vectors, rank};
pub use snippet::snippet;
