//! Divides the container's memory among renderers.

use std::path::Path;

/// Memory limit of one renderer, in bytes, if the container has enough.
const MOST_BYTES: u64 = 1 << 30;
/// The least that a renderer needs for pages of the largest size. Less would change how pages look.
const LEAST_BYTES: u64 = 640 << 20;

/// Renderers that compute at the same time, whatever the memory.
const LEAST_PROCESSES: usize = 2;

/// How many renderers there may be, and what each of them may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RendererShare {
    /// [`RenderOptions::processes`](super::RenderOptions::processes).
    pub processes: usize,
    /// [`RenderOptions::memory_limit_bytes`](super::RenderOptions::memory_limit_bytes).
    pub memory_limit_bytes: u64,
}

impl RendererShare {
    /// Half of the container's memory is for renderers. The rest is for the model, for pages that
    /// are not stored yet, and for files in the page cache. `None` is no limit.
    #[must_use]
    pub fn new(container_limit_bytes: Option<u64>, cores: usize) -> Self {
        let cores = cores.max(LEAST_PROCESSES);
        let budget = container_limit_bytes.map_or(u64::MAX, |limit| limit / 2);
        let fitting = usize::try_from(budget / LEAST_BYTES).unwrap_or(usize::MAX);
        let processes = fitting
            .saturating_sub(super::EXTRA_SLOTS)
            .clamp(LEAST_PROCESSES, cores);
        let share = budget / (processes + super::EXTRA_SLOTS) as u64;
        Self {
            processes,
            memory_limit_bytes: share.clamp(LEAST_BYTES, MOST_BYTES),
        }
    }
}

/// Memory limit of this process's container (cgroup v2): the lowest of its group and of all groups
/// above. `None` if there is no limit.
#[must_use]
pub fn container_limit_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    limit_of(Path::new("/sys/fs/cgroup"), group.unwrap_or("/"))
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
    fn renderers_share_half_of_the_container() {
        let share = |gib: u64, cores| {
            let share = RendererShare::new(Some(gib * GIB), cores);
            (share.processes, share.memory_limit_bytes >> 20)
        };
        assert_eq!(share(4, 16), (2, 640));
        assert_eq!(share(8, 16), (4, 682));
        assert_eq!(share(16, 16), (10, 682));
        assert_eq!(share(16, 4), (4, 1024));
        assert_eq!(share(64, 8), (8, 1024));
        // Too small for two: the kernel then kills renderers first.
        assert_eq!(share(2, 8), (2, 640));
        assert_eq!(
            RendererShare::new(None, 8),
            RendererShare {
                processes: 8,
                memory_limit_bytes: GIB
            }
        );
        assert_eq!(RendererShare::new(None, 1).processes, 2);
    }

    #[test]
    fn from_five_gibibytes_on_all_renderers_together_fit() {
        for mebibytes in (5120..200_000).step_by(377) {
            for cores in 1..64 {
                let limit = mebibytes << 20;
                let share = RendererShare::new(Some(limit), cores);
                let open = (share.processes + super::super::EXTRA_SLOTS) as u64;
                assert!(open * share.memory_limit_bytes <= limit / 2);
            }
        }
    }
}
