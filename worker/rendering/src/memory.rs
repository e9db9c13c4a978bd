//! How many renderers the container's memory bears.

use std::path::Path;

/// Memory limit of one renderer, in bytes: enough to scale the largest accepted image. It reserves
/// nothing; a typical page takes 31 MiB.
pub const RENDERER_LIMIT_BYTES: u64 = 1 << 30;
/// What is reckoned for a renderer. Pages that take more are rare, and rarely meet.
const TYPICAL_BYTES: u64 = 256 << 20;
/// Renderers that compute at the same time, whatever the memory.
const LEAST_PROCESSES: usize = 2;

/// How many renderers may compute at the same time: as many as there are cores, and as fit into
/// half of the container's memory. The other half is for the model, for pages that are not stored
/// yet, and for files in the page cache. `None` is no limit.
#[must_use]
pub fn renderer_count(container_limit_bytes: Option<u64>, cores: usize) -> usize {
    let budget = container_limit_bytes.map_or(u64::MAX, |limit| limit / 2);
    let fitting = usize::try_from(budget / TYPICAL_BYTES).unwrap_or(usize::MAX);
    fitting
        .saturating_sub(super::EXTRA_SLOTS)
        .clamp(LEAST_PROCESSES, cores.max(LEAST_PROCESSES))
}

/// Memory limit of this process's container: the lowest of its group and of all groups above
/// (cgroup v2), or the one of its memory controller (cgroup v1). `None` if there is no limit.
#[must_use]
pub fn container_limit_bytes() -> Option<u64> {
    /// Version 1 states no limit as a number near the largest.
    const NO_LIMIT: u64 = 1 << 60;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    limit_of(Path::new("/sys/fs/cgroup"), group.unwrap_or("/")).or_else(|| {
        let path = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let limit: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        (limit < NO_LIMIT).then_some(limit)
    })
}

/// Bytes of memory that a process has mapped, as its limit counts them. `None` if it is gone.
pub(super) fn mapped_bytes_of(process: u32) -> Option<u64> {
    let sizes = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = sizes.split_whitespace().next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn limit_of(root: &Path, group: &str) -> Option<u64> {
    // Inside of a container the group may be named as the node sees it, and the root is its own.
    let group = root.join(group.trim_start_matches('/'));
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(root));
    groups
        .filter_map(|group| std::fs::read_to_string(group.join("memory.max")).ok())
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_lowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods/pod7");
        std::fs::create_dir_all(pod.join("worker")).unwrap();
        let set = |group: &Path, limit: &str| {
            std::fs::write(group.join("memory.max"), limit).unwrap();
        };
        assert_eq!(limit_of(root.path(), "/kubepods/pod7/worker"), None);
        set(&pod.join("worker"), "max\n");
        assert_eq!(limit_of(root.path(), "/kubepods/pod7/worker"), None);
        set(&pod, "8589934592\n");
        assert_eq!(
            limit_of(root.path(), "/kubepods/pod7/worker"),
            Some(8 * GIB)
        );
        set(&pod.join("worker"), "4294967296\n");
        assert_eq!(
            limit_of(root.path(), "/kubepods/pod7/worker"),
            Some(4 * GIB)
        );
        // The container sees its own group as the root, under a name that does not exist in it.
        assert_eq!(
            limit_of(&pod.join("worker"), "/elsewhere/../worker"),
            Some(4 * GIB)
        );
        assert_eq!(limit_of(&pod.join("worker"), "/"), Some(4 * GIB));
    }

    #[test]
    fn renderers_are_as_many_as_cores_that_the_memory_bears() {
        let count = |gib: u64, cores| renderer_count(Some(gib * GIB), cores);
        assert_eq!(count(4, 16), 6);
        assert_eq!(count(8, 16), 14);
        assert_eq!(count(16, 16), 16);
        assert_eq!(count(16, 4), 4);
        assert_eq!(count(1, 8), 2, "two compute whatever the memory");
        assert_eq!(renderer_count(None, 8), 8);
        assert_eq!(renderer_count(None, 1), 2);
    }
}
