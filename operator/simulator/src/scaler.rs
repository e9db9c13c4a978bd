//! What every policy has in common: it observes the world from time to time and recommends a number
//! of workers.

use super::world::World;

/// A scaling policy.
pub(super) trait Scaler {
    /// Its name on the command line and in the results.
    fn name(&self) -> &'static str;

    /// The recommended number of workers. `None`: it does not decide now. Called every second.
    fn recommend(&mut self, world: &World) -> Option<Recommendation>;
}

/// A recommended number of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recommendation {
    pub(super) workers: u32,
    /// The policy's explanation, if it has one.
    pub(super) why: Option<String>,
}

impl Recommendation {
    pub(super) fn new(workers: u32) -> Self {
        Self { workers, why: None }
    }
}

/// The bounds of every policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: u32,
    pub(super) max: u32,
}

/// The values of a window of time, one per second, for rates and averages.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    values: std::collections::VecDeque<(u32, f64)>,
}

impl History {
    /// Records a value, and drops those that are older than `window` seconds.
    pub(super) fn record(&mut self, now: u32, value: f64, window: u32) {
        self.values.push_back((now, value));
        while self.values.front().is_some_and(|(at, _)| now - at > window) {
            self.values.pop_front();
        }
    }

    /// The growth per second over the window. `None`: fewer than two values.
    pub(super) fn rate(&self) -> Option<f64> {
        let (first, before) = self.values.front()?;
        let (last, after) = self.values.back()?;
        (last > first).then(|| (after - before) / f64::from(last - first))
    }

    /// The mean over the window; 0 without values.
    pub(super) fn mean(&self) -> f64 {
        let sum: f64 = self.values.iter().map(|(_, value)| value).sum();
        sum / self.values.len().max(1) as f64
    }

    /// Drops all values.
    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}
