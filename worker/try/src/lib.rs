//! `cargo try`: searches the documents of a folder on one machine. Pages are rendered in sandboxed
//! processes and embedded as the worker does it; vectors, texts and pictures stay in one local
//! folder. No server, no cluster and no root are needed, and nothing leaves the machine.

mod answer;
mod cli;
mod folder;
pub mod heat;
mod indexing;
mod measure;
mod model;
pub mod page;
mod progress;
mod run;
mod server;
mod store;
mod vectors;

use std::process::ExitCode;

pub use cli::{Evaluate, Look};
pub use run::{evaluate, look};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    // This must come first: a renderer must not inherit anything that this program opens.
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => return layra_rendering::child::main(),
        Some("office-child") => return layra_rendering::office_child::main(),
        _ => {}
    }
    let cli = match cli::Cli::read(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = layra_rendering::hide_memory() {
        tracing::warn!(%error, "other processes of this user may read this program's memory");
    }
    match run::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
