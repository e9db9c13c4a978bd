//! One starter at a time: a file lock that ends with its holder, however that ends.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// How often a lock that is held is tried again. Waiting in the kernel could not be interrupted.
const INTERVAL: Duration = Duration::from_millis(200);

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
        let mut is_told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self(lock)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", file.display()));
                }
            }
            if !is_told {
                eprintln!("waiting for another program that {what}");
                is_told = true;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_lock_is_waited_for_until_nobody_wants_it_or_it_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/lock");
        let held = Lock::acquire(&file, "holds it").await.unwrap();
        let second = Lock::acquire(&file, "holds it");
        // Were it waited for in a thread, the end of this test's runtime would never come.
        let given_up = tokio::time::timeout(Duration::from_millis(50), second).await;
        assert!(given_up.is_err());
        let third = Lock::acquire(&file, "holds it");
        let release = async { drop(held) };
        let (third, ()) = tokio::join!(third, release);
        third.unwrap();
    }
}
