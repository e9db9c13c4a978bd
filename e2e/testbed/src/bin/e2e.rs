//! `cargo e2e`: every check and test of the repository, from formatting to the tests on real
//! servers. What the servers need is downloaded and built while cargo compiles.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layra_testbed::causes::Causes;
use layra_testbed::{
    Images, Settings, TOOK, Testbed, arguments, artifacts, cargo, check_prerequisites, interrupted,
    phases, print_logs, processes, test_targets,
};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The package whose integration tests need servers.
const HARNESS: &str = "layra-e2e";
/// Tests on servers that run at the same time; those that stop a server wait to be alone.
const AT_ONCE: &str = "--test-threads=3";

/// Runs every check and test: formatting, lints, unit tests, end-to-end tests on real servers.
#[derive(Parser)]
#[command(name = "cargo e2e", bin_name = "cargo e2e")]
struct Arguments {
    /// Only what needs no server, in the quick profile: a first answer while you write.
    #[arg(long, conflicts_with = "filter")]
    fast: bool,
    /// Run only the end-to-end tests whose name contains this.
    filter: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let compiling = phases::since_start_of_process().unwrap_or_default();
    let arguments = Arguments::parse_from(arguments::of_alias());
    let settings = Settings::from_env()?;
    let mut report = Report::beginning_with("this runner", compiling);
    let work = async {
        if arguments.fast {
            fast(&mut report, &settings).await;
            return Ok(());
        }
        let filter = arguments.filter.as_deref();
        everything(&mut report, &settings, filter).await
    };
    tokio::select! {
        // First: cargo, which Ctrl-C reaches too, is no failure then.
        biased;
        code = interrupted() => {
            let code = code?;
            eprintln!("\ninterrupted. {}", what_is_left(&settings)?);
            return Ok(ExitCode::from(code));
        }
        done = work => done?,
    }
    Ok(report.print())
}

fn what_is_left(settings: &Settings) -> Result<&'static str> {
    Ok(if processes(settings)?.is_empty() {
        "No server runs."
    } else {
        "The test-bed still runs, perhaps only half of it. Stop it: cargo testbed down"
    })
}

/// The checks that a person waits for.
async fn fast(report: &mut Report, settings: &Settings) {
    report.phase("format", format()).await;
    report.phase("lints", lints(Profile::Quick)).await;
    let files = artifacts::provide(settings, artifacts::FILES);
    if report.phase("artifacts", files).await.is_some() {
        let tests = unit_tests(settings, Profile::Quick);
        report.phase("unit tests", tests).await;
    }
}

async fn everything(report: &mut Report, settings: &Settings, filter: Option<&str>) -> Result<()> {
    let was_running = Testbed::find().await?.is_some();
    if !was_running {
        check_prerequisites()?;
    }
    let (tell, files) = tokio::sync::oneshot::channel();
    let provided = tokio::spawn(provide(settings.clone(), tell));
    if filter.is_none() {
        report.phase("format", format()).await;
        report.phase("lints", lints(Profile::Release)).await;
    }
    report.phase("compile", compile()).await;
    if filter.is_none() {
        let files = async { files.await.context("the files that tests read") };
        if report.phase("files", files).await.is_some() {
            let tests = unit_tests(settings, Profile::Release);
            report.phase("unit tests", tests).await;
        }
        let examples = ["test", "--release", "--workspace", "--doc", "--quiet"];
        report.phase("documentation", run(&examples, &[])).await;
    }
    let provided = async { provided.await.context("making the artifacts")? };
    if report.phase("artifacts", provided).await.is_some() {
        test_on_servers(report, settings, filter, was_running).await;
    }
    Ok(())
}

/// Makes all artifacts; tells when those are there that unit tests read.
async fn provide(settings: Settings, files: tokio::sync::oneshot::Sender<()>) -> Result<()> {
    artifacts::provide(&settings, artifacts::FILES).await?;
    // Nobody waits where only some tests are asked for.
    let _ = files.send(());
    artifacts::provide(&settings, artifacts::ALL).await
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

/// How code is compiled.
#[derive(Clone, Copy, Debug)]
enum Profile {
    /// As it ships; every dependency once, for checks, tests, images and the demo.
    Release,
    /// Cargo's `dev`: soon there, slow to run.
    Quick,
}

impl Profile {
    /// A cargo command for all packages. With fewer, cargo would compile the shared dependencies
    /// again with fewer features; that is why tests are selected by target.
    fn command(self, command: &'static str) -> Vec<&'static str> {
        let mut arguments = vec![command, "--workspace"];
        if matches!(self, Self::Release) {
            arguments.push("--release");
        }
        arguments
    }
}

async fn format() -> Result<()> {
    run(&["fmt", "--all", "--check"], &[]).await.map(|_| ())
}

async fn lints(profile: Profile) -> Result<()> {
    let mut arguments = profile.command("clippy");
    arguments.extend(["--all-targets", "--quiet", "--", "-D", "warnings"]);
    run(&arguments, &[]).await.map(|_| ())
}

async fn compile() -> Result<()> {
    let mut arguments = Profile::Release.command("test");
    arguments.extend(["--no-run", "--quiet"]);
    run(&arguments, &[]).await.map(|_| ())
}

/// All tests but those that need servers.
async fn unit_tests(settings: &Settings, profile: Profile) -> Result<()> {
    let mut arguments = profile.command("test");
    arguments.extend(["--no-fail-fast", "--lib", "--bins"]);
    let targets = test_targets(|package| package != HARNESS).await?;
    arguments.extend(targets.iter().flat_map(|target| ["--test", target]));
    let passed = run(&arguments, &cached_files(settings)).await?;
    ensure!(passed > 0, "no test ran");
    for kernels in other_kernels() {
        parity_tests(settings, profile, kernels).await?;
    }
    Ok(())
}

/// The paths of the CPU kernels that this CPU has and would not choose by itself.
fn other_kernels() -> Vec<&'static str> {
    let mut paths = vec!["portable"];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        paths.push("avx2");
    }
    paths
}

/// The models' tests against their references, by kernels that this CPU would not choose.
async fn parity_tests(settings: &Settings, profile: Profile, kernels: &'static str) -> Result<()> {
    let mut arguments = profile.command("test");
    arguments.extend(["--quiet", "--test", "colqwen", "--test", "minilm"]);
    let mut variables = cached_files(settings);
    variables.push(("LAYRA_KERNELS", kernels.to_owned()));
    let passed = run(&arguments, &variables).await?;
    ensure!(passed > 0, "no test ran with LAYRA_KERNELS={kernels}");
    Ok(())
}

async fn end_to_end_tests(
    settings: &Settings,
    images: &Images,
    filter: Option<&str>,
) -> Result<()> {
    let mut arguments = Profile::Release.command("test");
    arguments.push("--no-fail-fast");
    let targets = test_targets(|package| package == HARNESS).await?;
    arguments.extend(targets.iter().flat_map(|target| ["--test", target]));
    arguments.extend(["--", AT_ONCE]);
    arguments.extend(filter);
    let mut variables = cached_files(settings);
    variables.push(("LAYRA_E2E_OPERATOR_IMAGE", images.operator.clone()));
    variables.push(("LAYRA_E2E_WORKER_IMAGE", images.worker.clone()));
    let passed = run(&arguments, &variables).await?;
    let of_name = filter.map(|filter| format!(": none has {filter} in its name"));
    ensure!(passed > 0, "no test ran{}", of_name.unwrap_or_default());
    Ok(())
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

/// Runs cargo, prints what it prints, and counts the tests that passed. An error says why tests
/// failed.
async fn run(arguments: &[&str], variables: &[(&str, String)]) -> Result<usize> {
    let mut child = cargo()
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting cargo")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut lines = BufReader::new(output).split(b'\n');
    let mut causes = Causes::default();
    let mut slow = Vec::new();
    let mut all_passed = 0;
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        causes.read(&line);
        all_passed += passed(&line).unwrap_or_default();
        slow.extend(
            line.strip_prefix(TOOK)
                .filter(|rest| is_slow(rest))
                .map(str::to_owned),
        );
    }
    let status = child.wait().await?;
    ensure!(
        status.success(),
        "cargo {} failed ({status})\n{causes}",
        arguments.join(" ")
    );
    if !slow.is_empty() {
        println!("longer than a minute: {}", slow.join("; "));
    }
    Ok(all_passed)
}

/// How many tests passed, from the line in which a test program says that.
fn passed(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts.split_once(" passed")?.0.parse().ok()
}

/// Whether a test took longer than one of this run should: `62.1 s  name`.
fn is_slow(took: &str) -> bool {
    let seconds = took.split_whitespace().next();
    seconds.is_some_and(|seconds| seconds.parse().is_ok_and(|seconds: f64| seconds > 60.0))
}

/// What was done, and how it ended.
struct Report {
    start: Instant,
    phases: Vec<Phase>,
}

struct Phase {
    name: &'static str,
    duration: Duration,
    failure: Option<String>,
}

impl Report {
    /// A report with something that was done before.
    fn beginning_with(name: &'static str, duration: Duration) -> Self {
        let first = Phase {
            name,
            duration,
            failure: None,
        };
        let now = Instant::now();
        Self {
            start: now.checked_sub(duration).unwrap_or(now),
            phases: vec![first],
        }
    }

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
    fn print(&self) -> ExitCode {
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
        let seconds = self.start.elapsed().as_secs_f32();
        println!("{:<20}{seconds:>9.1}  {}", "total", verdict(succeeded));
        if succeeded {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn passed_tests_are_read_from_the_closing_line_of_a_program() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(passed(line), Some(12));
        assert_eq!(passed("test result: FAILED. 1 passed; 2 failed"), Some(1));
        assert_eq!(passed("test a::passed ... ok"), None);
    }
}
