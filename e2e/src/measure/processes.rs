//! CPU time and memory of a worker and its renderers.

use std::time::Duration;

use anyhow::Result;

use crate::processes::{children, cpu_time, cpu_time_of_ended_children, resident_bytes, with_pid};

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
    /// CPU time of a worker so far.
    pub(super) fn of_worker(pid: u32) -> Result<Self> {
        let worker = with_pid(pid)?;
        let stat = worker.stat()?;
        let threads = worker.tasks()?.flatten();
        let embed: Duration = threads
            .filter_map(|thread| thread.stat().ok())
            .filter(|thread| is_of_model(&thread.comm))
            .map(|thread| cpu_time(&thread))
            .sum();
        Ok(Self {
            embed,
            render: cpu_time_of_ended_children(&stat),
            rest: cpu_time(&stat).saturating_sub(embed),
        })
    }

    /// CPU time since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            embed: self.embed.saturating_sub(before.embed),
            render: self.render.saturating_sub(before.render),
            rest: self.rest.saturating_sub(before.rest),
        }
    }
}

/// Whether a thread of this name runs the model.
fn is_of_model(thread: &str) -> bool {
    thread.starts_with("compute-") || ["embedder", "batches"].contains(&thread)
}

/// Resident bytes of a process and its children.
pub(super) fn resident_with_children(pid: u32) -> u64 {
    let process = with_pid(pid).ok().into_iter();
    process
        .chain(children(pid))
        .filter_map(|process| process.status().ok())
        .map(|status| resident_bytes(&status))
        .sum()
}
