//! `cargo demo`, `cargo faults`, `cargo measure`, `cargo scaling`: makes what the program of that
//! name needs, then becomes it. Artifacts are downloaded and built while cargo compiles.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use layra_testbed::phases::{Phases, since_start_of_process};
use layra_testbed::{
    Progress, Settings, Testbed, artifacts, build_release, check_prerequisites, interrupted,
};

/// The programs of `layra-e2e`.
const PROGRAMS: [&str; 4] = ["demo", "faults", "measure", "scaling"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let compiling = since_start_of_process().unwrap_or_default();
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().unwrap_or_default();
    let Some(program) = PROGRAMS.into_iter().find(|name| program == *name) else {
        bail!("cargo demo, cargo faults, cargo measure or cargo scaling");
    };
    let arguments: Vec<OsString> = arguments.collect();
    let mut phases = Phases::default();
    phases.add("this runner compiled", compiling);

    let asks_for_help = |argument: &OsString| argument == "--help" || argument == "-h";
    let prepared = async {
        if arguments.iter().any(asks_for_help) {
            build_release(&[program], &Progress::new()).await
        } else {
            prepare(program, &mut phases).await
        }
    };
    let binaries = tokio::select! {
        binaries = prepared => binaries?,
        code = interrupted() => {
            let code = code?;
            eprintln!(
                "\ninterrupted. Nothing was started; what was downloaded and compiled is kept: \
                 `cargo {program}` goes on from there"
            );
            return Ok(ExitCode::from(code));
        }
    };
    let (name, value) = phases.to_variable();
    let error = Command::new(binaries.join(program))
        .args(arguments)
        .env(name, value)
        .exec();
    Err(error).with_context(|| format!("running {program}"))
}

/// Compiles the program and what ships, and makes all artifacts beside that. Says where the
/// programs are.
async fn prepare(program: &str, phases: &mut Phases) -> Result<std::path::PathBuf> {
    let settings = Settings::from_env()?;
    let bed = Testbed::find().await?;
    if bed.is_none() {
        check_prerequisites()?;
    }
    let needed = match &bed {
        Some(bed) if bed.is_external() => [artifacts::FILES, &[artifacts::KUBECTL]].concat(),
        _ => artifacts::ALL.to_vec(),
    };
    // The images are made of the first two: whichever cargo finishes first, nothing is built twice.
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
    phases.add("release build, artifacts beside it", compiled - start);
    phases.add("rest of the artifacts", compiled.elapsed());
    Ok(built)
}
