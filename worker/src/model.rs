//! Getting the model's files onto the local disk.
//!
//! `file://` is used where it is. `s3://` is copied into the cache once; a file is copied again
//! when its size or its entity tag has changed.

use std::path::{Path, PathBuf};

use layra_crds::WorkerConfig;

use crate::failure::{Failure, Stage};
use crate::settings::Secrets;
use crate::store::objects::Objects;

/// What every model needs.
const REQUIRED_FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];
/// Larger files are no model's.
const LARGEST_FILE_BYTES: u64 = 100 << 30;

/// The local directory with the model's files.
pub async fn obtain(
    config: &WorkerConfig,
    secrets: &Secrets,
    cache: &Path,
) -> Result<PathBuf, Failure> {
    let uri = &config.embedding.model.uri;
    if let Some(path) = uri.strip_prefix("file://") {
        let directory = PathBuf::from(path);
        require_files(&directory, uri)?;
        return Ok(directory);
    }
    let Some((bucket, prefix)) = uri
        .strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
    else {
        let message = format!("{uri} is neither s3://bucket/prefix nor file:///path");
        return Err(Failure::fatal(Stage::Model, "InvalidModelUri", message));
    };
    let objects = Objects::of_bucket(&config.documents.object_store, secrets, bucket)?;
    let directory = cache
        .join("models")
        .join(bucket)
        .join(prefix.trim_matches('/'));
    download(&objects, prefix.trim_matches('/'), &directory)
        .await
        .map_err(|failure| {
            match failure.reason {
                // The model's own files: no document is to blame.
                "ObjectNotFound" | "InvalidTask" => {
                    Failure::fatal(Stage::Model, "ModelNotFound", failure.message)
                }
                _ => failure,
            }
        })?;
    require_files(&directory, uri)?;
    Ok(directory)
}

async fn download(objects: &Objects, prefix: &str, directory: &Path) -> Result<(), Failure> {
    let unwritable = |error: std::io::Error| {
        let message = format!("{}: {error}", directory.display());
        Failure::transient(Stage::Model, "CacheUnwritable", message)
    };
    tokio::fs::create_dir_all(directory)
        .await
        .map_err(unwritable)?;
    for object in objects.list(Stage::Model, prefix).await? {
        let Some(name) = object.location.filename() else {
            continue;
        };
        let version = format!(
            "{} {}",
            object.size,
            object.e_tag.as_deref().unwrap_or_default()
        );
        let target = directory.join(name);
        let note = directory.join(format!(".{name}.version"));
        if is_current(&target, &note, object.size, &version).await {
            continue;
        }
        tracing::info!(file = name, bytes = object.size, "getting the model");
        let partial = directory.join(format!(".{name}.partial"));
        let key = object.location.as_ref();
        let size = objects
            .download(Stage::Model, key, LARGEST_FILE_BYTES, &partial)
            .await?;
        if size != object.size {
            let message = format!("{key}: {size} bytes instead of {}", object.size);
            return Err(Failure::transient(Stage::Model, "ModelIncomplete", message));
        }
        tokio::fs::rename(&partial, &target)
            .await
            .map_err(unwritable)?;
        tokio::fs::write(&note, version).await.map_err(unwritable)?;
    }
    Ok(())
}

/// Whether the cached file is the one that the note describes, complete.
async fn is_current(file: &Path, note: &Path, size: u64, version: &str) -> bool {
    let complete = tokio::fs::metadata(file)
        .await
        .is_ok_and(|metadata| metadata.len() == size);
    complete
        && tokio::fs::read_to_string(note)
            .await
            .is_ok_and(|noted| noted == version)
}

fn require_files(directory: &Path, uri: &str) -> Result<(), Failure> {
    match REQUIRED_FILES
        .iter()
        .find(|name| !directory.join(name).is_file())
    {
        None => Ok(()),
        Some(name) => {
            let message = format!("{uri} has no file {name}");
            Err(Failure::fatal(Stage::Model, "ModelNotFound", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_file_that_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), "{}").unwrap();
        let failure = require_files(directory.path(), "s3://models/minilm").unwrap_err();
        assert_eq!(
            failure.message,
            "s3://models/minilm has no file tokenizer.json"
        );
        for name in REQUIRED_FILES {
            std::fs::write(directory.path().join(name), "{}").unwrap();
        }
        assert_eq!(
            require_files(directory.path(), "s3://models/minilm"),
            Ok(())
        );
    }

    #[tokio::test]
    async fn a_changed_or_partial_file_is_copied_again() {
        let directory = tempfile::tempdir().unwrap();
        let (file, note) = (
            directory.path().join("f"),
            directory.path().join(".f.version"),
        );
        assert!(!is_current(&file, &note, 3, "3 a").await, "absent");
        std::fs::write(&file, "abc").unwrap();
        assert!(
            !is_current(&file, &note, 3, "3 a").await,
            "not known to be complete"
        );
        std::fs::write(&note, "3 a").unwrap();
        assert!(is_current(&file, &note, 3, "3 a").await);
        assert!(!is_current(&file, &note, 3, "3 b").await, "another ETag");
        std::fs::write(&file, "ab").unwrap();
        assert!(!is_current(&file, &note, 3, "3 a").await, "truncated");
    }
}
