//! Worker processes that are started, killed and started again.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::worker_cli::WorkerCli;

/// A worker that is told to stop has this long.
const LEAVE: Duration = Duration::from_mins(1);

/// How long a renderer is waited for, to be killed.
const WORK: Duration = Duration::from_secs(20);
/// What a worker logs when it cannot write to its cache directory.
const DISK_FULL: &str = "CacheUnwritable";
/// What fits under a small cache directory.
const SMALL_DISK_BYTES: u64 = 4 << 20;
/// Runs a program with a small file system of its own under its cache directory, which goes with
/// it; the model, which is larger, stays where it is. Arguments: the cache, then the program's.
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
    /// Workers that ended and were not made to.
    deaths: Vec<String>,
}

/// What is under a worker's cache directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// This machine's.
    Shared,
    /// A small one of its own, which can be filled. Takes root.
    Small,
}

struct Worker {
    child: Child,
    is_told_to_end: bool,
    cache: PathBuf,
    log: PathBuf,
}

impl<'a> Fleet<'a> {
    /// Starts `count` workers.
    pub fn start(cli: &'a WorkerCli, count: usize) -> Result<Self> {
        Self::on(Disk::Shared, cli, count)
    }

    /// Starts `count` workers whose cache directories can be filled. Takes root.
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
            deaths: Vec::new(),
        })
    }

    /// Starts those again that have ended, as the kubelet would, without its growing pauses.
    pub fn restart_dead(&mut self) -> Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.child.try_wait()? {
                if !worker.is_told_to_end {
                    let words = last_error(&worker.log);
                    self.deaths
                        .push(format!("worker {index} ended by itself: {status}: {words}"));
                }
                *worker = Worker::start(self.cli, self.disk, index)?;
            }
        }
        Ok(())
    }

    /// Workers that were started again and had ended by themselves.
    #[must_use]
    pub fn deaths(&self) -> &[String] {
        &self.deaths
    }

    /// How many workers there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Their process ids.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        let workers = self.workers.iter();
        workers.map(|worker| worker.child.id()).collect()
    }

    /// Whether each has written this to its log.
    #[must_use]
    pub fn all_have_logged(&self, text: &str) -> bool {
        self.workers.iter().all(|worker| {
            let log = std::fs::read_to_string(&worker.log);
            log.is_ok_and(|log| log.contains(text))
        })
    }

    /// How often this stands in all their logs.
    #[must_use]
    pub fn count_logged(&self, text: &str) -> usize {
        let logs = self.workers.iter().map(|worker| {
            let log = std::fs::read_to_string(&worker.log);
            log.map_or(0, |log| log.matches(text).count())
        });
        logs.sum()
    }

    /// Ends one at once, with its renderers, as an out-of-memory kill of its container does.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let worker = &mut self.workers[index];
        for renderer in renderers(worker.child.id()) {
            let _ = signal(renderer, Signal::KILL);
        }
        worker.is_told_to_end = true;
        worker.child.kill()?;
        worker.child.wait()?;
        Ok(())
    }

    /// Ends one renderer of any worker, as soon as there is one. Says which.
    pub async fn kill_renderer(&self, random: &mut fastrand::Rng) -> Result<String> {
        let deadline = Instant::now() + WORK;
        while Instant::now() < deadline {
            let workers = self.workers.iter().enumerate();
            let all: Vec<(usize, u32)> = workers
                .flat_map(|(index, worker)| {
                    let renderers = renderers(worker.child.id());
                    renderers.into_iter().map(move |pid| (index, pid))
                })
                .collect();
            // It may end meanwhile, and renderers live for milliseconds.
            if let Some((index, pid)) = random.choice(all)
                && signal(pid, Signal::KILL).is_ok()
            {
                return Ok(format!("of worker {index}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok("there was none".to_owned())
    }

    /// Fills the disks under all cache directories, until a worker has met that, and for some time
    /// after.
    pub async fn fill_disks(&self, time: Duration) -> Result<String> {
        anyhow::ensure!(self.disk == Disk::Small, "only small disks can be filled");
        let before = self.count_logged(DISK_FULL);
        let mut fillers = Vec::new();
        for worker in &self.workers {
            fillers.push(worker.fill_disk().await?);
        }
        let full = Instant::now();
        while self.count_logged(DISK_FULL) == before && full.elapsed() < 2 * WORK {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(time).await;
        for filler in fillers {
            std::fs::remove_file(&filler).context("emptying a disk")?;
        }
        Ok(format!(
            "for {} s; workers met it {} times",
            full.elapsed().as_secs(),
            self.count_logged(DISK_FULL) - before
        ))
    }

    /// Asks one to leave, and waits until it has. Returns how long that took.
    pub async fn terminate(&mut self, index: usize) -> Result<Duration> {
        let worker = &mut self.workers[index];
        worker.is_told_to_end = true;
        signal(worker.child.id(), Signal::TERM)?;
        let asked = Instant::now();
        let deadline = asked + LEAVE;
        while worker.child.try_wait()?.is_none() {
            anyhow::ensure!(
                Instant::now() < deadline,
                "worker {index} does not leave within {} s",
                LEAVE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(asked.elapsed())
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
    /// Fills the small disk. Returns the file that does.
    async fn fill_disk(&self) -> Result<PathBuf> {
        // The file system is seen by its worker alone.
        let cache = self.cache.strip_prefix("/").unwrap_or(&self.cache);
        let root = format!("/proc/{}/root", self.child.id());
        let filler = Path::new(&root).join(cache).join("filler");
        let deadline = Instant::now() + WORK;
        loop {
            match fill(&filler) {
                Ok(()) => return Ok(filler),
                // It has only just been started.
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
        let child = with_this_program(&command)
            .env("POD_NAME", format!("worker-{index}"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("starting a worker")?;
        Ok(Self {
            child,
            is_told_to_end: false,
            cache,
            log,
        })
    }
}

/// The last error in a log.
fn last_error(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let errors = text
        .lines()
        .rfind(|line| line.contains(r#""level":"ERROR""#));
    errors.unwrap_or("without a word").to_owned()
}

/// The same command behind [`SMALL_DISK`].
fn on_small_disk(command: &Command, cache: &Path) -> Command {
    let mut small = Command::new("unshare");
    small
        .env("SIZE", SMALL_DISK_BYTES.to_string())
        .args(["--mount", "sh", "-ec", SMALL_DISK])
        .arg(cache);
    before(small, command)
}

/// The same command, killed when this program ends, however it does.
fn with_this_program(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]);
    before(bound, command)
}

/// A program that becomes another one, the process staying the same: `first`, then `command`.
fn before(mut first: Command, command: &Command) -> Command {
    first.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => first.env(name, value),
            None => first.env_remove(name),
        };
    }
    first
}

/// Writes until nothing fits any more; a disk that is not small is spared.
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
    Err(std::io::Error::other("it is not full yet"))
}

/// Sends a signal to a process.
pub(super) fn signal(pid: u32, signal: Signal) -> Result<()> {
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
