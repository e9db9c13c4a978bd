//! Fetches originals into local files that are removed after use.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use layra_rendering::OFFICE_PREFIX;
use tempfile::TempPath;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::objects::{Objects, Partial};

/// File names of local copies begin with this.
const PREFIX: &str = "original-";
/// Larger originals are rejected: they would fill the cache.
const LARGEST_ORIGINAL_BYTES: u64 = 2 << 30;

/// Originals in local files. All ranges of a document share one file.
#[derive(Clone, Debug)]
pub(crate) struct Originals {
    objects: Objects,
    directory: PathBuf,
    shared: Arc<Mutex<HashMap<String, Weak<LocalCopy>>>>,
    /// Locks the directory for this worker.
    _lock: Option<Arc<File>>,
}

/// A local copy. It is removed when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Original(Arc<LocalCopy>);

#[derive(Debug, Default)]
struct LocalCopy {
    complete: OnceCell<TempPath>,
    /// The beginning of the object, after a download that failed.
    partial: AsyncMutex<Option<(TempPath, Partial)>>,
}

impl Originals {
    /// Keeps copies in `directory`, which is created if it does not exist.
    pub(crate) fn new(objects: Objects, directory: PathBuf) -> Result<Self, Failure> {
        let lock = lock_and_clean(&directory).map_err(|error| {
            let message = format!("{}: {error}", directory.display());
            Failure::fatal(Stage::Fetch, Reason::CacheUnusable, message)
        })?;
        Ok(Self {
            objects,
            directory,
            shared: Arc::default(),
            _lock: lock.map(Arc::new),
        })
    }

    /// A place for a local copy of the object `key`, shared by all ranges of a round that need it
    /// now. A later round may have another object under the same key.
    pub(crate) fn place(&self, round: &str, key: &str) -> Original {
        Original(self.shared_copy(&format!("{round}/{key}")))
    }

    /// Copies the object `key` to its place, unless it is there. After a failure, the next call for
    /// the same place continues.
    /// With `version`, an object that has another one counts as deleted.
    pub(crate) async fn fetch(
        &self,
        key: &str,
        version: Option<&str>,
        place: &Original,
    ) -> Result<(), Failure> {
        let copy = &place.0;
        copy.complete
            .get_or_try_init(|| self.copy(key, version, &copy.partial))
            .await?;
        Ok(())
    }

    fn shared_copy(&self, name: &str) -> Arc<LocalCopy> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, copy| copy.strong_count() > 0);
        if let Some(cell) = shared.get(name).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::default();
        shared.insert(name.to_owned(), Arc::downgrade(&cell));
        cell
    }

    async fn copy(
        &self,
        key: &str,
        version: Option<&str>,
        partial: &AsyncMutex<Option<(TempPath, Partial)>>,
    ) -> Result<TempPath, Failure> {
        let mut kept = partial.lock().await;
        let (path, mut done) = if let Some(kept) = kept.take() {
            kept
        } else {
            let nothing = version.map_or_else(Partial::default, Partial::of_version);
            (self.new_file()?, nothing)
        };
        let limit = LARGEST_ORIGINAL_BYTES;
        let download = self
            .objects
            .download(Stage::Fetch, key, limit, &path, &mut done);
        match download.await {
            Ok(_) => Ok(path),
            Err(failure) => {
                *kept = Some((path, done));
                Err(failure)
            }
        }
    }

    fn new_file(&self) -> Result<TempPath, Failure> {
        let directory = &self.directory;
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(directory)
            .map_err(|error| {
                let message = format!("{}: {error}", directory.display());
                Failure::transient(Stage::Fetch, Reason::CacheUnwritable, message)
            })?;
        Ok(file.into_temp_path())
    }
}

/// Locks the directory and removes originals and converted files that a killed worker left there. A
/// second worker with the same directory gets no lock and removes nothing.
fn lock_and_clean(directory: &Path) -> std::io::Result<Option<File>> {
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
        // A file that cannot be removed does no harm.
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
            .complete
            .get()
            .expect("an original is copied before it is returned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_worker_of_a_directory_removes_files_of_a_killed_one() {
        let directory = tempfile::tempdir().unwrap();
        let leftover = directory.path().join("original-abc");
        std::fs::write(&leftover, "left").unwrap();
        let converted = directory.path().join("office-abc");
        std::fs::create_dir_all(converted.join("profile")).unwrap();
        let other = directory.path().join("model.safetensors");
        std::fs::write(&other, "kept").unwrap();
        let lock = lock_and_clean(directory.path()).unwrap();
        assert!(lock.is_some());
        assert!(!leftover.exists() && !converted.exists() && other.exists());

        std::fs::write(&leftover, "in use").unwrap();
        assert!(
            lock_and_clean(directory.path()).unwrap().is_none(),
            "a second worker"
        );
        assert!(leftover.exists());
        drop(lock);
        assert!(lock_and_clean(directory.path()).unwrap().is_some());
        assert!(!leftover.exists());
    }
}
