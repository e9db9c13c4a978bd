//! The recommendations of the scale-down delay. They are lost when the operator restarts. The delay
//! then starts again, which can only keep workers for longer.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// The recommendations within the scale-down delay, as a monotonic queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScaleDownWindow {
    /// Times and recommendations, each larger than all later ones: the front is the largest.
    maxima: VecDeque<(Timestamp, u32)>,
    /// The first recommendation that was recorded without a gap since.
    recorded_since: Option<Timestamp>,
}

impl ScaleDownWindow {
    /// Records that `wanted` workers were required at `now`. Drops what is older than `length`.
    pub(crate) fn record(&mut self, now: Timestamp, wanted: u32, length: SignedDuration) {
        self.recorded_since.get_or_insert(now);
        while self
            .maxima
            .back()
            .is_some_and(|(_, older)| *older <= wanted)
        {
            self.maxima.pop_back();
        }
        self.maxima.push_back((now, wanted));
        while self
            .maxima
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > length)
        {
            self.maxima.pop_front();
        }
    }

    /// Starts again: any number of workers may have been required during a gap.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The largest number required during the last `length`. `None`: recorded for a shorter time.
    pub(crate) fn largest(&self, now: Timestamp, length: SignedDuration) -> Option<u32> {
        let since = self.recorded_since?;
        if now.duration_since(since) < length {
            return None;
        }
        self.maxima.front().map(|(_, largest)| *largest)
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
    fn the_largest_recommendation_of_the_window_counts() {
        let mut window = ScaleDownWindow::default();
        window.record(at(0), 4, LENGTH);
        window.record(at(30), 2, LENGTH);
        assert_eq!(
            window.largest(at(30), LENGTH),
            None,
            "recorded for a shorter time"
        );
        window.record(at(60), 1, LENGTH);
        assert_eq!(window.largest(at(60), LENGTH), Some(4));
        window.record(at(61), 1, LENGTH);
        assert_eq!(window.largest(at(61), LENGTH), Some(2));
    }

    #[test]
    fn after_a_gap_the_whole_window_must_be_recorded_again() {
        let mut window = ScaleDownWindow::default();
        window.record(at(0), 1, LENGTH);
        window.forget();
        window.record(at(70), 1, LENGTH);
        assert_eq!(window.largest(at(70), LENGTH), None);
        assert_eq!(window.largest(at(130), LENGTH), Some(1));
    }
}
