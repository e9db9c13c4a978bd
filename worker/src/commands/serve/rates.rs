//! How often a token may ask: at once as often as in a minute, then evenly.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::access::Digest;

/// Requests of a token in a minute, unless the file of tokens says otherwise.
pub(super) const PER_MINUTE: NonZeroU32 = NonZeroU32::new(600).expect("not zero");

/// What the tokens have left.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<Digest, Left>>);

#[derive(Debug)]
struct Left {
    requests: f64,
    at: Instant,
}

impl Rates {
    /// Counts a request of a token. Fails with the time until it may ask again.
    pub(super) fn count(
        &self,
        token: Digest,
        per_minute: NonZeroU32,
        now: Instant,
    ) -> Result<(), Duration> {
        let most = f64::from(per_minute.get());
        let mut all = self.lock();
        let left = all.entry(token).or_insert(Left {
            requests: most,
            at: now,
        });
        let passed = now.saturating_duration_since(left.at).as_secs_f64();
        left.requests = (left.requests + passed * most / 60.0).min(most);
        left.at = left.at.max(now);
        if left.requests < 1.0 {
            let missing = 1.0 - left.requests;
            return Err(Duration::from_secs_f64(missing * 60.0 / most));
        }
        left.requests -= 1.0;
        Ok(())
    }

    /// Forgets tokens that are not good any more.
    pub(super) fn keep(&self, is_good: impl Fn(&Digest) -> bool) {
        self.lock().retain(|token, _| is_good(token));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_asks_too_often_waits_and_others_do_not() {
        let rates = Rates::default();
        let (now, per_minute) = (Instant::now(), NonZeroU32::new(30).unwrap());
        let count = |token: u8, seconds: u64| {
            let at = now + Duration::from_secs(seconds);
            rates.count([token; 32], per_minute, at)
        };
        assert!((0..30).all(|_| count(1, 0).is_ok()));
        assert_eq!(count(1, 0), Err(Duration::from_secs(2)));
        assert_eq!(count(2, 0), Ok(()));
        assert_eq!(count(1, 1), Err(Duration::from_secs(1)));
        assert_eq!(count(1, 2), Ok(()));
        assert!(count(1, 2).is_err());
        // An hour of silence does not add up.
        assert!((0..30).all(|_| count(1, 3_600).is_ok()));
        assert!(count(1, 3_600).is_err());
        rates.keep(|token| *token == [2; 32]);
        assert_eq!(rates.lock().len(), 1);
    }
}
