//! The length of the longest recent work. It fades, so that one unusual document does not decide
//! for ever how long a worker may take to shut down.

use std::time::{Duration, Instant};

/// After this time without work as long, half of the length is left.
const HALF_LIFE: Duration = Duration::from_hours(6);

/// The longest work, as it was measured and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Longest(Option<(Duration, Instant)>);

impl Longest {
    pub(super) fn record(&mut self, took: Duration, now: Instant) {
        if took >= self.at(now) {
            self.0 = Some((took, now));
        }
    }

    /// What is left of the longest work.
    pub(super) fn at(self, now: Instant) -> Duration {
        let Some((took, then)) = self.0 else {
            return Duration::ZERO;
        };
        let half_lives =
            now.saturating_duration_since(then).as_secs_f64() / HALF_LIFE.as_secs_f64();
        took.mul_f64(0.5_f64.powf(half_lives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_work_fades_and_longer_work_replaces_it() {
        let start = Instant::now();
        let later = |half_lives| start + half_lives * HALF_LIFE;
        let seconds = Duration::from_secs;
        let mut longest = Longest::default();
        assert_eq!(longest.at(start), Duration::ZERO);
        longest.record(seconds(400), start);
        longest.record(seconds(10), later(1));
        assert_eq!(longest.at(later(1)), seconds(200));
        longest.record(seconds(150), later(2));
        assert_eq!(longest.at(later(2)), seconds(150));
        assert!(longest.at(later(20)) < seconds(1));
    }
}
