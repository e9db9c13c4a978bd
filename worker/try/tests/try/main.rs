//! Runs the real program on small folders: PDFium, the model and the sandbox included.

mod browser;
mod common;
mod folder;
mod questions;
mod server;
