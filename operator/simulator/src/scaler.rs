//! What every policy is: something that looks at the world now and then and says how many workers
//! there should be.

use super::world::World;

/// A policy.
pub(super) trait Scaler {
    /// Its name on the command line and in the results.
    fn name(&self) -> &'static str;

    /// How many workers there should be; `None` while it does not look. Called every second.
    fn look(&mut self, world: &World) -> Option<Wish>;
}

/// How many workers there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// So many.
    pub(super) workers: u32,
    /// Why, where the policy says.
    pub(super) why: Option<String>,
}

impl Wish {
    pub(super) fn new(workers: u32) -> Self {
        Self { workers, why: None }
    }
}

/// The bounds that hold for every policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) min: u32,
    pub(super) max: u32,
}

/// A sum that is remembered for a while, once a second: for rates and averages over a window.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    values: std::collections::VecDeque<(u32, f64)>,
}

impl History {
    /// Notes a value, and forgets those that are older than `window` seconds.
    pub(super) fn note(&mut self, now: u32, value: f64, window: u32) {
        self.values.push_back((now, value));
        while self.values.front().is_some_and(|(at, _)| now - at > window) {
            self.values.pop_front();
        }
    }

    /// By how much the value grew a second over what is remembered; `None` before there are two.
    pub(super) fn rate(&self) -> Option<f64> {
        let (first, before) = self.values.front()?;
        let (last, after) = self.values.back()?;
        (last > first).then(|| (after - before) / f64::from(last - first))
    }

    /// The mean of what is remembered; 0 without any.
    pub(super) fn mean(&self) -> f64 {
        let sum: f64 = self.values.iter().map(|(_, value)| value).sum();
        sum / self.values.len().max(1) as f64
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}
