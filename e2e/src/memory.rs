//! Resident memory of the product's own processes, whichever pod they run in.

use std::collections::BTreeMap;

/// Adds what runs now to the highest seen: name and bytes of the largest process of that name.
pub fn note_peaks(peaks: &mut BTreeMap<String, u64>) {
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(status) = std::fs::read_to_string(process.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let (Some(name), Some(resident)) = (field("Name:"), field("VmRSS:")) else {
            continue;
        };
        if !name.starts_with("layra-") {
            continue;
        }
        let Some(kilobytes) = resident
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
        else {
            continue;
        };
        let renders = std::fs::read_to_string(process.path().join("cmdline"))
            .is_ok_and(|command| command.contains("render-child"));
        let name = if renders {
            format!("{name} (renderer)")
        } else {
            name.to_owned()
        };
        let peak = peaks.entry(format!("{name}, largest")).or_default();
        *peak = (*peak).max(kilobytes * 1024);
    }
}
