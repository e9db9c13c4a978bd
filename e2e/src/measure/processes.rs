//! CPU time and memory of a worker and its renderers, from `/proc`.

use std::time::Duration;

/// The kernel counts time of processes in hundredths of a second.
const MILLISECONDS_PER_TICK: u64 = 10;

/// CPU time by what it was used for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    /// The model's threads.
    pub(super) embed: Duration,
    /// Renderers that have ended: drawing, text, PNG.
    pub(super) render: Duration,
    /// Everything else: Kafka, transfer of pages, tokens, all stores.
    pub(super) rest: Duration,
}

impl Cpu {
    /// Of a worker until now.
    pub(super) fn of_worker(pid: u32) -> Self {
        let [own_user, own_system, user, system] = times(&format!("/proc/{pid}/stat"));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        let embed: Duration = threads
            .into_iter()
            .flatten()
            .flatten()
            .filter(|thread| {
                let name = std::fs::read_to_string(thread.path().join("comm"));
                name.is_ok_and(|name| {
                    name.starts_with("compute-") || ["embedder", "batches"].contains(&name.trim())
                })
            })
            .map(|thread| {
                let [user, system, ..] = times(&thread.path().join("stat").to_string_lossy());
                user + system
            })
            .sum();
        Self {
            embed,
            render: user + system,
            rest: (own_user + own_system).saturating_sub(embed),
        }
    }

    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            embed: self.embed.saturating_sub(before.embed),
            render: self.render.saturating_sub(before.render),
            rest: self.rest.saturating_sub(before.rest),
        }
    }
}

/// Resident bytes of a process and its children.
pub(super) fn resident(pid: u32) -> u64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok())
        .filter(|other| *other == pid || parent(*other) == Some(pid))
        .map(own_resident)
        .sum()
}

fn own_resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    1024 * kilobytes.unwrap_or_default()
}

fn parent(pid: u32) -> Option<u32> {
    field(&format!("/proc/{pid}/stat"), 1).and_then(|value| u32::try_from(value).ok())
}

/// User and system time of a process or thread, and of its children that have ended.
fn times(stat: &str) -> [Duration; 4] {
    [11, 12, 13, 14].map(|index| {
        let ticks = field(stat, index).unwrap_or_default();
        Duration::from_millis(ticks * MILLISECONDS_PER_TICK)
    })
}

/// A field of a `stat` file, counted from the state behind the name.
fn field(stat: &str, index: usize) -> Option<u64> {
    let text = std::fs::read_to_string(stat).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(index)?.trim().parse().ok()
}
