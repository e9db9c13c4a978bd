//! CPU time, memory and disk traffic of the worker and its renderers, read from `/proc` when metrics
//! are asked for, and the tasks of the runtime. What cannot be read is left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::OnceLock;

use layra_crds::metric_names::worker as names;
use prometheus::{CounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registration::{gauge, register};

/// The kernel's count of this process's disk traffic, with that of its children that have ended.
static TRAFFIC: OnceLock<Option<File>> = OnceLock::new();
/// The kernel writes seven short lines.
const TRAFFIC_BYTES: usize = 1024;

/// Opens what [`ProcessMetrics`] reads of the disk traffic. Must be called before the process hides
/// its memory, which gives the file to root.
pub(crate) fn open_traffic() {
    let _ = traffic_file();
}

fn traffic_file() -> Option<&'static File> {
    let open = || File::open("/proc/self/io").ok();
    TRAFFIC.get_or_init(open).as_ref()
}

fn traffic() -> String {
    let mut text = [0; TRAFFIC_BYTES];
    let read = traffic_file().and_then(|file| file.read_at(&mut text, 0).ok());
    String::from_utf8_lossy(&text[..read.unwrap_or(0)]).into_owned()
}

/// The metrics of processes.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu: CounterVec,
    memory: IntGaugeVec,
    disk: CounterVec,
    tasks: IntGauge,
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// CPU time, in ticks.
    ticks: u64,
    /// CPU time of its children that have ended, in ticks.
    ticks_of_ended: u64,
    resident_pages: u64,
}

/// The worker, and its renderers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    worker: Process,
    renderers: Process,
}

impl ProcessMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            cpu: register(
                registry,
                CounterVec::new(
                    Opts::new(
                        names::CPU_SECONDS,
                        "CPU time of the worker and of its renderers.",
                    ),
                    &[names::PROCESS],
                ),
            ),
            memory: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        names::MEMORY,
                        "Resident memory; memory that renderers share counts in each.",
                    ),
                    &[names::PROCESS],
                ),
            ),
            disk: register(
                registry,
                CounterVec::new(
                    Opts::new(
                        names::DISK_BYTES,
                        "Bytes read from and written to disks; those of a renderer from its end on.",
                    ),
                    &[names::DIRECTION],
                ),
            ),
            tasks: gauge(
                registry,
                names::ASYNC_TASKS,
                "Tasks of the asynchronous runtime that have not ended.",
            ),
        }
    }

    /// Reads all of them.
    pub(super) fn update(&self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        }
        let proc = Path::new("/proc");
        let own = std::process::id();
        if let Some(usage) = usage(&processes(proc), own) {
            let per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
            let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
            for (label, process) in [
                (names::PROCESS_WORKER, usage.worker),
                (names::PROCESS_RENDERERS, usage.renderers),
            ] {
                raise(&self.cpu, label, process.ticks as f64 / per_second);
                let bytes = process.resident_pages.saturating_mul(page);
                let gauge = self.memory.with_label_values(&[label]);
                gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        let traffic = traffic();
        for (label, field) in [
            (names::DIRECTION_READ, "read_bytes: "),
            (names::DIRECTION_WRITE, "write_bytes: "),
        ] {
            let value = traffic.lines().find_map(|line| line.strip_prefix(field));
            let bytes: u64 = value.and_then(|value| value.parse().ok()).unwrap_or(0);
            raise(&self.disk, label, bytes as f64);
        }
    }
}

/// Raises a counter to a value. A renderer that ends between two reads of `/proc` is missing for a
/// moment: the counter waits.
fn raise(counters: &CounterVec, label: &str, value: f64) {
    let counter = counters.with_label_values(&[label]);
    counter.inc_by((value - counter.get()).max(0.0));
}

/// All processes that this one sees, by their id.
fn processes(proc: &Path) -> BTreeMap<u32, Process> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let state = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((id, parse(&state)?))
    };
    entries.filter_map(process).collect()
}

/// The running processes that this one has started: its renderers.
pub(crate) fn children() -> Vec<u32> {
    let is_own = |process: &Process| {
        // One that has ended and is not waited for has no memory.
        process.parent == std::process::id() && process.resident_pages > 0
    };
    let all = processes(Path::new("/proc")).into_iter();
    let own = all.filter(|(_, process)| is_own(process));
    own.map(|(id, _)| id).collect()
}

/// Reads `/proc/PID/stat`. The second field, a name in parentheses, may have any characters.
fn parse(state: &str) -> Option<Process> {
    let (_, fields) = state.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ticks_of_ended: number(13)? + number(14)?,
        resident_pages: number(21)?,
    })
}

/// The sums of the process `own` and of all that it has started. Its own children that have ended
/// were renderers.
fn usage(all: &BTreeMap<u32, Process>, own: u32) -> Option<Usage> {
    let worker = *all.get(&own)?;
    let mut renderers = Process {
        ticks: worker.ticks_of_ended,
        ..Process::default()
    };
    for (id, process) in all {
        if *id != own && descends(all, process, own) {
            renderers.ticks += process.ticks + process.ticks_of_ended;
            renderers.resident_pages += process.resident_pages;
        }
    }
    Some(Usage { worker, renderers })
}

/// Whether a process descends from `own`. The steps are bounded: ids may be reused while `/proc` is
/// read.
fn descends(all: &BTreeMap<u32, Process>, process: &Process, own: u32) -> bool {
    let mut parent = process.parent;
    for _ in 0..16 {
        if parent == own {
            return true;
        }
        let Some(next) = all.get(&parent) else {
            return false;
        };
        parent = next.parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(parent: u32, ticks: u64, ticks_of_ended: u64, resident_pages: u64) -> Process {
        Process {
            parent,
            ticks,
            ticks_of_ended,
            resident_pages,
        }
    }

    #[test]
    fn the_fields_are_those_of_the_kernel() {
        let state = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 70 30 5 2 20 0 1 0 100 5000 12 18446744073709551615";
        assert_eq!(parse(state), Some(process(1, 100, 7, 12)));
        assert_eq!(parse("7 (cut"), None);
        let own = std::process::id();
        assert!(processes(Path::new("/proc"))[&own].resident_pages > 0);
    }

    #[test]
    fn renderers_are_all_that_the_worker_has_started() {
        let all = BTreeMap::from([
            (1, process(0, 1_000, 0, 1_000)),
            (7, process(1, 40, 5, 300)),
            // A renderer, and LibreOffice with a helper of its own.
            (8, process(7, 10, 0, 30)),
            (9, process(7, 20, 1, 40)),
            (10, process(9, 4, 0, 50)),
            (11, process(1, 500, 0, 500)),
        ]);
        let expected = Usage {
            worker: process(1, 40, 5, 300),
            renderers: process(0, 5 + 10 + 21 + 4, 0, 120),
        };
        assert_eq!(usage(&all, 7), Some(expected));
        assert_eq!(usage(&all, 12), None);
    }

    #[tokio::test]
    async fn tasks_that_have_not_ended_are_counted() {
        let metrics = ProcessMetrics::new(&Registry::new());
        let waiting = tokio::spawn(std::future::pending::<()>());
        metrics.update();
        assert_eq!(metrics.tasks.get(), 1);
        waiting.abort();
        let _ = waiting.await;
        metrics.update();
        assert_eq!(metrics.tasks.get(), 0);
    }

    #[test]
    fn a_counter_never_falls() {
        let metrics = ProcessMetrics::new(&Registry::new());
        for value in [3.0, 2.0, 4.0] {
            raise(&metrics.cpu, "worker", value);
        }
        assert!((metrics.cpu.with_label_values(&["worker"]).get() - 4.0).abs() < 1e-9);
        metrics.update();
        assert!(traffic().contains("write_bytes: "), "{}", traffic());
        assert!(metrics.memory.with_label_values(&["worker"]).get() > 0);
    }
}
