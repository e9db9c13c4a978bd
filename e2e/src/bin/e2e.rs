//! `cargo e2e`: every check and test of the repository, from formatting to the tests on real
//! servers. What the servers need is downloaded and built while cargo compiles.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layra_e2e::arguments;
use layra_e2e::causes::Causes;
use layra_e2e::testbed::{
    Images, Settings, Testbed, artifacts, cargo, check_prerequisites, print_logs,
};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};

/// The package whose integration tests need servers.
const HARNESS: &str = env!("CARGO_PKG_NAME");

/// Runs every check and test: formatting, lints, unit tests, end-to-end tests on real servers.
#[derive(Parser)]
#[command(name = "cargo e2e", bin_name = "cargo e2e")]
struct Arguments {
    /// Stop before the tests that need servers.
    #[arg(long, conflicts_with = "filter")]
    fast: bool,
    /// Run only the end-to-end tests whose name contains this.
    filter: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse_from(arguments::of_alias());
    let start = Instant::now();
    let settings = Settings::from_env()?;
    let was_running = Testbed::find().await?.is_some();
    if !was_running {
        check_prerequisites()?;
    }

    let mut report = Report::default();
    let provided = tokio::spawn(provide(settings.clone()));
    if arguments.filter.is_none() {
        check_sources(&mut report).await;
    }
    let provided = async { provided.await.context("making the artifacts")? };
    if report.phase("artifacts", provided).await.is_some() {
        if arguments.filter.is_none() {
            report.phase("unit tests", unit_tests(&settings)).await;
            let examples = ["test", "--workspace", "--doc", "--quiet"];
            report.phase("documentation", run(&examples, &[])).await;
        }
        if !arguments.fast {
            let filter = arguments.filter.as_deref();
            test_on_servers(&mut report, &settings, filter, was_running).await;
        }
    }
    Ok(report.print(start.elapsed()))
}

async fn provide(settings: Settings) -> Result<()> {
    artifacts::provide(&settings, artifacts::ALL).await
}

/// All that needs no server and no model: it overlaps with the making of the artifacts.
async fn check_sources(report: &mut Report) {
    report
        .phase("format", run(&["fmt", "--all", "--check"], &[]))
        .await;
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    report.phase("lints", run(&lints, &[])).await;
    let compile = ["test", "--workspace", "--no-run", "--quiet"];
    report.phase("compile", run(&compile, &[])).await;
}

/// A bed that this run started is stopped again.
async fn test_on_servers(
    report: &mut Report,
    settings: &Settings,
    filter: Option<&str>,
    was_running: bool,
) {
    let Some(testbed) = report.phase("test-bed", Testbed::obtain()).await else {
        return;
    };
    if let Some(images) = report.phase("images", testbed.images()).await {
        let tests = end_to_end_tests(settings, &images, filter);
        if report.phase("end-to-end tests", tests).await.is_none() {
            print_logs(settings);
        }
    }
    if !was_running {
        report.phase("stop", Testbed::down()).await;
    }
}

/// All tests but those of this crate that need servers. Tests are selected by target, not by
/// package: with fewer packages cargo would compile the shared dependencies again.
async fn unit_tests(settings: &Settings) -> Result<()> {
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast", "--lib", "--bins"];
    let targets = test_targets(|package| package != HARNESS).await?;
    arguments.extend(targets.iter().flat_map(|target| ["--test", target]));
    run(&arguments, &cached_files(settings)).await
}

async fn end_to_end_tests(
    settings: &Settings,
    images: &Images,
    filter: Option<&str>,
) -> Result<()> {
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    let targets = test_targets(|package| package == HARNESS).await?;
    arguments.extend(targets.iter().flat_map(|target| ["--test", target]));
    arguments.extend(["--", "--test-threads=1"]);
    arguments.extend(filter);
    let mut variables = cached_files(settings);
    variables.push(("LAYRA_E2E_OPERATOR_IMAGE", images.operator.clone()));
    variables.push(("LAYRA_E2E_WORKER_IMAGE", images.worker.clone()));
    run(&arguments, &variables).await
}

/// The names of the integration tests of some packages.
async fn test_targets(of_package: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let packages = metadata
        .packages
        .into_iter()
        .filter(|package| of_package(&package.name));
    let targets = packages.flat_map(|package| package.targets);
    Ok(targets
        .filter(|target| target.kind == ["test"])
        .map(|target| target.name)
        .collect())
}

/// What is read of cargo's description of the workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
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

/// What tests read from the cache.
fn cached_files(settings: &Settings) -> Vec<(&'static str, String)> {
    let library = artifacts::PDFIUM.path(settings).join("libpdfium.so");
    let model = artifacts::MINILM.path(settings);
    let documents = artifacts::PDFS.path(settings);
    vec![
        ("LAYRA_PDFIUM", library.display().to_string()),
        ("LAYRA_MINILM", model.display().to_string()),
        ("LAYRA_PDFS", documents.display().to_string()),
    ]
}

/// Runs cargo and prints what it prints. An error says why tests failed.
async fn run(arguments: &[&str], variables: &[(&str, String)]) -> Result<()> {
    let mut child = cargo()
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut lines = BufReader::new(output).split(b'\n');
    let mut causes = Causes::default();
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        causes.read(&line);
    }
    let status = child.wait().await?;
    ensure!(
        status.success(),
        "cargo {} failed ({status})\n{causes}",
        arguments.join(" ")
    );
    Ok(())
}

/// What was done, and how it ended.
#[derive(Default)]
struct Report {
    phases: Vec<Phase>,
}

struct Phase {
    name: &'static str,
    duration: Duration,
    failure: Option<String>,
}

impl Report {
    /// Runs one phase. A failure is printed and remembered; none is returned then.
    async fn phase<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Option<T> {
        println!("=== {name}");
        let start = Instant::now();
        let result = work.await;
        let failure = result.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            println!("=== {name} failed: {failure}");
        }
        self.phases.push(Phase {
            name,
            duration: start.elapsed(),
            failure,
        });
        result.ok()
    }

    /// The closing lines and the exit code. What failed is said once more: logs may have come after
    /// it.
    fn print(&self, total: Duration) -> ExitCode {
        for phase in &self.phases {
            if let Some(failure) = &phase.failure {
                println!("\n{}: {}", phase.name, failure.trim_end());
            }
        }
        let verdict = |succeeded| if succeeded { "ok" } else { "FAILED" };
        println!("\n{:<20}{:>9}", "phase", "seconds");
        for phase in &self.phases {
            let seconds = phase.duration.as_secs_f32();
            let verdict = verdict(phase.failure.is_none());
            println!("{:<20}{seconds:>9.1}  {verdict}", phase.name);
        }
        let succeeded = self.phases.iter().all(|phase| phase.failure.is_none());
        let seconds = total.as_secs_f32();
        println!("{:<20}{seconds:>9.1}  {}", "total", verdict(succeeded));
        if succeeded {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
