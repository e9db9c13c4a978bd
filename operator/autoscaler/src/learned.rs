//! Learns the speed of a worker, the size of documents and the start-up time from what the workers
//! count. The result is kept in the status, so that a restart of the operator loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::observation::{Counts, Partition, Phase, Worker};

/// Busy seconds after which an earlier measurement counts for about a third.
const RATE_MEMORY: f64 = 600.0;
/// Documents after which an earlier measurement counts for about a third.
const SIZE_MEMORY: f64 = 200.0;
/// The weight of an assumption, in busy seconds and documents: little.
const ASSUMED_SECONDS: f64 = 10.0;
const ASSUMED_DOCUMENTS: f64 = 3.0;
/// The weight of what an earlier process of the operator learned.
const RECALLED_SECONDS: f64 = 300.0;
const RECALLED_DOCUMENTS: f64 = 100.0;

/// Speed, sizes and times of a pipeline's workers, measured or assumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Pages per second of one worker while it has work.
    pub pages_per_second: f64,
    /// Pages per document.
    pub pages_per_document: f64,
    /// Seconds from scheduling to the first readiness: image, model, warm-up.
    pub startup_seconds: f64,
    /// Seconds of the longest document or page range so far.
    pub longest_seconds: f64,
}

/// What the workers processed since the last observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// Pages of all of them.
    pub(crate) pages: f64,
    /// The partitions assigned to workers that processed pages.
    pub(crate) partitions: BTreeSet<Partition>,
    /// At least one worker's counts are known for this and the last observation.
    pub(crate) known: bool,
}

/// Learns from one observation after the other.
#[derive(Clone, Debug)]
pub(crate) struct Learner {
    speed: Average,
    size: Average,
    /// Pages since the last document ended, so that observations without an ended document count.
    pages_since_document: f64,
    startup_seconds: f64,
    longest_seconds: f64,
    last: BTreeMap<String, Counts>,
    /// Workers present at the first observation whose counters have no baseline yet: what they
    /// processed before it is unknown. Later workers counted from zero. `None` before the first
    /// observation.
    without_baseline: Option<BTreeSet<String>>,
    /// Workers whose start-up time was recorded.
    started: Vec<String>,
    /// A start-up time was measured, by this process or an earlier one.
    startup_known: bool,
    /// A speed was measured, by this process or an earlier one.
    speed_known: bool,
}

impl Learner {
    /// Starts with what an earlier process learned, or else with the assumptions.
    pub(crate) fn new(recalled: Option<Learned>, assumed: Learned) -> Self {
        let (from, seconds, documents) = match recalled {
            Some(recalled) => (recalled, RECALLED_SECONDS, RECALLED_DOCUMENTS),
            None => (assumed, ASSUMED_SECONDS, ASSUMED_DOCUMENTS),
        };
        Self {
            speed: Average::new(from.pages_per_second, seconds, RATE_MEMORY),
            size: Average::new(from.pages_per_document, documents, SIZE_MEMORY),
            pages_since_document: 0.0,
            startup_seconds: from.startup_seconds,
            longest_seconds: from.longest_seconds,
            last: BTreeMap::new(),
            without_baseline: None,
            started: Vec::new(),
            startup_known: recalled.is_some(),
            speed_known: recalled.is_some(),
        }
    }

    /// The current averages.
    pub(crate) fn learned(&self) -> Learned {
        Learned {
            pages_per_second: self.speed.value(),
            pages_per_document: self.size.value(),
            startup_seconds: self.startup_seconds,
            longest_seconds: self.longest_seconds,
        }
    }

    /// Whether the speed was measured and is not only assumed.
    pub(crate) fn knows_speed(&self) -> bool {
        self.speed_known
    }

    /// Learns from an observation of the workers.
    pub(crate) fn observe(&mut self, workers: &[Worker]) -> Progress {
        let mut progress = Progress::default();
        let (mut pages, mut busy, mut documents) = (0.0, 0.0, 0.0);
        let mut without_baseline = self.without_baseline.take().unwrap_or_else(|| {
            let names = workers.iter().map(|worker| worker.name.clone());
            names.collect()
        });
        for worker in workers {
            self.observe_start(worker);
            let Some(counts) = &worker.counts else {
                continue;
            };
            self.longest_seconds = self.longest_seconds.max(counts.longest_seconds);
            let last = self.last.insert(worker.name.clone(), counts.clone());
            let lacks_baseline = without_baseline.remove(&worker.name);
            let Some(last) = last.or_else(|| (!lacks_baseline).then(Counts::default)) else {
                continue;
            };
            if counts.busy_seconds < last.busy_seconds || counts.pages < last.pages {
                // Its container was restarted and its counters began at zero.
                continue;
            }
            progress.known = true;
            pages += counts.pages - last.pages;
            busy += counts.busy_seconds - last.busy_seconds;
            documents += (counts.documents - last.documents).max(0.0);
            if counts.pages > last.pages {
                progress.partitions.extend(&counts.partitions);
            }
        }
        self.without_baseline = Some(without_baseline);
        self.forget_gone(workers);
        if busy > 0.0 {
            self.speed.add(pages, busy);
            self.speed_known |= pages > 0.0;
        }
        self.pages_since_document += pages;
        if documents > 0.0 && self.pages_since_document > 0.0 {
            self.size.add(self.pages_since_document, documents);
            self.pages_since_document = 0.0;
        }
        progress.pages = pages;
        progress
    }

    fn observe_start(&mut self, worker: &Worker) {
        let Phase::Ready {
            started_in: Some(seconds),
        } = worker.phase
        else {
            return;
        };
        if self.started.contains(&worker.name) {
            return;
        }
        self.started.push(worker.name.clone());
        self.startup_seconds = if self.startup_known {
            // A start on a node that already has the image shows little about one without it.
            f64::midpoint(self.startup_seconds, seconds)
        } else {
            seconds
        };
        self.startup_known = true;
    }

    fn forget_gone(&mut self, workers: &[Worker]) {
        let is_there = |name: &str| workers.iter().any(|worker| worker.name == name);
        self.last.retain(|name, _| is_there(name));
        self.started.retain(|name| is_there(name));
    }
}

/// A quotient of two sums whose older parts decay.
#[derive(Clone, Copy, Debug)]
struct Average {
    numerator: f64,
    denominator: f64,
    /// The denominator over which older parts decay to a third.
    memory: f64,
}

impl Average {
    fn new(value: f64, weight: f64, memory: f64) -> Self {
        Self {
            numerator: value * weight,
            denominator: weight,
            memory,
        }
    }

    fn add(&mut self, numerator: f64, denominator: f64) {
        let keep = (-denominator / self.memory).exp();
        self.numerator = self.numerator * keep + numerator;
        self.denominator = self.denominator * keep + denominator;
    }

    fn value(self) -> f64 {
        // Never zero: workers that processed nothing for a while are slow, not useless.
        (self.numerator / self.denominator).max(1e-3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSUMED: Learned = Learned {
        pages_per_second: 4.0,
        pages_per_document: 10.0,
        startup_seconds: 30.0,
        longest_seconds: 0.0,
    };

    fn worker(name: &str, pages: f64, documents: f64, busy_seconds: f64) -> Worker {
        Worker {
            name: name.into(),
            phase: Phase::Ready {
                started_in: Some(12.0),
            },
            counts: Some(Counts {
                pages,
                documents,
                busy_seconds,
                longest_seconds: busy_seconds / 10.0,
                ..Counts::default()
            }),
        }
    }

    #[test]
    fn a_minute_of_work_outweighs_an_assumption() {
        let mut learner = Learner::new(None, ASSUMED);
        assert!(!learner.knows_speed());
        for second in 0..=60 {
            let second = f64::from(second);
            learner.observe(&[worker("a", 0.5 * second, 0.1 * second, second)]);
        }
        let known = learner.learned();
        assert!(learner.knows_speed());
        assert!((0.5..1.1).contains(&known.pages_per_second), "{known:?}");
        assert!((4.0..8.0).contains(&known.pages_per_document), "{known:?}");
        assert!((known.startup_seconds - 12.0).abs() < 1e-9, "{known:?}");
        assert!((known.longest_seconds - 6.0).abs() < 1e-9, "{known:?}");
    }

    #[test]
    fn pages_of_observations_without_an_ended_document_count() {
        let mut learner = Learner::new(None, ASSUMED);
        for second in 0..=3000 {
            let pages = f64::from(second);
            learner.observe(&[worker("a", pages, (pages / 25.0).floor(), pages)]);
        }
        let known = learner.learned();
        assert!(
            (24.0..26.0).contains(&known.pages_per_document),
            "{known:?}"
        );
    }

    #[test]
    fn idle_time_does_not_lower_the_speed() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[worker("a", 100.0, 1.0, 100.0)]);
        let before = learner.learned();
        learner.observe(&[worker("a", 100.0, 1.0, 100.0)]);
        assert_eq!(learner.learned(), before);
    }

    #[test]
    fn a_restarted_container_needs_a_new_baseline() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[worker("a", 100.0, 10.0, 50.0)]);
        let progress = learner.observe(&[worker("a", 3.0, 1.0, 1.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        let progress = learner.observe(&[worker("a", 5.0, 1.0, 2.0)]);
        assert!(progress.known && (progress.pages - 2.0).abs() < 1e-9);
    }

    #[test]
    fn work_of_a_later_worker_counts_even_if_it_ended_before_the_first_observation() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[]);
        let progress = learner.observe(&[worker("a", 12.0, 12.0, 2.0)]);
        assert!(progress.known && (progress.pages - 12.0).abs() < 1e-9);
        assert!(learner.knows_speed());
    }

    #[test]
    fn work_before_the_operator_started_does_not_count() {
        let mut learner = Learner::new(None, ASSUMED);
        let progress = learner.observe(&[worker("a", 12.0, 12.0, 2.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        assert!(!learner.knows_speed());
    }

    #[test]
    fn work_before_the_first_known_counts_does_not_count() {
        let mut learner = Learner::new(None, ASSUMED);
        let unread = Worker {
            counts: None,
            ..worker("a", 0.0, 0.0, 0.0)
        };
        learner.observe(&[unread]);
        let progress = learner.observe(&[worker("a", 9_000.0, 9_000.0, 900.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        let progress = learner.observe(&[worker("a", 9_004.0, 9_002.0, 901.0)]);
        assert!(progress.known && progress.pages > 0.0);
    }

    #[test]
    fn what_an_earlier_process_learned_decays_slowly() {
        let recalled = Learned {
            pages_per_second: 55.0,
            startup_seconds: 480.0,
            ..ASSUMED
        };
        let mut learner = Learner::new(Some(recalled), ASSUMED);
        learner.observe(&[worker("a", 0.0, 0.0, 0.0)]);
        learner.observe(&[worker("a", 0.0, 0.0, 10.0)]);
        let known = learner.learned();
        assert!(known.pages_per_second > 50.0, "{known:?}");
        assert!((known.startup_seconds - 246.0).abs() < 1e-9, "{known:?}");
    }
}
