//! Processes of the bed that no record names: a program that was killed between starting one and
//! noting it leaves such a process, and it would hold its port against the next bed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::settings::Settings;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Their pids: what was started with the bed's mark in its environment, by the bed or by another
/// process of it. Containers have an environment of their own, and are ended with their shims.
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

/// Ends them and waits until they are gone.
pub(super) async fn kill(settings: &Settings) -> Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let strays = find(settings);
        if strays.is_empty() {
            return Ok(());
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "processes of an earlier test-bed do not end: {strays:?}"
        );
        let pids: Vec<String> = strays.iter().map(u32::to_string).collect();
        // Whether it worked is seen by their end; one may have ended by itself.
        std::process::Command::new("kill")
            .arg("-KILL")
            .args(pids)
            .stderr(std::process::Stdio::null())
            .status()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `process` is its folder in `/proc`. One that has ended has no environment any more.
fn is_marked(process: &Path, mark: &[u8]) -> bool {
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|set| set == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_carries_the_mark_of_this_bed_is_found() {
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
        let found = find(&settings);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [children[0].id()]);
        assert!(find(&settings).is_empty());
    }
}
