//! Converts office documents to PDF with LibreOffice, one sandboxed process for each document. Its
//! profile and directory belong to this process alone and are removed afterwards.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::office_format::OfficeDocument;
use super::process::{exit_cause, not_started, read_tail};
use super::{RenderError, RenderOptions, cpu_time, office_child, office_watch};

/// Prefix of the names of conversion directories.
pub const PREFIX: &str = "office-";
/// Exit code by which LibreOffice requests a restart, as it does after creating a profile.
const EXIT_RESTART: i32 = 81;
/// How often LibreOffice is started for one document.
const MAX_STARTS: usize = 3;
/// Memory that LibreOffice may use at least, in bytes. It takes the place of a renderer.
const MEMORY_BYTES: u64 = 1 << 30;
/// File name of the converted document.
const RESULT: &str = "document.pdf";

/// A profile that disables macros and linked content.
const PROFILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="DisableMacrosExecution" oor:op="fuse"><value>true</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="MacroSecurityLevel" oor:op="fuse"><value>3</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="BlockUntrustedRefererLinks" oor:op="fuse"><value>true</value></prop></item>
<item oor:path="/org.openoffice.Office.Writer/Content/Update"><prop oor:name="Link" oor:op="fuse"><value>2</value></prop></item>
</oor:items>
"#;

/// A converted document, removed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Converted(Arc<OnceCell<Conversion>>);

#[derive(Debug)]
struct Conversion {
    directory: Directory,
    /// CPU time of LibreOffice, until somebody has been charged with it.
    used: Mutex<Duration>,
}

/// The directory of a conversion.
#[derive(Debug)]
struct Directory(TempDir);

impl Drop for Directory {
    /// LibreOffice could have made directories that cannot be removed as they are.
    fn drop(&mut self) {
        let mut left = vec![self.0.path().to_owned()];
        while let Some(directory) = left.pop() {
            // What fails here fails when the directory is removed.
            let _ = std::fs::set_permissions(&directory, Permissions::from_mode(0o700));
            let entries = std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten();
            let directories = entries.filter(|entry| {
                let kind = entry.file_type();
                kind.is_ok_and(|kind| kind.is_dir())
            });
            left.extend(directories.map(|entry| entry.path()));
        }
    }
}

impl Converted {
    /// Path of the PDF.
    pub(super) fn path(&self) -> PathBuf {
        self.conversion().directory.0.path().join(RESULT)
    }

    /// CPU time of the conversion. Only the first caller gets it.
    pub(super) fn take_used(&self) -> Duration {
        let used = self.conversion().used.lock();
        std::mem::take(&mut used.unwrap_or_else(PoisonError::into_inner))
    }

    fn conversion(&self) -> &Conversion {
        self.0.get().expect("it is returned after the conversion")
    }
}

/// Conversions that are in use. Page ranges of the same document share one.
#[derive(Debug, Default)]
pub(super) struct Conversions(Mutex<HashMap<PathBuf, Weak<OnceCell<Conversion>>>>);

impl Conversions {
    /// Converts the document at `file`, or returns a conversion of it that is in use.
    pub(super) async fn get(
        &self,
        options: &RenderOptions,
        file: &Path,
        document: OfficeDocument,
    ) -> Result<Converted, RenderError> {
        let cell = self.cell(file);
        cell.get_or_try_init(|| Box::pin(convert(options, file, document)))
            .await?;
        Ok(Converted(cell))
    }

    fn cell(&self, file: &Path) -> Arc<OnceCell<Conversion>> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cells.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = cells.get(file).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::default();
        cells.insert(file.to_owned(), Arc::downgrade(&cell));
        cell
    }
}

async fn convert(
    options: &RenderOptions,
    file: &Path,
    document: OfficeDocument,
) -> Result<Conversion, RenderError> {
    if !options.soffice.is_file() {
        return Err(RenderError::Unsupported(format!(
            "this is an office document ({}), and the worker's image has no LibreOffice at {}: \
             use the image of worker/Containerfile.office (value workerImage of the chart, or \
             spec.worker.image)",
            document.format.extension(),
            options.soffice.display()
        )));
    }
    let io = |error: io::Error| RenderError::Io(error.to_string());
    let directory = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(&options.scratch)
        .map(Directory)
        .map_err(io)?;
    let name = format!("document.{}", document.format.extension());
    prepare(directory.0.path(), file, &name).map_err(io)?;
    let used = run(options, directory.0.path(), &name).await?;
    if has_result(directory.0.path()) {
        return Ok(Conversion {
            directory,
            used: Mutex::new(used),
        });
    }
    // LibreOffice reports success even if it could not read the document.
    Err(if document.encrypted {
        RenderError::Encrypted
    } else {
        let extension = document.format.extension();
        RenderError::Damaged(format!("LibreOffice cannot read this {extension}"))
    })
}

/// Whether LibreOffice has left a PDF that this process can read. It could have left a link to
/// another file instead, which the renderer would be allowed to read.
fn has_result(directory: &Path) -> bool {
    let result = directory.join(RESULT);
    let metadata = std::fs::symlink_metadata(&result);
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
        && std::fs::set_permissions(&result, Permissions::from_mode(0o600)).is_ok()
}

/// A copy of the document, not a link: LibreOffice could change the original of all page ranges.
fn prepare(directory: &Path, file: &Path, name: &str) -> io::Result<()> {
    std::fs::copy(file, directory.join(name))?;
    let profile = directory.join("profile/user");
    std::fs::create_dir_all(&profile)?;
    std::fs::write(profile.join("registrymodifications.xcu"), PROFILE)
}

/// Returns the CPU time that LibreOffice used.
async fn run(
    options: &RenderOptions,
    directory: &Path,
    name: &str,
) -> Result<Duration, RenderError> {
    let deadline = Instant::now() + options.office_timeout;
    let mut used = Duration::ZERO;
    for _ in 0..MAX_STARTS {
        let end = start(options, directory, name, deadline, &mut used).await?;
        let (status, stderr_tail) = (end.status, end.stderr_tail);
        tracing::debug!(%status, stderr_tail, "LibreOffice exited");
        super::log_once(confinement(&end.report, status)?);
        match status.code() {
            Some(EXIT_RESTART) => {}
            // No other exit code depends on the result.
            Some(_) => return Ok(used),
            None => return Err(exit_cause(status, &stderr_tail, options.office_timeout)),
        }
    }
    Err(RenderError::Unavailable(format!(
        "{} requested a restart {MAX_STARTS} times",
        options.soffice.display()
    )))
}

/// What the node lacks for the sandbox. An error if LibreOffice did not start: then the document is
/// not to blame.
fn confinement(report: &str, status: ExitStatus) -> Result<&str, RenderError> {
    let mut gaps = None;
    for line in report.lines() {
        if line.starts_with(office_child::NOT_CONFINED) {
            return Err(RenderError::SandboxUnavailable(line.to_owned()));
        }
        if line.starts_with(office_child::NOT_STARTED) {
            return Err(RenderError::Unavailable(line.to_owned()));
        }
        gaps = gaps.or_else(|| line.strip_prefix(office_child::CONFINED).map(str::trim));
    }
    gaps.ok_or_else(|| match status.signal() {
        Some(libc::SIGKILL) => RenderError::Killed {
            signal: libc::SIGKILL,
        },
        _ => RenderError::Unavailable(format!("{}: {status}", office_child::NOT_STARTED)),
    })
}

/// How a process of LibreOffice ended.
struct End {
    status: ExitStatus,
    /// What it reported before it became LibreOffice.
    report: String,
    stderr_tail: String,
}

async fn start(
    options: &RenderOptions,
    directory: &Path,
    name: &str,
    deadline: Instant,
    used: &mut Duration,
) -> Result<End, RenderError> {
    let unavailable = |error: &dyn std::fmt::Display| {
        RenderError::Unavailable(format!("{}: {error}", options.soffice.display()))
    };
    let limit = deadline.saturating_duration_since(Instant::now());
    let mut child = Command::new(&options.program)
        .arg("office-child")
        .arg(&options.soffice)
        .arg(directory)
        .arg(name)
        .arg(options.memory_limit_bytes.max(MEMORY_BYTES).to_string())
        .arg(options.office_timeout.as_secs().to_string())
        .arg(options.sandbox.as_str())
        .env_clear()
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| not_started(&options.program, &error))?;
    let (Some(report), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(unavailable(&"the process has no pipes"));
    };
    let mut group = ProcessGroup(child);
    let process = group.0.id();
    let exit = async { tokio::join!(group.0.wait(), read_tail(report), read_tail(errors)) };
    let mut used_now = Duration::ZERO;
    let exit = Box::pin(cpu_time::sampled(process, &mut used_now, exit));
    let document = directory.join(name);
    let watched = async {
        tokio::select! {
            exit = exit => Ok(exit),
            excess = office_watch::excess(directory, &document, process) => Err(excess),
        }
    };
    let ended = cpu_time::within(limit, watched).await;
    *used += used_now;
    let error = match ended {
        Some(Ok((status, report, stderr_tail))) => {
            return Ok(End {
                status: status.map_err(|error| unavailable(&error))?,
                report,
                stderr_tail,
            });
        }
        Some(Err(excess)) => RenderError::TooLarge(excess),
        None => {
            let used = process.and_then(cpu_time::of_process);
            // A restarted process has only what is left of the time, and is judged by all of it.
            cpu_time::timed_out(options.office_timeout, None, used)
        }
    };
    group.kill();
    // The process must not write to the directory while it is being removed.
    let _ = group.0.wait().await;
    Err(error)
}

/// A process and the group that it leads; both are killed on drop.
struct ProcessGroup(Child);

impl ProcessGroup {
    fn kill(&self) {
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = leader.and_then(rustix::process::Pid::from_raw) {
            // An error means that it is already gone.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_another_file_is_no_result() {
        let directory = tempfile::tempdir().unwrap();
        let result = directory.path().join(RESULT);
        assert!(!has_result(directory.path()));
        symlink("/etc/passwd", &result).unwrap();
        assert!(!has_result(directory.path()));
        std::fs::remove_file(&result).unwrap();
        let other = directory.path().join("other");
        std::fs::write(&other, "x").unwrap();
        std::fs::hard_link(&other, &result).unwrap();
        assert!(!has_result(directory.path()), "it has another name");
        std::fs::remove_file(&other).unwrap();
        std::fs::set_permissions(&result, Permissions::from_mode(0o0)).unwrap();
        assert!(has_result(directory.path()));
        let mode = std::fs::metadata(&result).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn directories_that_libreoffice_has_locked_are_removed() {
        let directory = Directory(tempfile::tempdir().unwrap());
        let path = directory.0.path().to_owned();
        let locked = path.join("a/b");
        std::fs::create_dir_all(&locked).unwrap();
        std::fs::write(locked.join("file"), "x").unwrap();
        for part in [&locked, &path.join("a")] {
            std::fs::set_permissions(part, Permissions::from_mode(0o0)).unwrap();
        }
        drop(directory);
        assert!(!path.exists());
    }
}
