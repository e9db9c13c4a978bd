//! Cargo, run by a program that cargo runs. Everything optimised is built in the profile `release`,
//! with the features of the whole workspace: once.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::progress::Progress;
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
        // With a target named, programs would lie in another folder.
        "CARGO_BUILD_TARGET",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

/// The folder of everything that cargo builds, wherever `CARGO_TARGET_DIR` or a configuration puts
/// it.
pub async fn target_directory() -> Result<PathBuf> {
    Ok(metadata().await?.target_directory)
}

/// The names of the integration tests of some packages; an error when there is none.
pub async fn test_targets(of_package: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let packages = metadata().await?.packages.into_iter();
    let targets = packages
        .filter(|package| of_package(&package.name))
        .flat_map(|package| package.targets);
    let names: Vec<String> = targets
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .map(|target| target.name)
        .collect();
    ensure!(
        !names.is_empty(),
        "cargo knows no integration test of these packages"
    );
    Ok(names)
}

/// Builds programs of the workspace as they ship, and says where they are. All packages are
/// selected: with fewer, cargo would compile the shared dependencies again with fewer features.
pub async fn build_release(programs: &[&str], progress: &Progress) -> Result<PathBuf> {
    let what = format!("compiling {} (release)", programs.join(", "));
    let step = progress.step_that_tells("cargo", &what, async |step| {
        let mut command = cargo();
        command
            .args(["build", "--release", "--workspace", "--quiet"])
            .arg("--message-format=json-render-diagnostics")
            .args(programs.iter().flat_map(|program| ["--bin", program]))
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("starting cargo")?;
        let output = child.stdout.take().context("cargo's output")?;
        let mut lines = BufReader::new(output).lines();
        let mut units = 0;
        while let Some(line) = lines.next_line().await? {
            if line.contains(r#""reason":"compiler-artifact""#) {
                units += 1;
                step.tell(&format!("{what}: {units} parts are there"));
            }
        }
        ensure!(child.wait().await?.success(), "{what} failed");
        Ok(())
    });
    step.await?;
    Ok(target_directory().await?.join("release"))
}

/// What is read of cargo's description of the workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

async fn metadata() -> Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "cargo metadata failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}
