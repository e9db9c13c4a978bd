//! Worker processes that are started, killed and started again.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::worker_cli::WorkerCli;

/// A worker that is told to stop has this long.
const LEAVE: Duration = Duration::from_mins(1);

/// The workers of one pipeline.
pub struct Fleet<'a> {
    cli: &'a WorkerCli,
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    log: PathBuf,
}

impl<'a> Fleet<'a> {
    /// Starts `count` workers.
    pub fn start(cli: &'a WorkerCli, count: usize) -> Result<Self> {
        let workers = (0..count)
            .map(|index| Worker::start(cli, index))
            .collect::<Result<_>>()?;
        Ok(Self { cli, workers })
    }

    /// Starts those again that have ended, as the kubelet would, without its growing pauses.
    pub fn restart_dead(&mut self) -> Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if worker.child.try_wait()?.is_some() {
                *worker = Worker::start(self.cli, index)?;
            }
        }
        Ok(())
    }

    /// How many workers there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Ends one at once, with its renderers, as an out-of-memory kill of its container does.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        for renderer in renderers(worker.child.id()) {
            let _ = signal(renderer, Signal::KILL);
        }
        worker.child.kill()?;
        worker.child.wait()?;
        Ok(())
    }

    /// Ends one renderer of a worker, if there is one.
    pub fn kill_renderer(&self, index: usize) {
        if let Some(renderer) = renderers(self.workers[index].child.id()).first() {
            // It may have ended meanwhile.
            let _ = signal(*renderer, Signal::KILL);
        }
    }

    /// Asks one to leave, and waits until it has.
    pub async fn terminate(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        signal(worker.child.id(), Signal::TERM)?;
        let deadline = Instant::now() + LEAVE;
        while worker.child.try_wait()?.is_none() {
            anyhow::ensure!(
                Instant::now() < deadline,
                "worker {index} does not leave within {} s",
                LEAVE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Holds one, so that the group gives its partitions away, and lets it go on.
    pub async fn pause(&self, index: usize, time: Duration) -> Result<()> {
        let pid = self.workers[index].child.id();
        signal(pid, Signal::STOP)?;
        tokio::time::sleep(time).await;
        signal(pid, Signal::CONT)
    }

    /// Asks all to leave.
    pub async fn stop(&mut self) -> Result<()> {
        for index in 0..self.workers.len() {
            if self.workers[index].child.try_wait()?.is_none() {
                self.terminate(index).await?;
            }
        }
        Ok(())
    }

    /// The last lines of every worker.
    #[must_use]
    pub fn logs(&self) -> String {
        let tail = |worker: &Worker| {
            let text = std::fs::read_to_string(&worker.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            format!("--- {}\n{last}\n", worker.log.display())
        };
        self.workers.iter().map(tail).collect()
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

impl Worker {
    fn start(cli: &WorkerCli, index: usize) -> Result<Self> {
        let log = cli.directory().join(format!("worker-{index}.log"));
        let file: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let cache = format!("cache-{index}");
        let mut command: Command = cli.command(&["run", "--listen", "127.0.0.1:0"], &cache);
        let child = command
            .env("POD_NAME", format!("worker-{index}"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("starting a worker")?;
        Ok(Self { child, log })
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("a process id")?, signal).context("signalling a process")
}

/// The children of a process.
fn renderers(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}
