//! `layra-worker bench`: how fast single stages are on this machine. Scripts in `e2e/bench` compare
//! them with what Python does. Nothing here is used by the pipeline.

pub mod milvus;
pub mod render;
pub mod resolution;
pub mod text;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far, all threads.
fn cpu_of_process() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

/// CPU time of this thread so far.
fn cpu_of_thread() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Neither is negative, nor is a nanosecond count above a billion.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}
