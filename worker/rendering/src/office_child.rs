//! The process that becomes LibreOffice: it enters its sandbox and executes the program. It reports
//! on standard output, which LibreOffice does not get: whatever LibreOffice writes, it cannot be
//! taken for a report.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::{SandboxPolicy, sandbox, trial};

/// Start of the line after the process has entered its sandbox. What the node lacks for it follows.
pub(super) const CONFINED: &str = "LibreOffice is confined. Missing:";
/// Start of the line if LibreOffice would lack a part of its sandbox that is required.
pub(super) const NOT_CONFINED: &str = "LibreOffice cannot be confined";
/// Start of the line if LibreOffice could not be started.
pub(super) const NOT_STARTED: &str = "LibreOffice was not started";

/// Becomes LibreOffice. Arguments after the first: the program, its directory, the document's name
/// in it, memory in bytes, CPU time in seconds, the policy on its sandbox. Must be called before the
/// program opens anything or starts a thread.
#[must_use]
pub fn main() -> ExitCode {
    sandbox::close_inherited_descriptors();
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    if let Some((word, rest)) = arguments.split_first()
        && word == "try"
    {
        return match sandbox::prepare().and_then(|()| trial::run_office(rest)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let Err(report) = start(&arguments);
    println!("{report}");
    ExitCode::FAILURE
}

fn start(arguments: &[String]) -> Result<Infallible, String> {
    let not_started = |error: io::Error| format!("{NOT_STARTED}: {error}");
    let [program, directory, document, memory, seconds, policy] = arguments else {
        return Err(not_started(io::Error::other("expected six arguments")));
    };
    let number = |text: &str| {
        let number = text.parse::<u64>().map_err(io::Error::other);
        number.map_err(not_started)
    };
    let (program, directory) = (Path::new(program), Path::new(directory));
    let cpu = Duration::from_secs(number(seconds)?);
    let memory_limit_bytes = number(memory)?;
    let gaps = sandbox::prepare()
        .and_then(|()| sandbox::office::confine(program, directory, memory_limit_bytes, cpu));
    let gaps = gaps
        .map_err(|error| error.to_string())
        .and_then(|gaps| gaps.accepted_by(SandboxPolicy::from_word(policy)))
        .map_err(|error| format!("{NOT_CONFINED}: {error}"))?;
    println!("{CONFINED} {gaps}");
    let profile = url::Url::from_directory_path(directory.join("profile"))
        .map_err(|()| not_started(io::Error::other("the directory is not absolute")))?;
    let error = Command::new(program)
        .args(["--headless", "--norestore", "--nolockcheck", "--nodefault"])
        .arg(format!("-env:UserInstallation={profile}"))
        // Its socket must be in its directory, too, which is the working directory.
        .arg("-env:OSL_SOCKET_PATH=.")
        .args(["--convert-to", "pdf", "--outdir", "."])
        .arg(document)
        .env_clear()
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("LANG", "C.UTF-8")
        .stdout(Stdio::null())
        .exec();
    Err(not_started(error))
}
