//! Runs the real program on small folders: PDFium, the model and the sandbox included.

// A failure in a helper is a failure of the test.
#![allow(clippy::unwrap_used)]

mod browser;
mod common;
mod folder;
mod questions;
mod server;
