//! Getting a document's original into a local file that removes itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempPath;
use tokio::sync::OnceCell;

use crate::failure::{Failure, Stage};
use crate::store::objects::Objects;

/// Larger originals are refused; they would fill the cache.
const LARGEST_ORIGINAL_BYTES: u64 = 2 << 30;

/// Originals in local files. Ranges of the same document share one.
#[derive(Clone, Debug)]
pub struct Originals {
    objects: Objects,
    directory: PathBuf,
    shared: Arc<Mutex<HashMap<String, Weak<OnceCell<TempPath>>>>>,
}

/// A local copy, removed with its last user.
#[derive(Clone, Debug)]
pub struct Original(Arc<OnceCell<TempPath>>);

impl Originals {
    /// Copies go below `directory`.
    #[must_use]
    pub fn new(objects: Objects, directory: PathBuf) -> Self {
        Self {
            objects,
            directory,
            shared: Arc::default(),
        }
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
            .prefix("original-")
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

impl AsRef<Path> for Original {
    fn as_ref(&self) -> &Path {
        self.0
            .get()
            .expect("an original is handed out once it is copied")
    }
}
