//! Watches LibreOffice while it converts a document: the files in its directory and its threads,
//! which no resource limit bounds.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks. Meanwhile LibreOffice may exceed the limits.
const INTERVAL: Duration = Duration::from_millis(500);
/// Files and directories that LibreOffice may have. A typical conversion has 30.
const MAX_FILES: usize = 10_000;
/// Bytes of its files on disk, without the document itself.
const MAX_BYTES: u64 = 2 << 30;
/// Threads. A typical conversion has ten.
const MAX_THREADS: u64 = 512;

/// Waits until LibreOffice exceeds a limit, and says which.
pub(super) async fn excess(directory: &Path, document: &Path, process: Option<u32>) -> String {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if process
            .and_then(threads)
            .is_some_and(|threads| threads > MAX_THREADS)
        {
            return format!("LibreOffice has more than {MAX_THREADS} threads");
        }
        let (directory, document) = (directory.to_owned(), document.to_owned());
        let looked = tokio::task::spawn_blocking(move || exceeded(directory, &document));
        if let Ok(Some(limit)) = looked.await {
            return limit;
        }
    }
}

fn exceeded(directory: PathBuf, document: &Path) -> Option<String> {
    let (mut files, mut bytes) = (0, 0);
    let mut left = vec![directory];
    while let Some(directory) = left.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Files could be hidden below it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Some(format!("LibreOffice has an unreadable directory: {error}"));
            }
            // This process lacks descriptors or memory, or the disk fails.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            files += 1;
            if path != document {
                bytes += metadata.blocks() * 512;
            }
            if files > MAX_FILES {
                return Some(format!("LibreOffice has more than {MAX_FILES} files"));
            }
            if bytes > MAX_BYTES {
                let limit = MAX_BYTES >> 30;
                return Some(format!("LibreOffice has files of more than {limit} GiB"));
            }
            if metadata.is_dir() {
                left.push(path);
            }
        }
    }
    None
}

/// Threads of a process. `None` if it is gone.
fn threads(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    count?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_files_is_limited() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let look = || exceeded(directory.path().to_owned(), &path("document"));
        std::fs::create_dir(path("profile")).unwrap();
        assert_eq!(look(), None);
        let sparse = std::fs::File::create(path("sparse")).unwrap();
        sparse.set_len(2 * MAX_BYTES).unwrap();
        assert_eq!(look(), None, "blocks are counted, not lengths");
        for number in 0..MAX_FILES {
            std::fs::write(path("profile").join(number.to_string()), "").unwrap();
        }
        assert!(look().unwrap().contains("10000 files"));
    }

    #[test]
    fn threads_of_a_process_are_counted() {
        assert!(threads(std::process::id()).unwrap() >= 1);
        assert_eq!(threads(u32::MAX), None);
    }
}
