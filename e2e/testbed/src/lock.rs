//! One starter at a time: a file lock that ends with its holder, however that ends.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing the file is the unlocking")] File);

impl Lock {
    /// Waits for the lock `file`; `what` tells people what is waited for.
    pub(super) async fn acquire(file: &Path, what: &str) -> Result<Self> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let lock = File::create(file).with_context(|| format!("opening {}", file.display()))?;
        if lock.try_lock().is_ok() {
            return Ok(Self(lock));
        }
        eprintln!("waiting for another program that {what}");
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        Ok(Self(lock))
    }
}
