//! What was wanted lately: the memory behind the scale-down delay. It is not persisted; after a
//! restart of the operator the delay begins anew, which can only keep workers for longer.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// Readings further apart than this are no proof that fewer workers were enough in between, for
/// example while the pipeline was paused.
const LONGEST_GAP: SignedDuration = SignedDuration::from_secs(60);

/// The wanted numbers of workers within the scale-down delay.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Times and wanted numbers, each larger than all that follow: the front is the largest.
    peaks: VecDeque<(Timestamp, i32)>,
    /// Since when readings came without a gap.
    unbroken_since: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl History {
    /// Notes that `wanted` workers were wanted at `now`, and forgets what is older than `window`.
    pub(super) fn record(&mut self, now: Timestamp, wanted: i32, window: SignedDuration) {
        let broken = self
            .last
            .is_none_or(|last| now.duration_since(last) > LONGEST_GAP);
        if broken {
            self.peaks.clear();
            self.unbroken_since = Some(now);
        }
        self.last = Some(now);
        while self.peaks.back().is_some_and(|(_, older)| *older <= wanted) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, wanted));
        while self
            .peaks
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > window)
        {
            self.peaks.pop_front();
        }
    }

    /// The largest number that was wanted during the last `window`, or an error while less than
    /// that is on record.
    pub(super) fn enough_since(
        &self,
        now: Timestamp,
        window: SignedDuration,
    ) -> Result<i32, TooShort> {
        let since = self.unbroken_since.ok_or(TooShort)?;
        if now.duration_since(since) < window {
            return Err(TooShort);
        }
        self.peaks
            .front()
            .map(|(_, largest)| *largest)
            .ok_or(TooShort)
    }
}

/// The record does not reach back far enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooShort;
