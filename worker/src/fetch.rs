//! Getting a document's original into a local file that removes itself.

use std::path::Path;

use tempfile::TempPath;

use crate::failure::{Failure, Stage};
use crate::store::objects::Objects;

/// Larger originals are refused; they would fill the cache.
const LARGEST_ORIGINAL_BYTES: u64 = 2 << 30;

/// Copies the object `key` into a new file below `directory`.
pub async fn fetch(objects: &Objects, key: &str, directory: &Path) -> Result<TempPath, Failure> {
    let file = tempfile::Builder::new()
        .prefix("original-")
        .tempfile_in(directory)
        .map_err(|error| {
            let message = format!("{}: {error}", directory.display());
            Failure::transient(Stage::Fetch, "CacheUnwritable", message)
        })?;
    let path = file.into_temp_path();
    objects
        .download(Stage::Fetch, key, LARGEST_ORIGINAL_BYTES, &path)
        .await?;
    Ok(path)
}
