//! Runs cargo from a program that cargo itself has started. Everything optimised is built once: in
//! the profile `release`, with the features of the whole workspace.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::progress::Progress;
use super::settings::repository;

/// Prefixes of the variables with which `cargo run` and `cargo test` describe a program's own
/// package. Build scripts of dependencies depend on some of them: if inherited, these scripts would
/// run again, and everything that depends on them would be recompiled.
const VARIABLES_OF_OUTER_CARGO: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// Cargo in the root of the repository, with the environment of a user's shell and no input.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(repository()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let is_outer = |text: &str| {
            VARIABLES_OF_OUTER_CARGO
                .iter()
                .any(|start| text.starts_with(start))
        };
        if name.to_str().is_some_and(is_outer) {
            command.env_remove(name);
        }
    }
    for name in [
        "CARGO",
        // With a target, the programs would be in another directory.
        "CARGO_BUILD_TARGET",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

/// Cargo's target directory, wherever `CARGO_TARGET_DIR` or a configuration puts it.
pub async fn target_directory() -> Result<PathBuf> {
    Ok(Metadata::of_workspace().await?.target_directory)
}

/// Names of the integration tests of the packages that `of_package` selects. Fails when there is
/// none.
pub async fn test_targets(of_package: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let packages = Metadata::of_workspace().await?.packages.into_iter();
    let targets = packages
        .filter(|package| of_package(&package.name))
        .flat_map(|package| package.targets);
    let names: Vec<String> = targets
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .map(|target| target.name)
        .collect();
    ensure!(
        !names.is_empty(),
        "these packages have no integration tests"
    );
    Ok(names)
}

/// Builds programs of the workspace as they ship, and returns their directory. All packages are
/// selected: with fewer, cargo would recompile the shared dependencies with fewer features.
pub async fn build_release(programs: &[&str], progress: &Progress) -> Result<PathBuf> {
    let what = format!("compiling {} (release)", programs.join(", "));
    let step = progress.step_with_status("cargo", &what, async |step| {
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
                step.show(&format!("{what}: {units} crates done"));
            }
        }
        ensure!(child.wait().await?.success(), "{what} failed");
        Ok(())
    });
    step.await?;
    Ok(target_directory().await?.join("release"))
}

/// The parts of `cargo metadata` that are used here and by the tests of dependencies and licences.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// The packages of the workspace, and their dependencies if they were asked for.
    pub packages: Vec<Package>,
    /// The dependency graph, if it was asked for.
    pub resolve: Option<DependencyGraph>,
    target_directory: PathBuf,
}

/// A package of the workspace or a dependency.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Unique id.
    pub id: String,
    /// Name on the registry.
    pub name: String,
    /// Version, as a text.
    pub version: String,
    /// SPDX expression of the licence, if the package has one.
    pub license: Option<String>,
    /// Where it comes from. `None`: from this repository.
    pub source: Option<String>,
    /// Its `Cargo.toml`.
    pub manifest_path: PathBuf,
    targets: Vec<Target>,
}

impl Package {
    /// Whether it is part of the compiler's work, and not of the program.
    pub(crate) fn is_proc_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The dependencies of all packages.
#[derive(Debug, Deserialize)]
pub struct DependencyGraph {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Metadata {
    /// Reads the packages of the workspace.
    pub async fn of_workspace() -> Result<Self> {
        Self::read(&["--no-deps"]).await
    }

    /// Reads the packages of the workspace and all dependencies on x86-64 Linux.
    pub async fn with_dependencies() -> Result<Self> {
        Self::with_features("").await
    }

    /// The same, with more features than the default ones.
    pub(crate) async fn with_features(features: &str) -> Result<Self> {
        let platform = "x86_64-unknown-linux-gnu";
        let arguments = ["--locked", "--filter-platform", platform];
        Self::read(&[&arguments[..], &["--features", features]].concat()).await
    }

    async fn read(arguments: &[&str]) -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .await?;
        ensure!(output.status.success(), "cargo metadata failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl DependencyGraph {
    /// Ids of the normal dependencies of a package, without those of its tests and build scripts.
    pub fn normal_dependencies(&self, id: &str) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().filter(move |node| node.id == id);
        let dependencies = nodes.flat_map(|node| &node.deps);
        let normal = dependencies.filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind.is_none())
        });
        normal.map(|dependency| dependency.pkg.as_str())
    }

    /// Ids of the dependencies of a package's build script.
    pub(crate) fn build_dependencies(&self, id: &str) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().filter(move |node| node.id == id);
        let dependencies = nodes.flat_map(|node| &node.deps);
        let build = dependencies.filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind.as_deref() == Some("build"))
        });
        build.map(|dependency| dependency.pkg.as_str())
    }
}
