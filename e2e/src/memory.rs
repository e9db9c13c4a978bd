//! Memory and processor time of the product's own processes, whichever pod they run in.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Adds what runs now to the highest seen: name and bytes of the largest process of that name.
pub fn note_peaks(peaks: &mut BTreeMap<String, u64>) {
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(status) = std::fs::read_to_string(process.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let (Some(name), Some(resident)) = (field("Name:"), field("VmRSS:")) else {
            continue;
        };
        if !name.starts_with("layra-") {
            continue;
        }
        let Some(kilobytes) = resident
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
        else {
            continue;
        };
        let renders = std::fs::read_to_string(process.path().join("cmdline"))
            .is_ok_and(|command| command.contains("render-child"));
        let name = if renders {
            format!("{name} (renderer)")
        } else {
            name.to_owned()
        };
        let peak = peaks.entry(format!("{name}, largest")).or_default();
        *peak = (*peak).max(kilobytes * 1024);
    }
}

/// A process of this machine, in a pod or not.
pub struct Process {
    pid: i32,
}

/// The process of this name that was started last.
#[must_use]
pub fn find(name: &str) -> Option<Process> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let started: u64 = field(&stat, STARTED)?;
            stat.contains(&format!("({name})"))
                .then_some((started, pid))
        })
        .max()
        .map(|(_, pid)| Process { pid })
}

/// Fields of `/proc/PID/stat` behind the name, counted from the state (proc(5): 14, 15 and 22).
const USER: usize = 11;
const SYSTEM: usize = 12;
const STARTED: usize = 19;

fn field<T: std::str::FromStr>(stat: &str, index: usize) -> Option<T> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(index)?.parse().ok()
}

impl Process {
    /// Seconds of processor time so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let ticks = |index| field::<u64>(&stat, index).context("/proc/PID/stat");
        let total = ticks(USER)? + ticks(SYSTEM)?;
        Ok(total as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Bytes of memory that it holds.
    pub fn resident_bytes(&self) -> Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid))?;
        let pages = statm.split_whitespace().nth(1).context("/proc/PID/statm")?;
        Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
    }
}
