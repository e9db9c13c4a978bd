//! Bounds the memory of pages that are rendered and not yet stored.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit of the semaphore.
const PERMIT_BYTES: usize = 1 << 10;

/// Bytes of pages that may be in memory at the same time, shared by all documents.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    permits_in_total: u32,
    used: IntGauge,
}

/// Memory reserved for one page, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    _permit: OwnedSemaphorePermit,
    bytes: i64,
    used: IntGauge,
}

impl Budget {
    /// A budget of `bytes`. The gauge `used` shows the bytes in use.
    pub(crate) fn new(bytes: usize, used: IntGauge) -> Self {
        let permits_in_total = u32::try_from(bytes / PERMIT_BYTES)
            .unwrap_or(u32::MAX >> 4)
            .max(1);
        let permits = usize::try_from(permits_in_total).unwrap_or(usize::MAX);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            permits_in_total,
            used,
        }
    }

    /// Waits for memory for a page, before the page enters this process. A page that is larger than the budget gets the whole budget.
    pub(crate) async fn reserve(&self, bytes: usize) -> Reservation {
        let wanted = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.permits)
            .acquire_many_owned(wanted.min(self.permits_in_total))
            .await
            .expect("the semaphore is never closed");
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.used.add(bytes);
        Reservation {
            _permit: permit,
            bytes,
            used: self.used.clone(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn pages_wait_for_memory_and_a_huge_page_waits_for_all_of_it() {
        let used = IntGauge::new("used", "used").unwrap();
        let budget = Budget::new(10 * PERMIT_BYTES, used.clone());
        let first = budget.reserve(6 * PERMIT_BYTES).await;
        assert_eq!(used.get(), 6 * 1024);
        let second = budget.reserve(6 * PERMIT_BYTES);
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "there is not enough memory yet");
        drop(first);
        drop(second.await);
        let huge = budget.reserve(1000 * PERMIT_BYTES).await;
        assert_eq!(used.get(), 1000 * 1024);
        drop(huge);
        assert_eq!(used.get(), 0);
    }
}
