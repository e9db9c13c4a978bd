//! Processes of the bed that no record names: a program that was killed between starting one and
//! noting it leaves such a process, and it would hold its port against the next bed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::settings::Settings;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Their pids: what runs in a folder of the bed's data, or was told of one. Logs do not count, a
/// person may be reading them.
pub(super) fn find(settings: &Settings) -> Vec<u32> {
    let folders = ["data", "kubernetes"].map(|name| settings.state.join(name));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (pid != std::process::id() && belongs(&entry.path(), &folders)).then_some(pid)
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

/// `process` is its folder in `/proc`. One that has ended names nothing any more.
fn belongs(process: &Path, folders: &[PathBuf]) -> bool {
    let works_there = fs::read_link(process.join("cwd"))
        .is_ok_and(|cwd| folders.iter().any(|folder| cwd.starts_with(folder)));
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    works_there || folders.iter().any(|folder| names(&command, folder))
}

fn names(command: &[u8], folder: &Path) -> bool {
    let mut folder = folder.as_os_str().as_bytes().to_vec();
    folder.push(b'/');
    command
        .windows(folder.len())
        .any(|window| window == folder.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_named_by_a_path_in_it_alone() {
        let folder = Path::new("/var/bed/data");
        assert!(names(b"java\0-cp\0x\0/var/bed/data/kafka/p\0", folder));
        assert!(names(b"etcd\0--data-dir=/var/bed/data/e\0", folder));
        assert!(!names(b"tail\0/var/bed/database/log\0", folder));
    }

    #[test]
    fn a_process_that_works_in_a_folder_belongs_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        let process = PathBuf::from(format!("/proc/{}", child.id()));
        let folders = [folder.path().canonicalize().unwrap()];
        assert!(belongs(&process, &folders));
        assert!(!belongs(Path::new("/proc/self"), &folders));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
