//! The claims of this worker whose work has not ended. If the worker must exit first, it gives them
//! back, so that no document comes under suspicion.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Pipeline;
use crate::stores::ledger::Claim;

/// Longest wait for the ledger when the worker exits.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// How often a claim is released before it is left to [`Pipeline::give_back_claims`], and the pause
/// between two attempts.
const RELEASE_ATTEMPTS: u32 = 3;
const RELEASE_PAUSE: Duration = Duration::from_millis(500);

/// The open claims of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenClaims(Arc<Mutex<Vec<Claim>>>);

/// A claim that is open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenClaim {
    claims: OpenClaims,
    claim: Claim,
    stays_open: bool,
}

impl OpenClaims {
    /// Must be called before the ledger is asked for the claim: its answer may be lost.
    pub(super) fn open(&self, claim: Claim) -> OpenClaim {
        self.lock().push(claim.clone());
        OpenClaim {
            claims: self.clone(),
            claim,
            stays_open: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenClaim {
    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Leaves the claim open: it could not be released.
    pub(super) fn leave_open(mut self) {
        self.stays_open = true;
    }
}

impl Drop for OpenClaim {
    fn drop(&mut self) {
        if !self.stays_open {
            self.claims.lock().retain(|claim| *claim != self.claim);
        }
    }
}

impl Pipeline {
    /// Releases a claim whose work was called off: its attempt does not count.
    pub(super) async fn release(&self, open: OpenClaim) {
        for attempt in 1..=RELEASE_ATTEMPTS {
            let released = self.stores.ledger.release(open.claim()).await;
            let Err(error) = released else {
                return;
            };
            tracing::warn!(%error, attempt, "claim could not be released");
            tokio::time::sleep(RELEASE_PAUSE).await;
        }
        open.leave_open();
    }

    /// Gives back all claims whose work has not ended. Only before the worker exits.
    pub(crate) async fn give_back_claims(&self) {
        let claims = self.open_claims.lock().clone();
        if claims.is_empty() {
            return;
        }
        let give_back = self.stores.ledger.give_back(&claims);
        match tokio::time::timeout(EXIT_WAIT, give_back).await {
            Ok(Ok(())) => tracing::info!(claims = claims.len(), "claims given back"),
            Ok(Err(error)) => tracing::warn!(%error, "claims not given back"),
            Err(_) => tracing::warn!("claims not given back: the ledger does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_open_until_its_work_ends_or_it_is_released() {
        let claims = OpenClaims::default();
        let first = claims.open(Claim::new("a", "round", 0));
        let second = claims.open(Claim::new("b", "round", 64));
        let left = second.claim().clone();
        assert_eq!(claims.lock().len(), 2);
        drop(first);
        second.leave_open();
        assert_eq!(*claims.lock(), [left]);
    }
}
