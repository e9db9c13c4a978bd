//! Ctrl-C and SIGTERM: a program that is told to end does not leave others at work.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// The same of SIGTERM.
const TERMINATED: u8 = 143;

/// Waits until this process is told to end, ends what it has started, and says the exit code.
/// Daemons of the bed are in sessions of their own and go on.
pub async fn interrupted() -> Result<u8> {
    let waiting = "waiting for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(waiting)?;
    let mut terminate = signal(SignalKind::terminate()).context(waiting)?;
    let code = tokio::select! {
        _ = interrupt.recv() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    };
    end_children()?;
    Ok(code)
}

/// One of `/proc`.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    parent: u32,
    session: u32,
}

fn end_children() -> Result<()> {
    let processes: Vec<Process> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            read(pid, &fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect();
    let pids = below(&processes, std::process::id());
    if !pids.is_empty() {
        // One may have ended by itself, as Ctrl-C reaches all of a terminal's programs.
        Command::new("kill")
            .arg("-TERM")
            .args(pids.iter().map(u32::to_string))
            .stderr(Stdio::null())
            .status()?;
    }
    Ok(())
}

/// From `/proc/PID/stat`. The name before the fields may hold anything.
fn read(pid: u32, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
    })
}

/// What a process has started and what was started by that, parents first, in its own session.
fn below(processes: &[Process], root: u32) -> Vec<u32> {
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
    fn parent_and_session_stand_behind_a_name_with_anything_in_it() {
        let process = read(9, "9 (a) S (b) S 7 8 6 0 -1 4194560").unwrap();
        assert_eq!((process.parent, process.session), (7, 6));
    }

    #[test]
    fn children_and_theirs_are_below_but_daemons_and_others_are_not() {
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
        assert_eq!(below(&processes, 5), [7, 8]);
        assert!(below(&processes, 8).is_empty());
        assert!(below(&processes, 4711).is_empty());
    }
}
