//! The process that becomes LibreOffice: it enters its sandbox and executes the program. If
//! anything fails before that, it exits with a message on standard error.

use std::convert::Infallible;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::{sandbox, trial};

/// Start of the message if LibreOffice could not be started.
pub(super) const NOT_STARTED: &str = "LibreOffice was not started";

/// Start of the line that reports which parts of the sandbox this kernel does not support.
pub(super) const GAPS: &str = "the sandbox lacks: ";

/// Becomes LibreOffice. Arguments after the first: the program, its directory, the document's name
/// in it, memory in bytes, CPU time in seconds. Must be called before the program opens anything
/// or starts a thread.
#[must_use]
pub fn main() -> ExitCode {
    sandbox::close_inherited_descriptors();
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    if let Some((word, rest)) = arguments.split_first()
        && word == "try"
    {
        return match trial::run_office(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let Err(error) = start(&arguments);
    eprintln!("{NOT_STARTED}: {error}");
    ExitCode::FAILURE
}

fn start(arguments: &[String]) -> io::Result<Infallible> {
    let [program, directory, document, memory, seconds] = arguments else {
        return Err(io::Error::other("expected five arguments"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let (program, directory) = (Path::new(program), Path::new(directory));
    let cpu = Duration::from_secs(number(seconds)?);
    sandbox::be_killed_first()?;
    let gaps = sandbox::office::confine(program, directory, number(memory)?, cpu)?;
    if !gaps.is_empty() {
        eprintln!("{GAPS}{gaps}");
    }
    let profile = url::Url::from_directory_path(directory.join("profile"))
        .map_err(|()| io::Error::other("the directory is not absolute"))?;
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
        .exec();
    Err(error)
}
