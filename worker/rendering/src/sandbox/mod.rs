//! The sandbox that a renderer enters before it opens a document: rlimits for descriptors, memory,
//! CPU time and processes, Landlock for [`files`] and network, and seccomp with a list of allowed
//! system [`calls`]. What the kernel does not support is reported as [`gaps`]; a policy decides
//! whether a document may be opened all the same.

mod calls;
mod files;
mod gaps;
pub(super) mod office;
mod office_calls;

use std::path::Path;
use std::time::Duration;

pub(super) use files::FONT_DIRECTORIES;
pub use gaps::SandboxPolicy;
pub(super) use gaps::{Gap, Gaps};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::time::{ClockId, clock_gettime};

/// Descriptors for the document and the fonts that it uses.
const OPEN_FILES: u64 = 32;
/// Size of a memory page.
const PAGE_BYTES: u64 = 4096;

/// If memory runs out, the kernel kills this process before the worker, whose model may be larger.
///
/// Where the kernel kills all processes of the container together, as the kubelet asks for on
/// cgroup v2, that would only make the worker an earlier victim on a node without memory: nothing
/// is changed then.
///
/// Must be called before [`hide_memory`], which gives the file to root.
fn be_killed_first() -> std::io::Result<()> {
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.oom.group");
    if group.is_ok_and(|group| group.trim() == "1") {
        return Ok(());
    }
    std::fs::write("/proc/self/oom_score_adj", "1000")
}

/// Keeps other processes of the same user from reading this one's memory or tracing it, and the
/// kernel from writing it to a core dump. A program that this process becomes must do so again.
pub fn hide_memory() -> std::io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// What a child process does at its start, before it reads anything of a document.
pub(super) fn prepare() -> std::io::Result<()> {
    be_killed_first()?;
    hide_memory()
}

/// Closes all descriptors except the standard three: a C library of the worker may have leaked one
/// to this process.
///
/// Must be called first, before the process opens a descriptor.
pub(super) fn close_inherited_descriptors() {
    #[allow(unsafe_code, reason = "closing by number needs a system call")]
    // SAFETY: called first in the process, so nothing owns a descriptor above 2 yet.
    let closed = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Kernels before 5.9 and some sandboxes do not have the call.
    for descriptor in 3..1024 {
        #[allow(unsafe_code, reason = "closing by number needs a system call")]
        // SAFETY: as above.
        unsafe {
            libc::close(descriptor);
        }
    }
}

/// A layer of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Resource limits (rlimits).
    Limits,
    /// Files, network and signals (Landlock).
    Files,
    /// System calls (seccomp).
    Calls,
}

impl Layer {
    pub(super) const ALL: [Self; 3] = [Self::Limits, Self::Files, Self::Calls];
}

/// Puts this process into the sandbox permanently: it keeps its open descriptors, and may read
/// `document` and fonts. The memory limit counts from what is mapped now, so call this after
/// loading libraries. Returns what this node does not support.
pub(super) fn confine(document: &Path, memory_limit_bytes: u64) -> std::io::Result<Gaps> {
    confine_by(&Layer::ALL, document, memory_limit_bytes)
}

/// [`confine`] with these layers only, to test each by itself.
pub(super) fn confine_by(
    layers: &[Layer],
    document: &Path,
    memory_limit_bytes: u64,
) -> std::io::Result<Gaps> {
    rustix::thread::set_no_new_privs(true)?;
    let mut gaps = Vec::new();
    for layer in layers {
        match layer {
            Layer::Limits => limit_process(memory_limit_bytes)?,
            Layer::Files => gaps.extend(files::read_only(document)?),
            Layer::Calls => gaps.extend(calls::allow_listed()?),
        }
    }
    Ok(gaps.into_iter().collect())
}

fn limit_process(memory_limit_bytes: u64) -> std::io::Result<()> {
    limit(
        Resource::As,
        mapped_bytes()?.saturating_add(memory_limit_bytes),
    )?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    limit(Resource::Nproc, 0)?;
    Ok(())
}

/// Gives this process `budget` of CPU time from now on; the kernel kills it when that is used up.
/// The worker's own timeout comes first, unless the worker is gone.
pub(super) fn allow_cpu(budget: Duration) -> std::io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = used.tv_sec.cast_unsigned() + budget.as_secs() + 2;
    let maximum = getrlimit(Resource::Cpu).maximum;
    let current = maximum.map_or(seconds, |maximum| seconds.min(maximum));
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: Some(current),
            maximum,
        },
    )?;
    Ok(())
}

/// Lowers a limit; never raises it above the inherited one.
fn limit(resource: Resource, value: u64) -> std::io::Result<()> {
    let inherited = getrlimit(resource).maximum;
    let value = inherited.map_or(value, |inherited| value.min(inherited));
    setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )?;
    Ok(())
}

fn mapped_bytes() -> std::io::Result<u64> {
    let sizes = std::fs::read_to_string("/proc/self/statm")?;
    let pages = sizes
        .split_whitespace()
        .next()
        .and_then(|pages| pages.parse::<u64>().ok());
    pages
        .map(|pages| pages * PAGE_BYTES)
        .ok_or_else(|| std::io::Error::other("/proc/self/statm does not start with a number"))
}
