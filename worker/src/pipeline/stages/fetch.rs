//! Getting a document's original into a local file that removes itself.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use layra_rendering::OFFICE_PREFIX;
use tempfile::TempPath;
use tokio::sync::OnceCell;

use crate::runtime::failure::{Failure, Stage};
use crate::stores::objects::Objects;

/// Local copies are called so.
const PREFIX: &str = "original-";
/// Larger originals are refused; they would fill the cache.
const LARGEST_ORIGINAL_BYTES: u64 = 2 << 30;

/// Originals in local files. Ranges of the same document share one.
#[derive(Clone, Debug)]
pub struct Originals {
    objects: Objects,
    directory: PathBuf,
    shared: Arc<Mutex<HashMap<String, Weak<OnceCell<TempPath>>>>>,
    /// Held while this worker lives: the directory's originals are its own.
    _owned: Option<Arc<File>>,
}

/// A local copy, removed with its last user.
#[derive(Clone, Debug)]
pub struct Original(Arc<OnceCell<TempPath>>);

impl Originals {
    /// Copies go below `directory`, which is made when it does not exist.
    pub fn new(objects: Objects, directory: PathBuf) -> Result<Self, Failure> {
        let owned = own(&directory).map_err(|error| {
            let message = format!("{}: {error}", directory.display());
            Failure::fatal(Stage::Fetch, "CacheUnusable", message)
        })?;
        Ok(Self {
            objects,
            directory,
            shared: Arc::default(),
            _owned: owned.map(Arc::new),
        })
    }

    /// Copies the object `key`, unless a copy is in use.
    pub async fn get(&self, key: &str) -> Result<Original, Failure> {
        let cell = self.cell(key);
        cell.get_or_try_init(|| self.copy(key)).await?;
        Ok(Original(cell))
    }

    fn cell(&self, key: &str) -> Arc<OnceCell<TempPath>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, copy| copy.strong_count() > 0);
        if let Some(cell) = shared.get(key).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::default();
        shared.insert(key.to_owned(), Arc::downgrade(&cell));
        cell
    }

    async fn copy(&self, key: &str) -> Result<TempPath, Failure> {
        let directory = &self.directory;
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(directory)
            .map_err(|error| {
                let message = format!("{}: {error}", directory.display());
                Failure::transient(Stage::Fetch, "CacheUnwritable", message)
            })?;
        let path = file.into_temp_path();
        self.objects
            .download(Stage::Fetch, key, LARGEST_ORIGINAL_BYTES, &path)
            .await?;
        Ok(path)
    }
}

/// Takes the directory for this worker and removes the originals, and what they were being
/// converted to, that a killed one left. A second
/// worker with the same directory gets no lock, and removes nothing.
fn own(directory: &Path) -> std::io::Result<Option<File>> {
    std::fs::create_dir_all(directory)?;
    let lock = File::create(directory.join("originals.lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    for entry in std::fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // What cannot be removed is in nobody's way.
        if name.starts_with(PREFIX) {
            let _ = std::fs::remove_file(entry.path());
        } else if name.starts_with(OFFICE_PREFIX) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(Some(lock))
}

impl AsRef<Path> for Original {
    fn as_ref(&self) -> &Path {
        self.0
            .get()
            .expect("an original is handed out once it is copied")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_worker_of_a_directory_removes_what_a_killed_one_left() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("original-abc");
        std::fs::write(&left, "left").unwrap();
        let converted = directory.path().join("office-abc");
        std::fs::create_dir_all(converted.join("profile")).unwrap();
        let other = directory.path().join("model.safetensors");
        std::fs::write(&other, "kept").unwrap();
        let lock = own(directory.path()).unwrap();
        assert!(lock.is_some());
        assert!(!left.exists() && !converted.exists() && other.exists());

        std::fs::write(&left, "in use").unwrap();
        assert!(own(directory.path()).unwrap().is_none(), "a second worker");
        assert!(left.exists());
        drop(lock);
        assert!(own(directory.path()).unwrap().is_some());
        assert!(!left.exists());
    }
}
