//! The state between two decisions. It is discarded when the clock or a gap makes it meaningless.

use jiff::{SignedDuration, Timestamp};

use super::{
    arrivals::Arrivals,
    effect::ScaleUpEffect,
    learned::{Learned, Learner},
    nodes::PendingWorkers,
    observation::Worker,
    policy::Policy,
    range_size::RangeSize,
    stuck::StuckPartitions,
    unknown::UnknownBacklog,
    unmeasured::Unmeasured,
    window::ScaleDownWindow,
};

/// Observations further apart than this show nothing about the time between them.
const LONGEST_GAP: SignedDuration = SignedDuration::from_secs(150);

/// The rechecks of the pipeline's documents that are due within 15 minutes, as a worker last
/// reported. While there are some, one worker is required. Without workers the number stays, so
/// that one starts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rechecks(u64);

impl Rechecks {
    /// Every worker reports those of the whole pipeline; the largest number is the most cautious.
    pub(crate) fn observe(&mut self, workers: &[Worker]) {
        let reported = workers.iter().filter_map(|worker| worker.counts.as_ref());
        // A worker that starts has not counted them yet.
        if let Some(open) = reported.filter_map(|counts| counts.open_rechecks).max() {
            self.0 = open;
        }
    }

    pub(crate) fn open(self) -> u64 {
        self.0
    }
}

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
    pub(crate) pending: PendingWorkers,
    pub(crate) unmeasured: Unmeasured,
    pub(crate) rechecks: Rechecks,
    last: Option<Timestamp>,
    /// Seconds between the last two observations.
    pub(crate) seconds_since_last: f64,
    pub(crate) unknown_since: Option<Timestamp>,
    pub(crate) outage_since: Option<Timestamp>,
    /// When every worker last waited for a server.
    pub(crate) away_until: Option<Timestamp>,
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
            pending: PendingWorkers::default(),
            unmeasured: Unmeasured::default(),
            rechecks: Rechecks::default(),
            last: None,
            seconds_since_last: 0.0,
            unknown_since: None,
            outage_since: None,
            away_until: None,
            rebalancing_since: None,
        }
    }

    /// Learns nothing from what these workers did before.
    #[must_use]
    pub fn without_past_of(mut self, workers: &[Worker]) -> Self {
        self.learner.skip_past_of(workers);
        self
    }

    /// Continues with the open rechecks that workers reported to an earlier process.
    #[must_use]
    pub fn with_open_rechecks(mut self, open: u64) -> Self {
        self.rechecks = Rechecks(open);
        self
    }

    /// The open rechecks that workers last reported.
    #[must_use]
    pub fn open_rechecks(&self) -> u64 {
        self.rechecks.open()
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
        self.unmeasured = Unmeasured::default();
        self.rebalancing_since = None;
        self.outage_since = None;
        self.away_until = None;
        if passed > LONGEST_GAP {
            return Ok(());
        }
        self.unknown_since = None;
        Err(UnknownBacklog::ClockStep)
    }
}
