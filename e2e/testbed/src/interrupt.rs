//! Ctrl-C and SIGTERM: an interrupted command terminates its child processes and describes what is
//! left running.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that SIGINT has ended, by the convention of shells.
const INTERRUPTED: u8 = 130;
/// The same for SIGTERM.
const TERMINATED: u8 = 143;

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended<T> {
    /// With this result.
    Finished(T),
    /// By a signal; the process should exit with this code.
    Interrupted(ExitCode),
}

/// Runs a command until it finishes, or until Ctrl-C or SIGTERM. Then the command is dropped, its
/// child processes are terminated, and `left` describes for people what is left running. Daemons of
/// the test-bed have separate sessions and keep running.
pub async fn unless_interrupted<T>(
    command: impl Future<Output = Result<T>>,
    left: impl FnOnce() -> Result<String>,
) -> Result<Ended<T>> {
    tokio::select! {
        // Signals first: Ctrl-C also reaches the children, whose exits are no failures then.
        biased;
        code = interrupted() => {
            let code = code?;
            eprintln!("\ninterrupted. {}", left()?);
            Ok(Ended::Interrupted(ExitCode::from(code)))
        }
        result = command => result.map(Ended::Finished),
    }
}

/// Waits for a signal, terminates the child processes, and returns the exit code.
async fn interrupted() -> Result<u8> {
    let waiting = "waiting for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(waiting)?;
    let mut terminate = signal(SignalKind::terminate()).context(waiting)?;
    let code = tokio::select! {
        _ = interrupt.recv() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    };
    terminate_children()?;
    Ok(code)
}

/// A process of `/proc`.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    parent: u32,
    session: u32,
}

fn terminate_children() -> Result<()> {
    let processes: Vec<Process> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            read(pid, &fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect();
    let pids = descendants(&processes, std::process::id());
    if !pids.is_empty() {
        // Some may have exited already: Ctrl-C reaches all processes of the terminal.
        Command::new("kill")
            .arg("-TERM")
            .args(pids.iter().map(u32::to_string))
            .stderr(Stdio::null())
            .status()?;
    }
    Ok(())
}

/// Parses `/proc/PID/stat`. The name before the fields may contain anything.
fn read(pid: u32, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
    })
}

/// All descendants of a process that are in its session, parents first.
fn descendants(processes: &[Process], root: u32) -> Vec<u32> {
    let root_process = processes.iter().find(|process| process.pid == root);
    let Some(session) = root_process.map(|process| process.session) else {
        return Vec::new();
    };
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = processes
            .iter()
            .filter(|process| process.parent == parent && process.session == session);
        found.extend(children.map(|process| process.pid));
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_session_are_parsed_after_a_name_with_spaces_and_parentheses() {
        let process = read(9, "9 (a) S (b) S 7 8 6 0 -1 4194560").unwrap();
        assert_eq!((process.parent, process.session), (7, 6));
    }

    #[test]
    fn descendants_are_found_without_daemons_and_other_processes() {
        let processes = [
            (1, 0, 1),
            (5, 1, 5),
            (8, 7, 5),
            (6, 1, 5),
            (7, 5, 5),
            (9, 5, 9),
            (10, 9, 9),
        ]
        .map(|(pid, parent, session)| Process {
            pid,
            parent,
            session,
        });
        assert_eq!(descendants(&processes, 5), [7, 8]);
        assert!(descendants(&processes, 8).is_empty());
        assert!(descendants(&processes, 4711).is_empty());
    }
}
