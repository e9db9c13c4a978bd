//! Daemons that outlive the program that started them. `STATE/pid/NAME` records pid and start time,
//! so that another process with a reused pid is never mistaken for the daemon.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::settings::Settings;

/// How long a killed process may take to exit.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// A daemon of the test-bed, by name. It may or may not be running.
#[derive(Clone, Debug)]
pub struct Daemon {
    name: String,
    record: PathBuf,
    log: PathBuf,
    mark: (&'static str, PathBuf),
}

/// Identifies a process: its pid alone may be reused after it exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    pid: u32,
    /// Clock ticks between boot and the start of the process.
    start_time: u64,
}

/// A signal for a daemon.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Asks it to shut down (TERM).
    Terminate,
    /// Kills it (KILL).
    Kill,
    /// Freezes it (STOP).
    Freeze,
    /// Resumes it (CONT).
    Thaw,
}

impl Daemon {
    /// The daemon `name` of the test-bed with these settings.
    #[must_use]
    pub fn new(settings: &Settings, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            record: settings.state.join("pid").join(name),
            log: settings.log(name),
            mark: settings.mark(),
        }
    }

    /// All daemons that have a record: started and not stopped.
    pub fn recorded(settings: &Settings) -> Result<Vec<Self>> {
        let folder = settings.state.join("pid");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names.iter().map(|name| Self::new(settings, name)).collect())
    }

    /// The daemon's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it in its own session, so that Ctrl-C in the terminal does not reach it.
    pub fn start(&self, command: &Command) -> Result<()> {
        if self.is_alive() {
            bail!("{} is already running", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut detached = Command::new("setsid");
        // Servers need more open files than the soft limit of a shell allows.
        detached.args([
            "sh",
            "-c",
            "ulimit -n \"$(ulimit -Hn)\"; exec \"$@\"",
            &self.name,
        ]);
        detached.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(key, value),
                None => detached.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            detached.current_dir(folder);
        }
        let (mark, state) = &self.mark;
        let child = detached
            .env(mark, state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let start_time = start_time(child.id())
            .with_context(|| format!("{} exited at once, see {}", self.name, self.log.display()))?;
        fs::write(&self.record, format!("{} {start_time}\n", child.id()))?;
        Ok(())
    }

    /// Whether the recorded process is running. A zombie is not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pid().is_some()
    }

    /// The pid, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let identity = self.recorded_identity()?;
        (start_time(identity.pid) == Some(identity.start_time)).then_some(identity.pid)
    }

    /// Resident memory in bytes, while it runs.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Sends the signal and waits until the process has exited; after `patience` it is killed.
    /// Fails when it does not exit then.
    pub async fn stop(&self, signal: Signal, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        self.send(signal)?;
        while let Some(pid) = self.pid() {
            let late = Instant::now().saturating_duration_since(deadline);
            ensure!(
                late < DEATH_LIMIT,
                "{} (process {pid}) was killed and does not exit",
                self.name
            );
            if !late.is_zero() {
                self.send(Signal::Kill)?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.record.exists() {
            fs::remove_file(&self.record)?;
        }
        Ok(())
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Sends a signal, if it runs.
    pub fn send(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let flag = match signal {
            Signal::Terminate => "-TERM",
            Signal::Kill => "-KILL",
            Signal::Freeze => "-STOP",
            Signal::Thaw => "-CONT",
        };
        // It may have exited already; the caller watches for that.
        Command::new("kill")
            .args([flag, &pid.to_string()])
            .stderr(Stdio::null())
            .status()?;
        Ok(())
    }

    fn recorded_identity(&self) -> Option<Identity> {
        let record = fs::read_to_string(&self.record).ok()?;
        let (pid, start_time) = record.trim().split_once(' ')?;
        Some(Identity {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }
}

/// The last lines of a file, or an explanation when it cannot be read.
pub(super) fn tail(file: &Path, lines: usize) -> String {
    match fs::read(file) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", file.display()),
    }
}

pub(super) fn start_time(pid: u32) -> Option<u64> {
    start_time_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat`; none for a zombie. The name before it may contain anything.
///
/// A killed process is a zombie as soon as its first thread is gone; the others may hold its ports
/// and files a moment longer. Until then field 20, the number of threads, is above 1.
fn start_time_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if matches!(fields[0], "Z" | "X") && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows the state, of a process with so many threads.
    fn rest(threads: u32) -> String {
        format!("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {threads} 18 4711 20")
    }

    #[test]
    fn start_time_is_parsed_after_a_name_with_spaces_and_parentheses() {
        let stat = format!("7 (a) S (b) S {}", rest(3));
        assert_eq!(start_time_of(&stat), Some(4711));
    }

    #[test]
    fn a_zombie_is_not_running() {
        assert_eq!(start_time_of(&format!("7 (x) Z {}", rest(1))), None);
    }

    #[test]
    fn a_killed_process_runs_until_its_last_thread_is_gone() {
        assert_eq!(start_time_of(&format!("7 (x) Z {}", rest(2))), Some(4711));
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(start_time(std::process::id()).is_some());
    }
}
