//! `cargo try`, `cargo demo`, `cargo faults`, `cargo measure`, `cargo scaling`: prepares everything
//! that the program of that name needs, then executes it. Artifacts are downloaded and built while cargo
//! compiles.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use layra_testbed::phases::{Phases, since_start_of_process};
use layra_testbed::{
    Ended, Progress, Purpose, Settings, Testbed, artifacts, build_release, check_prerequisites,
    unless_interrupted,
};

/// The programs of `layra-e2e`.
const PROGRAMS: [&str; 4] = ["demo", "faults", "measure", "scaling"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let compiling = since_start_of_process().unwrap_or_default();
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().unwrap_or_default();
    if program == "try" {
        return try_folder(arguments.collect()).await;
    }
    let Some(program) = PROGRAMS.into_iter().find(|name| program == *name) else {
        bail!("use cargo try, cargo demo, cargo faults, cargo measure or cargo scaling");
    };
    let arguments: Vec<OsString> = arguments.collect();
    let mut phases = Phases::default();
    phases.add("this runner", compiling);

    let asks_for_help = |argument: &OsString| argument == "--help" || argument == "-h";
    let prepared = Box::pin(async {
        if arguments.iter().any(asks_for_help) {
            build_release(&[program], &Progress::new()).await
        } else {
            prepare(program, &mut phases).await
        }
    });
    let left = || {
        Ok(format!(
            "No server was started. Downloads and compiled programs are kept; `cargo {program}` \
             continues from there."
        ))
    };
    let binaries = match unless_interrupted(prepared, left).await? {
        Ended::Finished(binaries) => binaries,
        Ended::Interrupted(code) => return Ok(code),
    };
    let (name, value) = phases.to_variable();
    let error = Command::new(binaries.join(program))
        .args(arguments)
        .env(name, value)
        .exec();
    Err(error).with_context(|| format!("running {program}"))
}

/// Runs `cargo try`: compiles the program and downloads PDFium and the model at the same time. No
/// server is needed, and nothing is installed.
async fn try_folder(arguments: Vec<OsString>) -> Result<ExitCode> {
    check_prerequisites(Purpose::Try)?;
    let settings = Settings::from_env()?;
    let has_model = arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        argument == "--model" || argument.starts_with("--model=")
    });
    let needed: &[_] = if has_model {
        &[artifacts::PDFIUM]
    } else {
        &[artifacts::PDFIUM, artifacts::MINILM]
    };
    let progress = Progress::new();
    let prepared = Box::pin(async {
        let (fetched, built) = tokio::join!(
            artifacts::fetch(&settings, needed, &progress),
            build_release(&["layra-try"], &progress)
        );
        fetched.and(built)
    });
    let left = || Ok("What was downloaded and compiled is kept.".to_owned());
    let binaries = match unless_interrupted(prepared, left).await? {
        Ended::Finished(binaries) => binaries,
        Ended::Interrupted(code) => return Ok(code),
    };
    let pdfium = artifacts::PDFIUM.path(&settings).join("libpdfium.so");
    let error = Command::new(binaries.join("layra-try"))
        .args(arguments)
        .env("LAYRA_PDFIUM", pdfium)
        .env("LAYRA_MINILM", artifacts::MINILM.path(&settings))
        .exec();
    Err(error).context("running layra-try")
}

/// Compiles the program, the operator and the worker, and provides all artifacts at the same time.
/// Returns the directory of the programs.
async fn prepare(program: &str, phases: &mut Phases) -> Result<PathBuf> {
    let settings = Settings::from_env()?;
    let bed = Testbed::find().await?;
    if bed.is_none() {
        check_prerequisites(Purpose::Servers)?;
    }
    let needed = match &bed {
        Some(bed) if bed.is_external() => [artifacts::FILES, &[artifacts::KUBECTL]].concat(),
        _ => [artifacts::BED, artifacts::FILES].concat(),
    };
    // The images need the first two. Built together, no dependency is compiled twice.
    let programs = ["layra-worker", "layra-operator", program];
    let start = Instant::now();
    let progress = Progress::new();
    let compile = async {
        let built = build_release(&programs, &progress).await;
        (built, Instant::now())
    };
    let (made, (built, compiled)) = tokio::join!(
        artifacts::provide_with(&settings, &needed, &progress),
        compile
    );
    let built = built?;
    made?;
    phases.add(
        "release build (artifacts at the same time)",
        compiled - start,
    );
    phases.add("remaining artifacts", compiled.elapsed());
    Ok(built)
}
