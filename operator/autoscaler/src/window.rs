//! What was recommended lately: the memory behind the scale-down delay. It is not kept over a
//! restart of the operator; the delay then begins anew, which can only keep workers for longer.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// The recommendations within the scale-down delay.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Times and recommendations, each larger than all that follow: the front is the largest.
    peaks: VecDeque<(Timestamp, u32)>,
    /// Since when recommendations came without a gap.
    unbroken_since: Option<Timestamp>,
}

impl Window {
    /// Notes that `wanted` workers were wanted at `now`, and forgets what is older than `length`.
    pub(crate) fn record(&mut self, now: Timestamp, wanted: u32, length: SignedDuration) {
        self.unbroken_since.get_or_insert(now);
        while self.peaks.back().is_some_and(|(_, older)| *older <= wanted) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, wanted));
        while self
            .peaks
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > length)
        {
            self.peaks.pop_front();
        }
    }

    /// Begins anew: what was not looked at may have needed any number of workers.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The largest number that was wanted during the last `length`; `None` while less than that is
    /// on record.
    pub(crate) fn largest(&self, now: Timestamp, length: SignedDuration) -> Option<u32> {
        let since = self.unbroken_since?;
        if now.duration_since(since) < length {
            return None;
        }
        self.peaks.front().map(|(_, largest)| *largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: SignedDuration = SignedDuration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_largest_of_the_window_counts() {
        let mut window = Window::default();
        window.record(at(0), 4, LENGTH);
        window.record(at(30), 2, LENGTH);
        assert_eq!(window.largest(at(30), LENGTH), None, "not long enough yet");
        window.record(at(60), 1, LENGTH);
        assert_eq!(window.largest(at(60), LENGTH), Some(4));
        window.record(at(61), 1, LENGTH);
        assert_eq!(window.largest(at(61), LENGTH), Some(2));
    }

    #[test]
    fn what_was_forgotten_has_to_come_again() {
        let mut window = Window::default();
        window.record(at(0), 1, LENGTH);
        window.forget();
        window.record(at(70), 1, LENGTH);
        assert_eq!(window.largest(at(70), LENGTH), None);
        assert_eq!(window.largest(at(130), LENGTH), Some(1));
    }
}
