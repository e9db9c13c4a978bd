//! Cargo, run by a program that cargo runs.

use std::process::Stdio;

use tokio::process::Command;

use super::settings::repository;

/// What `cargo run` and `cargo test` tell the program about its own package. Build scripts of
/// dependencies look at some of it: left in place, they would run again, and everything above
/// them would be compiled again.
const OF_THE_OUTER_CARGO: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// Cargo in the repository's root, in the environment of a person's shell, without input.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(repository()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let is_outer = |text: &str| {
            OF_THE_OUTER_CARGO
                .iter()
                .any(|start| text.starts_with(start))
        };
        if name.to_str().is_some_and(is_outer) {
            command.env_remove(name);
        }
    }
    for name in [
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}
