//! How long a worker waits for one with a newer configuration. No I/O.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::DateTime;

use crate::stores::ledger::Entry;

/// A document whose entry does not change for this long is in no worker's hands. Measured by this
/// worker's clock alone: that of the worker that began the round may be wrong.
const LONGEST_SILENCE: Duration = Duration::from_mins(10);

/// The wait of one message.
#[derive(Debug, Default)]
pub(super) struct Patience(Mutex<Option<Seen>>);

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    round: String,
    updated_at: DateTime,
    since: Instant,
}

impl Patience {
    /// Records the entry that the message waits for. Returns whether it has not changed for too
    /// long.
    pub(super) fn is_over(&self, entry: &Entry, now: Instant) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some(seen) if (&seen.round, seen.updated_at) == (&entry.round, entry.updated_at) => {
                now.saturating_duration_since(seen.since) >= LONGEST_SILENCE
            }
            _ => {
                *seen = Some(Seen {
                    round: entry.round.clone(),
                    updated_at: entry.updated_at,
                    since: now,
                });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::{State, an_entry};

    #[test]
    fn a_worker_waits_for_another_as_long_as_that_makes_progress() {
        let start = Instant::now();
        let later = |minutes| start + Duration::from_mins(minutes);
        let patience = Patience::default();
        let mut entry = an_entry(State::Working);
        assert!(!patience.is_over(&entry, start));
        assert!(!patience.is_over(&entry, later(9)));
        // By a clock that is years ahead.
        entry.updated_at = DateTime::from_millis(i64::MAX / 2);
        assert!(!patience.is_over(&entry, later(10)), "it has changed");
        assert!(!patience.is_over(&entry, later(19)));
        assert!(patience.is_over(&entry, later(20)));
        entry.round = "another".into();
        assert!(!patience.is_over(&entry, later(21)), "a new round");
    }
}
