//! Prints logs when a test on real servers fails.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::tail;
use super::services::Service;
use super::settings::Settings;

/// Prints the last log lines of every service and of every container that still exists.
pub fn print_logs(settings: &Settings) {
    for service in Service::ALL {
        print_tail(&settings.log(service.name()), 5);
    }
    for file in files_below(&settings.pod_logs()) {
        print_tail(&file, 20);
    }
}

fn print_tail(file: &Path, lines: usize) {
    println!("--- {}\n{}", file.display(), tail(file, lines));
}

/// All files below a directory; none when it cannot be read.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
