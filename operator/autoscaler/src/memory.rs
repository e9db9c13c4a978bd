//! The state between two decisions. It is discarded when the clock or a gap makes it meaningless.

use jiff::{SignedDuration, Timestamp};

use super::{
    arrivals::Arrivals,
    effect::ScaleUpEffect,
    learned::{Learned, Learner},
    policy::Policy,
    range_size::RangeSize,
    stuck::StuckPartitions,
    unknown::UnknownBacklog,
    window::ScaleDownWindow,
};

/// Observations further apart than this show nothing about the time between them.
const LONGEST_GAP: SignedDuration = SignedDuration::from_secs(60);

/// The state between two decisions. Losing it only keeps workers for a little longer, until the
/// next observations have rebuilt it.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) learner: Learner,
    pub(crate) range_size: RangeSize,
    pub(crate) arrivals: Arrivals,
    pub(crate) window: ScaleDownWindow,
    pub(crate) effect: ScaleUpEffect,
    pub(crate) stuck: StuckPartitions,
    last: Option<Timestamp>,
    /// Seconds between the last two observations.
    pub(crate) seconds_since_last: f64,
    pub(crate) unknown_since: Option<Timestamp>,
    pub(crate) rebalancing_since: Option<Timestamp>,
}

impl Memory {
    /// Starts with what an earlier process learned, if anything.
    #[must_use]
    pub fn new(recalled: Option<Learned>, policy: &Policy) -> Self {
        Self {
            learner: Learner::new(recalled, policy.assumed),
            range_size: RangeSize::new(policy.range_pages),
            arrivals: Arrivals::default(),
            window: ScaleDownWindow::default(),
            effect: ScaleUpEffect::default(),
            stuck: StuckPartitions::default(),
            last: None,
            seconds_since_last: 0.0,
            unknown_since: None,
            rebalancing_since: None,
        }
    }

    /// Detects a clock that was set back, and a gap between observations.
    pub(crate) fn watch_clock(&mut self, now: Timestamp) -> Result<(), UnknownBacklog> {
        let Some(last) = self.last.replace(now) else {
            return Ok(());
        };
        let passed = now.duration_since(last);
        self.seconds_since_last = passed.as_secs_f64();
        if passed >= SignedDuration::ZERO && passed <= LONGEST_GAP {
            return Ok(());
        }
        self.arrivals.forget();
        self.window.forget();
        self.effect.forget();
        self.stuck.forget();
        self.rebalancing_since = None;
        if passed > LONGEST_GAP {
            return Ok(());
        }
        self.unknown_since = None;
        Err(UnknownBacklog::ClockStep)
    }
}
