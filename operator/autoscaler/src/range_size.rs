//! Learns how many pages a page range has. A document is split into ranges of equal length, at least
//! half as long as `rangePages` allows. After a restart the estimate starts over.

use std::collections::BTreeMap;

use super::observation::Worker;

/// Ranges after which an earlier measurement counts for about a third.
const MEMORY: f64 = 200.0;
/// The weight of the assumption that every range is as long as allowed, in ranges: little.
const ASSUMED: f64 = 2.0;

/// The average length of page ranges.
#[derive(Clone, Debug)]
pub(crate) struct RangeSize {
    ranges: f64,
    pages: f64,
    /// What each worker had counted at the last observation: ranges and pages.
    last: BTreeMap<String, (f64, f64)>,
}

impl RangeSize {
    /// Starts with the assumption that every range is as long as allowed.
    pub(crate) fn new(longest: f64) -> Self {
        Self {
            ranges: ASSUMED,
            pages: ASSUMED * longest,
            last: BTreeMap::new(),
        }
    }

    /// Learns from an observation of the workers.
    pub(crate) fn observe(&mut self, workers: &[Worker]) {
        for worker in workers {
            let Some(counts) = &worker.counts else {
                continue;
            };
            let now = (counts.ranges, counts.range_pages);
            let last = self.last.insert(worker.name.clone(), now);
            // The counters of a restarted container began at zero.
            let last = last.filter(|last| last.0 <= now.0 && last.1 <= now.1);
            let (ranges, pages) = last.unwrap_or_default();
            self.add(now.0 - ranges, now.1 - pages);
        }
        let is_there = |name: &str| workers.iter().any(|worker| worker.name == name);
        self.last.retain(|name, _| is_there(name));
    }

    fn add(&mut self, ranges: f64, pages: f64) {
        let keep = (-ranges / MEMORY).exp();
        self.ranges = self.ranges * keep + ranges;
        self.pages = self.pages * keep + pages;
    }

    /// Average pages of a range, of which none has more than `longest`.
    pub(crate) fn pages(&self, longest: f64) -> f64 {
        (self.pages / self.ranges).clamp(1.0, longest.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, Phase, Times};

    fn worker(name: &str, ranges: f64, range_pages: f64) -> Worker {
        Worker {
            name: name.into(),
            phase: Phase::Ready,
            times: Times::default(),
            counts: Some(Counts {
                ranges,
                range_pages,
                ..Counts::default()
            }),
        }
    }

    #[test]
    fn without_a_stored_range_each_counts_as_the_longest() {
        let mut size = RangeSize::new(64.0);
        size.observe(&[worker("a", 0.0, 0.0)]);
        assert!((size.pages(64.0) - 64.0).abs() < 1e-9);
    }

    #[test]
    fn the_halves_of_documents_a_little_too_long_are_learned() {
        let mut size = RangeSize::new(64.0);
        for documents in 0..50 {
            let ranges = 2.0 * f64::from(documents);
            size.observe(&[worker("a", ranges, 32.5 * ranges)]);
        }
        assert!((32.0..34.0).contains(&size.pages(64.0)), "{size:?}");
    }

    #[test]
    fn a_restarted_worker_counts_from_zero() {
        let mut size = RangeSize::new(64.0);
        size.observe(&[worker("a", 100.0, 4000.0)]);
        let before = size.ranges;
        size.observe(&[worker("a", 1.0, 40.0)]);
        assert!(size.ranges < before + 1.1, "{size:?}");
        size.observe(&[]);
        assert!(size.last.is_empty());
    }

    #[test]
    fn a_shorter_limit_bounds_what_was_learned() {
        let size = RangeSize::new(64.0);
        assert!((size.pages(8.0) - 8.0).abs() < 1e-9);
    }
}
