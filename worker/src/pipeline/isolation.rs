//! Isolation: a suspect document is worked on alone. If the worker dies meanwhile, no other
//! document comes under suspicion.

use std::sync::Arc;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work::{self, Wait};

/// The lock on the work of this worker: shared by normal work, exclusive for a suspect document.
#[derive(Clone, Debug, Default)]
pub(crate) struct Isolation {
    lock: Arc<RwLock<()>>,
    /// Cancelled when the worker ends for a fatal reason.
    closed: CancellationToken,
}

/// The lock, until it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "the guards act by being dropped")]
pub(super) enum Isolated<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Exclusive(RwLockWriteGuard<'a, ()>),
}

impl Isolation {
    /// Takes the lock. Fails if `cancel` is cancelled first, or the worker ends.
    pub(super) async fn lock(
        &self,
        exclusive: bool,
        cancel: &CancellationToken,
    ) -> Result<Isolated<'_>, Failure> {
        let _waiting = work::wait(Wait::Others);
        let lock = async {
            if exclusive {
                tracing::info!("a worker died on this document before, processing it in isolation");
                Isolated::Exclusive(self.lock.write().await)
            } else {
                Isolated::Shared(self.lock.read().await)
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::stopped(Stage::Intake)),
            () = self.closed.cancelled() => Err(Failure::stopped(Stage::Intake)),
            lock = lock => Ok(lock),
        }
    }

    /// Grants the lock to nobody any more. Called before it is released after a fatal failure: what
    /// began then would come under suspicion, too.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;

    #[tokio::test]
    async fn nothing_begins_after_a_fatal_failure() {
        let isolation = Isolation::default();
        let cancel = CancellationToken::new();
        let suspect = isolation.lock(true, &cancel).await.unwrap();
        let next = isolation.lock(false, &cancel);
        tokio::pin!(next);
        let end = async {
            tokio::task::yield_now().await;
            isolation.close();
            drop(suspect);
        };
        let (next, ()) = tokio::join!(next, end);
        assert_eq!(next.unwrap_err().class, Class::Stopped);
        assert!(isolation.lock(true, &cancel).await.is_err());
    }

    #[tokio::test]
    async fn a_document_without_the_lock_does_not_stop_a_suspect_one() {
        let isolation = Isolation::default();
        let cancel = CancellationToken::new();
        let waits_for_a_server = isolation.lock(false, &cancel).await.unwrap();
        drop(waits_for_a_server);
        let suspect = isolation.lock(true, &cancel).await.unwrap();
        drop(suspect);
        let (one, other) = tokio::join!(
            isolation.lock(false, &cancel),
            isolation.lock(false, &cancel)
        );
        assert!(one.is_ok() && other.is_ok(), "normal work is concurrent");
    }
}
