//! What is remembered between two decisions, and what is forgotten when time says nothing any more.

use jiff::{SignedDuration, Timestamp};

use super::{
    arrivals::Arrivals,
    effect::Effect,
    learned::{Learned, Learner},
    observation::Blind,
    policy::Policy,
    stuck::Stuck,
    window::Window,
};

/// Looks further apart than this say nothing of the time in between.
const LONGEST_GAP: SignedDuration = SignedDuration::from_secs(60);

/// What is remembered between two decisions. Losing it costs some looks and keeps workers for a
/// little longer.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) learner: Learner,
    pub(crate) arrivals: Arrivals,
    pub(crate) window: Window,
    pub(crate) effect: Effect,
    pub(crate) stuck: Stuck,
    last: Option<Timestamp>,
    /// Seconds between the last two looks.
    pub(crate) passed: f64,
    pub(crate) blind_since: Option<Timestamp>,
    pub(crate) rebalancing_since: Option<Timestamp>,
}

impl Memory {
    /// Begins with what an earlier process learned, if anything.
    #[must_use]
    pub fn new(recalled: Option<Learned>, policy: &Policy) -> Self {
        Self {
            learner: Learner::new(recalled, policy.assumed),
            arrivals: Arrivals::default(),
            window: Window::default(),
            effect: Effect::default(),
            stuck: Stuck::default(),
            last: None,
            passed: 0.0,
            blind_since: None,
            rebalancing_since: None,
        }
    }

    /// Notices a clock that was set back, and a time in which nobody looked.
    pub(crate) fn watch_clock(&mut self, now: Timestamp) -> Result<(), Blind> {
        let Some(last) = self.last.replace(now) else {
            return Ok(());
        };
        let passed = now.duration_since(last);
        self.passed = passed.as_secs_f64();
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
        self.blind_since = None;
        Err(Blind {
            reason: "ClockStep",
            message: "The clock was set back".to_owned(),
        })
    }
}
