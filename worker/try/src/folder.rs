//! What is in the folder: every regular file below it, without hidden ones and without links.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// A folder with more files is refused: it is a mistake, such as `/`.
const MAX_FILES: usize = 20_000;
/// Folders within folders.
const MAX_DEPTH: usize = 32;

/// What shows that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Bytes.
    pub(crate) size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    modified: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let since = metadata.modified().ok();
        let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            size: metadata.len(),
            modified: since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0)),
        }
    }

    /// Whether the file was changed within the last seconds, and may still be written.
    pub(crate) fn is_fresh(&self) -> bool {
        let modified = UNIX_EPOCH + Duration::from_nanos(self.modified);
        let age = SystemTime::now().duration_since(modified);
        age.is_ok_and(|age| age < Duration::from_secs(2))
    }
}

/// The files below `root` by their path relative to it.
pub(crate) fn scan(root: &Path) -> Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    // Only the folder itself must be readable: an absent one must not look like an empty one.
    std::fs::read_dir(root).with_context(|| format!("reading the folder {}", root.display()))?;
    descend(root, "", 0, &mut files)?;
    Ok(files)
}

fn descend(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, Stamp>,
) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        tracing::warn!(folder = %folder.display(), "a folder cannot be read");
        return Ok(());
    };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        // Of the entry itself, not of what a link points to.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if metadata.is_dir() && depth < MAX_DEPTH {
            descend(&entry.path(), &format!("{name}/"), depth + 1, files)?;
        } else if metadata.is_file() {
            files.insert(name, Stamp::of(&metadata));
        }
        if files.len() > MAX_FILES {
            bail!("the folder has more than {MAX_FILES} files; choose one with your documents");
        }
    }
    Ok(())
}

/// The knowledge base of a file: the first folder of its path, or the searched folder's own name.
pub(crate) fn knowledge_base<'a>(name: &'a str, root_name: &'a str) -> &'a str {
    name.split_once('/').map_or(root_name, |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_below_the_folder_without_hidden_ones_and_links() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir_all(path("manuals/old")).unwrap();
        std::fs::create_dir(path(".git")).unwrap();
        for name in ["a.pdf", "manuals/old/b.pdf", ".git/c.pdf", ".d.pdf"] {
            std::fs::write(path(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", path("link.pdf")).unwrap();
        std::os::unix::fs::symlink(root.path(), path("loop")).unwrap();
        let found = scan(root.path()).unwrap();
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(names, ["a.pdf", "manuals/old/b.pdf"]);
        assert_eq!(found["a.pdf"].size, 1);
    }

    #[test]
    fn an_absent_folder_is_not_an_empty_one() {
        let root = tempfile::tempdir().unwrap();
        assert!(scan(&root.path().join("absent")).is_err());
    }

    #[test]
    fn a_knowledge_base_is_the_first_folder() {
        assert_eq!(knowledge_base("manuals/old/b.pdf", "docs"), "manuals");
        assert_eq!(knowledge_base("a.pdf", "docs"), "docs");
    }
}
