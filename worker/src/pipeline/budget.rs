//! The bound on memory: how many bytes of pages are drawn and not yet stored.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit stands for so many bytes.
const GRAIN: usize = 1 << 10;

/// Bytes of pages that may be in memory at a time, shared by all documents.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    grains: u32,
    used: IntGauge,
}

/// Room for one page, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
    bytes: i64,
    used: IntGauge,
}

impl Budget {
    /// Room for `bytes`, reported in `used`.
    #[must_use]
    pub fn new(bytes: usize, used: IntGauge) -> Self {
        let grains = u32::try_from(bytes / GRAIN).unwrap_or(u32::MAX >> 4).max(1);
        let permits = usize::try_from(grains).unwrap_or(usize::MAX);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            grains,
            used,
        }
    }

    /// Waits for room for a page. A page that is larger than everything gets everything.
    ///
    /// # Panics
    /// Never: nobody closes the semaphore.
    pub async fn room(&self, bytes: usize) -> Room {
        let wanted = u32::try_from(bytes.div_ceil(GRAIN)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.permits)
            .acquire_many_owned(wanted.min(self.grains))
            .await
            .expect("the semaphore is never closed");
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.used.add(bytes);
        Room {
            _permit: permit,
            bytes,
            used: self.used.clone(),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn pages_wait_for_room_and_a_huge_one_waits_for_all_of_it() {
        let used = IntGauge::new("used", "used").unwrap();
        let budget = Budget::new(10 * GRAIN, used.clone());
        let first = budget.room(6 * GRAIN).await;
        assert_eq!(used.get(), 6 * 1024);
        let second = budget.room(6 * GRAIN);
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "there is no room yet");
        drop(first);
        drop(second.await);
        let huge = budget.room(1000 * GRAIN).await;
        assert_eq!(used.get(), 1000 * 1024);
        drop(huge);
        assert_eq!(used.get(), 0);
    }
}
