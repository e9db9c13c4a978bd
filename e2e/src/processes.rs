//! Processes of this machine, in a pod or not, as `/proc` shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use procfs::process::{Process, Stat, Status, all_processes};

/// Adds the present memory of the product's processes to the highest seen so far: name and bytes of
/// the largest process of each kind.
pub(crate) fn record_peaks(peaks: &mut BTreeMap<String, u64>) {
    for process in all() {
        let Ok(status) = process.status() else {
            continue;
        };
        let bytes = resident_bytes(&status);
        if bytes == 0 || !status.name.starts_with("layra-") {
            continue;
        }
        let is_renderer = process.cmdline().is_ok_and(|arguments| {
            let mut arguments = arguments.iter();
            arguments.any(|argument| argument.contains("render-child"))
        });
        let kind = if is_renderer { " (renderer)" } else { "" };
        let peak = peaks
            .entry(format!("{}{kind}, largest", status.name))
            .or_default();
        *peak = (*peak).max(bytes);
    }
}

/// Every process that can be read. Any of them may have ended by the time it is used.
pub(crate) fn all() -> impl Iterator<Item = Process> {
    all_processes().into_iter().flatten().flatten()
}

/// The process with this pid.
pub(crate) fn with_pid(pid: u32) -> Result<Process> {
    let process = Process::new(i32::try_from(pid)?);
    process.with_context(|| format!("process {pid}"))
}

/// The process of this name that started last.
#[must_use]
pub fn newest(name: &str) -> Option<Process> {
    all()
        .filter_map(|process| {
            let stat = process.stat().ok()?;
            (stat.comm == name).then_some((stat.starttime, process))
        })
        .max_by_key(|(started, _)| *started)
        .map(|(_, process)| process)
}

/// Pid of the process of this name in the pod with this UID; of several, the one that started first:
/// a worker's renderers have its name.
#[must_use]
pub fn in_pod(name: &str, uid: &str) -> Option<u32> {
    let is_in_pod = |process: &Process| {
        let groups = process.cgroups().into_iter().flatten();
        let mut paths = groups.map(|group| group.pathname);
        paths.any(|path| path.contains(uid))
    };
    let has_name = |process: &Process| process.stat().is_ok_and(|stat| stat.comm == name);
    let started = |process: &Process| process.stat().map_or(u64::MAX, |stat| stat.starttime);
    let found = all().filter(has_name).filter(is_in_pod);
    let first = found.min_by_key(started);
    first.map(|process| process.pid.cast_unsigned())
}

/// The running processes that `parent` has started.
pub(crate) fn children(parent: u32) -> impl Iterator<Item = Process> {
    all().filter(move |process| {
        let stat = process.stat();
        stat.is_ok_and(|stat| u32::try_from(stat.ppid) == Ok(parent))
    })
}

/// Processor time of a process or a thread so far.
#[must_use]
pub fn cpu_time(stat: &Stat) -> Duration {
    ticks(stat.utime + stat.stime)
}

/// Processor time of the children that have ended and been waited for.
#[must_use]
pub(crate) fn cpu_time_of_ended_children(stat: &Stat) -> Duration {
    let total = stat.cutime + stat.cstime;
    ticks(u64::try_from(total).unwrap_or_default())
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / procfs::ticks_per_second() as f64)
}

/// Bytes of memory that a process holds; none for a kernel thread.
#[must_use]
pub fn resident_bytes(status: &Status) -> u64 {
    1024 * status.vmrss.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_child_are_found_with_memory_and_time() {
        let this = with_pid(std::process::id()).unwrap();
        assert!(resident_bytes(&this.status().unwrap()) > 100_000);
        let start = std::time::Instant::now();
        while cpu_time(&this.stat().unwrap()) < Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_mins(1));
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found =
            children(std::process::id()).any(|process| process.pid.cast_unsigned() == child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
