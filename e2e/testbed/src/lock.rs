//! A file lock, released when the process that holds it exits for whatever reason.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Interval of attempts to take the lock. A blocking wait in the kernel could not be interrupted.
const INTERVAL: Duration = Duration::from_millis(200);

/// The lock, held until this value is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Lock {
    /// Waits for the lock `file`; `what` describes for people what its holder does.
    pub(super) async fn acquire(file: &Path, what: &str) -> Result<Self> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let lock = File::create(file).with_context(|| format!("opening {}", file.display()))?;
        let mut is_reported = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self(lock)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", file.display()));
                }
            }
            if !is_reported {
                eprintln!("waiting: another program {what}");
                is_reported = true;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_for_a_held_lock_ends_on_a_timeout_or_when_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/lock");
        let held = Lock::acquire(&file, "holds it").await.unwrap();
        let second = Lock::acquire(&file, "holds it");
        // If a thread waited for it, the runtime of this test would never shut down.
        let given_up = tokio::time::timeout(Duration::from_millis(50), second).await;
        assert!(given_up.is_err());
        let third = Lock::acquire(&file, "holds it");
        let release = async { drop(held) };
        let (third, ()) = tokio::join!(third, release);
        third.unwrap();
    }
}
