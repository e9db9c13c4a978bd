//! Worker processes: started, killed and restarted.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::processes::children;
use crate::worker_cli::WorkerCli;

/// How long a worker may take to exit after SIGTERM.
const SHUTDOWN_LIMIT: Duration = Duration::from_mins(1);
/// How long to wait until a worker starts a renderer or uses its disk.
const WORK_LIMIT: Duration = Duration::from_secs(20);
/// What a worker logs when it cannot write to its cache directory.
const DISK_FULL: &str = "CacheUnwritable";
/// Size of a small cache directory.
const SMALL_DISK_BYTES: u64 = 4 << 20;
/// Runs a program with a small file system mounted on its cache directory, in a mount namespace
/// that ends with it. The model is larger and stays on the machine's disk. Arguments: the cache
/// directory, then the program with its arguments.
const SMALL_DISK: &str = r#"
    mkdir -p "$0/models" "$0.models"
    mount -t tmpfs -o size=$SIZE layra-faults "$0"
    mkdir "$0/models"
    mount --bind "$0.models" "$0/models"
    exec "$@""#;

/// The workers of one pipeline.
pub struct Fleet<'a> {
    cli: &'a WorkerCli,
    disk: Disk,
    workers: Vec<Worker>,
    /// Workers that exited without being killed or terminated.
    unexpected_exits: Vec<String>,
}

/// The file system of a worker's cache directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// The machine's.
    Shared,
    /// A small one for this worker, which can be filled. Needs root.
    Small,
}

struct Worker {
    child: Child,
    exit_is_expected: bool,
    cache: PathBuf,
    log: PathBuf,
}

impl<'a> Fleet<'a> {
    /// Starts `count` workers.
    pub fn start(cli: &'a WorkerCli, count: usize) -> Result<Self> {
        Self::on(Disk::Shared, cli, count)
    }

    /// Starts `count` workers whose cache directories can be filled. Needs root.
    pub fn with_small_disks(cli: &'a WorkerCli, count: usize) -> Result<Self> {
        Self::on(Disk::Small, cli, count)
    }

    fn on(disk: Disk, cli: &'a WorkerCli, count: usize) -> Result<Self> {
        let workers = (0..count)
            .map(|index| Worker::start(cli, disk, index))
            .collect::<Result<_>>()?;
        Ok(Self {
            cli,
            disk,
            workers,
            unexpected_exits: Vec::new(),
        })
    }

    /// Restarts workers that have exited, as the kubelet would, without its back-off.
    pub fn restart_dead(&mut self) -> Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.child.try_wait()? {
                if !worker.exit_is_expected {
                    let error = last_error(&worker.log);
                    self.unexpected_exits.push(format!(
                        "worker {index} exited by itself: {status}: {error}"
                    ));
                }
                *worker = Worker::start(self.cli, self.disk, index)?;
            }
        }
        Ok(())
    }

    /// Workers that exited by themselves and were restarted.
    #[must_use]
    pub fn unexpected_exits(&self) -> &[String] {
        &self.unexpected_exits
    }

    /// Number of workers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Process ids of the workers.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        let workers = self.workers.iter();
        workers.map(|worker| worker.child.id()).collect()
    }

    /// Whether every worker has logged `text`.
    #[must_use]
    pub fn all_have_logged(&self, text: &str) -> bool {
        self.workers.iter().all(|worker| {
            let log = std::fs::read_to_string(&worker.log);
            log.is_ok_and(|log| log.contains(text))
        })
    }

    /// How often `text` occurs in the logs of all workers.
    #[must_use]
    pub fn count_logged(&self, text: &str) -> usize {
        let logs = self.workers.iter().map(|worker| {
            let log = std::fs::read_to_string(&worker.log);
            log.map_or(0, |log| log.matches(text).count())
        });
        logs.sum()
    }

    /// Kills a worker and its renderers, as an out-of-memory kill of its container does.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        for renderer in children(worker.child.id()) {
            let _ = signal(renderer.pid.cast_unsigned(), Signal::KILL);
        }
        worker.exit_is_expected = true;
        worker.child.kill()?;
        worker.child.wait()?;
        Ok(())
    }

    /// Kills a renderer of any worker, as soon as there is one. Returns whose it was.
    pub async fn kill_renderer(&self, random: &mut fastrand::Rng) -> Result<Option<String>> {
        let workers: Vec<u32> = self.workers.iter().map(|it| it.child.id()).collect();
        let index = kill_renderer(&workers, random, WORK_LIMIT).await;
        Ok(index.map(|index| format!("of worker {index}")))
    }

    /// Fills the disks of all cache directories until a worker has failed to write, and for `time`
    /// after that.
    pub async fn fill_disks(&self, time: Duration) -> Result<Option<String>> {
        anyhow::ensure!(self.disk == Disk::Small, "only small disks can be filled");
        let before = self.count_logged(DISK_FULL);
        let mut fillers = Vec::new();
        for worker in &self.workers {
            fillers.push(worker.fill_disk().await?);
        }
        let full = Instant::now();
        while self.count_logged(DISK_FULL) == before && full.elapsed() < 2 * WORK_LIMIT {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(time).await;
        for filler in fillers {
            std::fs::remove_file(&filler).context("emptying a disk")?;
        }
        let failed = self.count_logged(DISK_FULL) - before;
        let seconds = full.elapsed().as_secs();
        Ok(
            (failed > 0)
                .then(|| format!("for {seconds} s; workers failed to write {failed} times")),
        )
    }

    /// Sends SIGTERM to a worker and waits until it has exited. Returns how long that took.
    pub async fn terminate(&mut self, index: usize) -> Result<Duration> {
        let worker = &mut self.workers[index];
        worker.exit_is_expected = true;
        signal(worker.child.id(), Signal::TERM)?;
        let start = Instant::now();
        let deadline = start + SHUTDOWN_LIMIT;
        while worker.child.try_wait()?.is_none() {
            anyhow::ensure!(
                Instant::now() < deadline,
                "worker {index} did not exit within {} s",
                SHUTDOWN_LIMIT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(start.elapsed())
    }

    /// Stops a worker with SIGSTOP, so that the group reassigns its partitions, and resumes it
    /// after `time`.
    pub async fn pause(&self, index: usize, time: Duration) -> Result<()> {
        let pid = self.workers[index].child.id();
        signal(pid, Signal::STOP)?;
        tokio::time::sleep(time).await;
        signal(pid, Signal::CONT)
    }

    /// Stops a worker that has a renderer, with all its renderers, and resumes them after `time`,
    /// as when the machine is suspended.
    pub async fn stand_still(
        &self,
        time: Duration,
        random: &mut fastrand::Rng,
    ) -> Result<Option<String>> {
        let deadline = Instant::now() + WORK_LIMIT;
        while Instant::now() < deadline {
            let index = random.usize(0..self.workers.len());
            let worker = self.workers[index].child.id();
            if children(worker).next().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            // The worker first: it must not see that its renderers stand still.
            signal(worker, Signal::STOP)?;
            let renderers: Vec<u32> = children(worker)
                .map(|renderer| renderer.pid.cast_unsigned())
                .collect();
            for &renderer in &renderers {
                let _ = signal(renderer, Signal::STOP);
            }
            tokio::time::sleep(time).await;
            for &renderer in &renderers {
                let _ = signal(renderer, Signal::CONT);
            }
            signal(worker, Signal::CONT)?;
            let (count, seconds) = (renderers.len(), time.as_secs());
            return Ok(Some(format!(
                "worker {index} and {count} renderers for {seconds} s"
            )));
        }
        Ok(None)
    }

    /// Terminates all workers and waits until they have exited.
    pub async fn stop(&mut self) -> Result<()> {
        for index in 0..self.workers.len() {
            if self.workers[index].child.try_wait()?.is_none() {
                self.terminate(index).await?;
            }
        }
        Ok(())
    }

    /// The last lines of every worker's log.
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

    /// Copies the logs to a new directory that outlives this program, and returns it.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let kept = TempDir::with_prefix("layra-faults-")?.keep();
        for worker in &self.workers {
            let name = worker.log.file_name().unwrap_or_default();
            std::fs::copy(&worker.log, kept.join(name))?;
        }
        Ok(kept)
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
    /// Fills the small disk. Returns the file that fills it.
    async fn fill_disk(&self) -> Result<PathBuf> {
        // Only the worker's mount namespace has this file system.
        let cache = self.cache.strip_prefix("/").unwrap_or(&self.cache);
        let root = format!("/proc/{}/root", self.child.id());
        let filler = Path::new(&root).join(cache).join("filler");
        let deadline = Instant::now() + WORK_LIMIT;
        loop {
            match fill(&filler) {
                Ok(()) => return Ok(filler),
                // The worker may have started only a moment ago.
                Err(_) if Instant::now() < deadline => {}
                Err(error) => return Err(error).context(filler.display().to_string()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn start(cli: &WorkerCli, disk: Disk, index: usize) -> Result<Self> {
        let log = cli.directory().join(format!("worker-{index}.log"));
        let file: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let cache = cli.directory().join(format!("cache-{index}"));
        let run = ["run", "--listen", "127.0.0.1:0"];
        let mut command: Command = cli.command(&run, &format!("cache-{index}"));
        if disk == Disk::Small {
            command = on_small_disk(&command, &cache);
        }
        let child = bound_to_this_process(&command)
            .env("POD_NAME", format!("worker-{index}"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("starting a worker")?;
        Ok(Self {
            child,
            exit_is_expected: false,
            cache,
            log,
        })
    }
}

/// The last error in a log.
fn last_error(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let error = text
        .lines()
        .rfind(|line| line.contains(r#""level":"ERROR""#));
    error.unwrap_or("no error logged").to_owned()
}

/// The command, started through [`SMALL_DISK`].
fn on_small_disk(command: &Command, cache: &Path) -> Command {
    let mut small = Command::new("unshare");
    small
        .env("SIZE", SMALL_DISK_BYTES.to_string())
        .args(["--mount", "sh", "-ec", SMALL_DISK])
        .arg(cache);
    wrapped(small, command)
}

/// The command, killed when this process ends for whatever reason.
fn bound_to_this_process(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]);
    wrapped(bound, command)
}

/// `wrapper` with `command` as its last arguments. A wrapper executes the command in its own
/// process.
fn wrapped(mut wrapper: Command, command: &Command) -> Command {
    wrapper.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    wrapper
}

/// Writes until the disk is full. Gives up on a disk that is not a small one.
fn fill(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut written = 0;
    while written < 2 * SMALL_DISK_BYTES {
        match file.write(&[0; 4096]) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    std::fs::remove_file(path)?;
    Err(std::io::Error::other("the small disk is not mounted yet"))
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("a process id")?, signal).context("signalling a process")
}

/// Kills a renderer of any of these workers, as soon as there is one. Returns the worker's index.
pub(crate) async fn kill_renderer(
    workers: &[u32],
    random: &mut fastrand::Rng,
    limit: Duration,
) -> Option<usize> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        let renderers = workers.iter().enumerate().flat_map(|(index, worker)| {
            children(*worker).map(move |renderer| (index, renderer.pid.cast_unsigned()))
        });
        let renderers: Vec<(usize, u32)> = renderers.collect();
        // Renderers live for milliseconds: this one may have exited already.
        if let Some((index, pid)) = random.choice(renderers)
            && signal(pid, Signal::KILL).is_ok()
        {
            return Some(index);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}
