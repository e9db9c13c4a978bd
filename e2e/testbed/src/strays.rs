//! Processes of the test-bed without a record: a program that is killed between starting a process
//! and recording it leaves one behind, whose port the next test-bed could not use.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::settings::Settings;

/// How long a killed process may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Pids of the processes that have the test-bed's mark in their environment, inherited from the
/// test-bed or one of its processes. Containers have their own environment; they end with their
/// shims.
pub(super) fn find(settings: &Settings) -> Vec<u32> {
    let (name, state) = settings.mark();
    let mut mark = format!("{name}=").into_bytes();
    mark.extend(state.as_os_str().as_bytes());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (pid != std::process::id() && is_marked(&entry.path(), &mark)).then_some(pid)
        })
        .collect()
}

/// Kills them and waits until they have exited.
pub(super) async fn kill(settings: &Settings) -> Result<()> {
    let deadline = std::time::Instant::now() + KILL_LIMIT;
    loop {
        let strays = find(settings);
        if strays.is_empty() {
            return Ok(());
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "killed processes of an earlier test-bed do not exit: {strays:?}"
        );
        let pids: Vec<String> = strays.iter().map(u32::to_string).collect();
        // Some may have exited already. Success shows in the next iteration.
        std::process::Command::new("kill")
            .arg("-KILL")
            .args(pids)
            .stderr(std::process::Stdio::null())
            .status()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `process` is its directory in `/proc`. A process that has exited has no environment.
fn is_marked(process: &Path, mark: &[u8]) -> bool {
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|set| set == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_processes_with_the_mark_of_this_test_bed_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::from_env().unwrap();
        settings.state = folder.path().join("bed");
        let mut other = settings.clone();
        other.state = folder.path().join("bed2");

        let marked = |settings: &Settings| {
            let mut command = Command::new("sleep");
            command.arg("60").envs([settings.mark()]);
            command.spawn().unwrap()
        };
        let mut reader = Command::new("tail");
        fs::create_dir(&settings.state).unwrap();
        let log = settings.state.join("log");
        fs::write(&log, "").unwrap();
        reader.arg("-f").arg(log).current_dir(&settings.state);
        let mut children = [marked(&settings), marked(&other), reader.spawn().unwrap()];
        // A child's environment may appear a moment after its start.
        let deadline = std::time::Instant::now() + KILL_LIMIT;
        let mut found = find(&settings);
        while found.is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            found = find(&settings);
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [children[0].id()]);
        assert!(find(&settings).is_empty());
    }
}
