//! What a renderer takes away from itself before it touches a document: descriptors, memory, CPU
//! time and processes by limits, [`files`] and network by Landlock, everything else by a list of
//! the system [`calls`] that are left. What a kernel lacks is named; the rest holds.

mod calls;
mod files;
pub(super) mod office;

use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Descriptors that the document and the fonts it names may need at the same time.
const OPEN_FILES: u64 = 32;
/// Memory that is there before the document: read-only pages of program and libraries.
const PAGE_BYTES: u64 = 4096;

/// Closes every descriptor but the standard three: a C library of the worker may have left one
/// open over the start of this process.
///
/// Must be the first thing that the process does, while it owns no descriptor of its own.
pub(super) fn close_inherited_descriptors() {
    #[allow(unsafe_code, reason = "closing by number needs a system call")]
    // SAFETY: called first in the process: nobody holds a descriptor above 2 yet.
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

/// A part of the confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Limits of the process.
    Limits,
    /// Landlock.
    Files,
    /// The list of system calls.
    Calls,
}

impl Layer {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Limits, Self::Files, Self::Calls];
}

/// Confines this process for the rest of its life: it keeps its open descriptors, and may read
/// `document` and fonts. Memory is counted from what is mapped now, so call this after libraries
/// are loaded. Returns what this kernel lacks; empty where it lacks nothing.
pub(super) fn confine(document: &Path, memory_limit_bytes: u64) -> std::io::Result<String> {
    confine_by(&Layer::ALL, document, memory_limit_bytes)
}

/// [`confine`] with some layers only, to try out each by itself.
pub(super) fn confine_by(
    layers: &[Layer],
    document: &Path,
    memory_limit_bytes: u64,
) -> std::io::Result<String> {
    rustix::thread::set_no_new_privs(true)?;
    let mut lacking = Vec::new();
    for layer in layers {
        match layer {
            Layer::Limits => limit_process(memory_limit_bytes)?,
            Layer::Files => lacking.extend(files::read_only(document)?),
            Layer::Calls => lacking.extend(calls::allow_few()?),
        }
    }
    Ok(lacking.join(", "))
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

/// Gives this process `budget` of CPU time from now on; the kernel ends it when that is used up.
/// The worker's own time-out comes first, unless the worker is gone.
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

/// Lowers a limit, never raises it above what the process was given.
fn limit(resource: Resource, value: u64) -> std::io::Result<()> {
    let given = getrlimit(resource).maximum;
    let value = given.map_or(value, |given| value.min(given));
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
