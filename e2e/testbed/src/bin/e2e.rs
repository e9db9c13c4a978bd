//! `cargo e2e`: every check and test of the repository, from formatting to the tests on real
//! servers. The servers are downloaded and built while cargo compiles.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layra_testbed::artifacts::Artifact;
use layra_testbed::causes::Causes;
use layra_testbed::{
    Ended, Images, Purpose, Settings, TOOK, Testbed, arguments, artifacts, cargo,
    check_prerequisites, describe_testbed, phases, print_logs, test_targets, unless_interrupted,
};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The package whose integration tests need servers.
const HARNESS: &str = "layra-e2e";
/// Number of concurrent end-to-end tests; tests that stop a server run alone.
const TEST_THREADS: &str = "--test-threads=3";

/// Runs every check and test: formatting, lints, unit tests, end-to-end tests on real servers.
#[derive(Parser)]
#[command(name = "cargo e2e", bin_name = "cargo e2e")]
struct Arguments {
    /// Only formatting, lints and unit tests, in the dev profile and without servers.
    #[arg(long, conflicts_with = "filter")]
    fast: bool,
    /// Run only the end-to-end tests whose name contains this text.
    filter: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let compiling = phases::since_start_of_process().unwrap_or_default();
    let arguments = Arguments::parse_from(arguments::of_alias());
    let settings = Settings::from_env()?;
    let mut report = Report::starting_with("this runner", compiling);
    let work = Box::pin(async {
        if arguments.fast {
            return fast(&mut report, &settings).await;
        }
        let filter = arguments.filter.as_deref();
        everything(&mut report, &settings, filter).await
    });
    Ok(match unless_interrupted(work, describe_testbed).await? {
        Ended::Finished(()) => report.print(),
        Ended::Interrupted(code) => code,
    })
}

/// The checks that need no server.
async fn fast(report: &mut Report, settings: &Settings) -> Result<()> {
    check_prerequisites(Purpose::UnitTests)?;
    report.phase("format", format()).await;
    report.phase("lints", lints(Profile::Dev)).await;
    let needed = for_unit_tests();
    let files = artifacts::provide(settings, &needed);
    if report.phase("artifacts", files).await.is_some() {
        let tests = unit_tests(settings, Profile::Dev);
        report.phase("unit tests", tests).await;
    }
    Ok(())
}

async fn everything(report: &mut Report, settings: &Settings, filter: Option<&str>) -> Result<()> {
    if Testbed::find().await?.is_none() {
        check_prerequisites(Purpose::Servers)?;
    }
    let (announce, files) = tokio::sync::oneshot::channel();
    let provided = tokio::spawn(provide(settings.clone(), announce));
    if filter.is_none() {
        report.phase("format", format()).await;
        report.phase("lints", lints(Profile::Release)).await;
    }
    report.phase("compile", compile()).await;
    if filter.is_none() {
        let files = async { files.await.context("providing the files of the unit tests") };
        if report.phase("files", files).await.is_some() {
            let tests = unit_tests(settings, Profile::Release);
            report.phase("unit tests", tests).await;
        }
        let examples = ["test", "--release", "--workspace", "--doc", "--quiet"];
        report.phase("documentation", run(&examples, &[])).await;
    }
    let provided = async { provided.await.context("providing the artifacts")? };
    if report.phase("artifacts", provided).await.is_some() {
        test_on_servers(report, settings, filter).await;
    }
    Ok(())
}

/// The files that unit tests read, and the tools that render charts for them.
fn for_unit_tests() -> Vec<Artifact> {
    [artifacts::FILES, &[artifacts::KUBECTL]].concat()
}

/// Provides all artifacts; announces when the files of the unit tests are there.
async fn provide(settings: Settings, announce: tokio::sync::oneshot::Sender<()>) -> Result<()> {
    artifacts::provide(&settings, &for_unit_tests()).await?;
    // Without unit tests, nothing waits for the announcement.
    let _ = announce.send(());
    artifacts::provide(&settings, artifacts::ALL).await
}

/// Runs the end-to-end tests. A test-bed that was started for them is stopped again.
async fn test_on_servers(report: &mut Report, settings: &Settings, filter: Option<&str>) {
    let Some(testbed) = report.phase("test-bed", Testbed::obtain()).await else {
        return;
    };
    if let Some(images) = report.phase("images", testbed.images()).await {
        let tests = end_to_end_tests(settings, &images, filter);
        if report.phase("end-to-end tests", tests).await.is_none() {
            print_logs(settings);
        }
    }
    if testbed.is_new() {
        report.phase("stop", Testbed::down()).await;
    }
}

/// The profile in which code is compiled.
#[derive(Clone, Copy, Debug)]
enum Profile {
    /// As it ships. Checks, tests, images and the demo share every compiled dependency.
    Release,
    /// Fast to compile, slow to run.
    Dev,
}

impl Profile {
    /// A cargo command for all packages. With fewer, cargo would recompile the shared dependencies
    /// with fewer features; therefore tests are selected by target.
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

/// Runs all tests except those that need servers.
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

/// The variants of the CPU kernels that this CPU supports and would not choose by itself.
fn other_kernels() -> Vec<&'static str> {
    let mut variants = vec!["portable"];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        variants.push("avx2");
    }
    variants
}

/// Compares the models with their references, with kernels that this CPU would not choose.
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
    arguments.extend(["--", TEST_THREADS]);
    arguments.extend(filter);
    let mut variables = cached_files(settings);
    variables.push(("LAYRA_E2E_OPERATOR_IMAGE", images.operator.clone()));
    variables.push(("LAYRA_E2E_WORKER_IMAGE", images.worker.clone()));
    let passed = run(&arguments, &variables).await?;
    let reason = filter.map(|filter| format!(": no name contains {filter}"));
    ensure!(passed > 0, "no test ran{}", reason.unwrap_or_default());
    Ok(())
}

/// The variables that tell tests where files of the cache are.
fn cached_files(settings: &Settings) -> Vec<(&'static str, String)> {
    let library = artifacts::PDFIUM.path(settings).join("libpdfium.so");
    let model = artifacts::MINILM.path(settings);
    let documents = artifacts::PDFS.path(settings);
    vec![
        ("LAYRA_PDFIUM", library.display().to_string()),
        ("LAYRA_MINILM", model.display().to_string()),
        ("LAYRA_PDFS", documents.display().to_string()),
        (
            "LAYRA_TOOLS",
            settings.cache.join("bin").display().to_string(),
        ),
    ]
}

/// Runs cargo, passes its output on, and counts the tests that passed. The error says why tests
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
        println!("tests that took more than a minute: {}", slow.join("; "));
    }
    Ok(all_passed)
}

/// Number of passed tests, from the last line of a test program.
fn passed(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts.split_once(" passed")?.0.parse().ok()
}

/// Whether a test took longer than the limit of a minute: `62.1 s  name`.
fn is_slow(took: &str) -> bool {
    let seconds = took.split_whitespace().next();
    seconds.is_some_and(|seconds| seconds.parse().is_ok_and(|seconds: f64| seconds > 60.0))
}

/// The phases of a run and their results.
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
    /// A report with a phase that has ended already.
    fn starting_with(name: &'static str, duration: Duration) -> Self {
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

    /// Runs a phase. A failure is printed and recorded, and none is returned.
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

    /// Prints the closing lines and returns the exit code. Failures are repeated, since logs may
    /// have followed them.
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
    fn passed_tests_are_counted_from_the_last_line_of_a_test_program() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(passed(line), Some(12));
        assert_eq!(passed("test result: FAILED. 1 passed; 2 failed"), Some(1));
        assert_eq!(passed("test a::passed ... ok"), None);
    }
}
