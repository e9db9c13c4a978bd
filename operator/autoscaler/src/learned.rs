//! What is learned of the workers: how fast one is, how large documents are, how long a start
//! takes. Learned from what the workers count; kept in the status, so that a restart of the operator
//! forgets nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::observation::{Counts, Partition, Phase, Worker};

/// Busy seconds of workers after which two thirds of what was learned are of that time.
const RATE_MEMORY: f64 = 600.0;
/// Documents, likewise.
const SIZE_MEMORY: f64 = 200.0;
/// What an assumption counts for, in busy seconds and documents: little.
const ASSUMED_SECONDS: f64 = 10.0;
const ASSUMED_DOCUMENTS: f64 = 3.0;
/// What an earlier process of the operator learned counts for.
const RECALLED_SECONDS: f64 = 300.0;
const RECALLED_DOCUMENTS: f64 = 100.0;

/// What is known of the workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Pages a second of one worker that has work.
    pub pages_per_second: f64,
    /// Pages of a document.
    pub pages_per_document: f64,
    /// Seconds from a node to the first readiness: image, model, warm-up.
    pub startup_seconds: f64,
    /// Seconds of the longest piece of work seen.
    pub longest_seconds: f64,
}

/// What the workers got done since the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// Pages of all of them.
    pub(crate) pages: f64,
    /// The partitions of workers that got pages done.
    pub(crate) moving: BTreeSet<Partition>,
    /// At least one worker's counts were read, now and before.
    pub(crate) known: bool,
}

/// Learns.
#[derive(Clone, Debug)]
pub(crate) struct Learner {
    speed: Average,
    size: Average,
    /// Pages since a document ended last: those of a look in which none ended count, too.
    pages_since: f64,
    startup_seconds: f64,
    longest_seconds: f64,
    last: BTreeMap<String, Counts>,
    /// Workers that were there at the first look and have not been read: what they did before is
    /// not known. Whoever comes later has counted from zero. None before the first look.
    strangers: Option<BTreeSet<String>>,
    /// Workers whose start was counted.
    started: Vec<String>,
    /// A worker's start was seen, by this process or an earlier one.
    startup_known: bool,
    /// A worker's speed was seen, by this process or an earlier one.
    speed_known: bool,
}

impl Learner {
    /// Begins with what an earlier process learned, else with an assumption.
    pub(crate) fn new(recalled: Option<Learned>, assumed: Learned) -> Self {
        let (from, seconds, documents) = match recalled {
            Some(recalled) => (recalled, RECALLED_SECONDS, RECALLED_DOCUMENTS),
            None => (assumed, ASSUMED_SECONDS, ASSUMED_DOCUMENTS),
        };
        Self {
            speed: Average::new(from.pages_per_second, seconds, RATE_MEMORY),
            size: Average::new(from.pages_per_document, documents, SIZE_MEMORY),
            pages_since: 0.0,
            startup_seconds: from.startup_seconds,
            longest_seconds: from.longest_seconds,
            last: BTreeMap::new(),
            strangers: None,
            started: Vec::new(),
            startup_known: recalled.is_some(),
            speed_known: recalled.is_some(),
        }
    }

    /// What is known now.
    pub(crate) fn learned(&self) -> Learned {
        Learned {
            pages_per_second: self.speed.value(),
            pages_per_document: self.size.value(),
            startup_seconds: self.startup_seconds,
            longest_seconds: self.longest_seconds,
        }
    }

    /// Whether what is known was seen, and is not only assumed.
    pub(crate) fn knows_speed(&self) -> bool {
        self.speed_known
    }

    /// Learns from a look at the workers.
    pub(crate) fn observe(&mut self, workers: &[Worker]) -> Progress {
        let mut progress = Progress::default();
        let (mut pages, mut busy, mut documents) = (0.0, 0.0, 0.0);
        let mut strangers = self.strangers.take().unwrap_or_else(|| {
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
            let is_stranger = strangers.remove(&worker.name);
            let Some(last) = last.or_else(|| (!is_stranger).then(Counts::default)) else {
                continue;
            };
            if counts.busy_seconds < last.busy_seconds || counts.pages < last.pages {
                // Its container was restarted and counts from zero.
                continue;
            }
            progress.known = true;
            pages += counts.pages - last.pages;
            busy += counts.busy_seconds - last.busy_seconds;
            documents += (counts.documents - last.documents).max(0.0);
            if counts.pages > last.pages {
                progress.moving.extend(&counts.partitions);
            }
        }
        self.strangers = Some(strangers);
        self.forget_gone(workers);
        if busy > 0.0 {
            self.speed.add(pages, busy);
            self.speed_known |= pages > 0.0;
        }
        self.pages_since += pages;
        if documents > 0.0 && self.pages_since > 0.0 {
            self.size.add(self.pages_since, documents);
            self.pages_since = 0.0;
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
            // A start on a node that has the image already says little of one that has not.
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

/// A quotient whose older parts count less and less.
#[derive(Clone, Copy, Debug)]
struct Average {
    above: f64,
    below: f64,
    memory: f64,
}

impl Average {
    fn new(value: f64, weight: f64, memory: f64) -> Self {
        Self {
            above: value * weight,
            below: weight,
            memory,
        }
    }

    fn add(&mut self, above: f64, below: f64) {
        let keep = (-below / self.memory).exp();
        self.above = self.above * keep + above;
        self.below = self.below * keep + below;
    }

    fn value(self) -> f64 {
        // Never zero: workers that got nothing done for a while are slow, not useless.
        (self.above / self.below).max(1e-3)
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
    fn pages_count_although_no_document_ended_at_that_look() {
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
    fn idle_time_is_no_slowness() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[worker("a", 100.0, 1.0, 100.0)]);
        let before = learner.learned();
        learner.observe(&[worker("a", 100.0, 1.0, 100.0)]);
        assert_eq!(learner.learned(), before);
    }

    #[test]
    fn a_restarted_container_counts_from_zero() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[worker("a", 100.0, 10.0, 50.0)]);
        let progress = learner.observe(&[worker("a", 3.0, 1.0, 1.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        let progress = learner.observe(&[worker("a", 5.0, 1.0, 2.0)]);
        assert!(progress.known && (progress.pages - 2.0).abs() < 1e-9);
    }

    #[test]
    fn work_that_was_over_before_the_first_look_at_its_worker_counts() {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(&[]);
        let progress = learner.observe(&[worker("a", 12.0, 12.0, 2.0)]);
        assert!(progress.known && (progress.pages - 12.0).abs() < 1e-9);
        assert!(learner.knows_speed());
    }

    #[test]
    fn what_a_worker_did_before_the_operator_began_is_not_counted() {
        let mut learner = Learner::new(None, ASSUMED);
        let progress = learner.observe(&[worker("a", 12.0, 12.0, 2.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        assert!(!learner.knows_speed());
    }

    #[test]
    fn nor_is_it_when_the_worker_could_not_be_read_at_the_first_look() {
        let mut learner = Learner::new(None, ASSUMED);
        let silent = Worker {
            counts: None,
            ..worker("a", 0.0, 0.0, 0.0)
        };
        learner.observe(&[silent]);
        let progress = learner.observe(&[worker("a", 9_000.0, 9_000.0, 900.0)]);
        assert!(!progress.known && progress.pages == 0.0);
        let progress = learner.observe(&[worker("a", 9_004.0, 9_002.0, 901.0)]);
        assert!(progress.known && progress.pages > 0.0);
    }

    #[test]
    fn what_an_earlier_process_learned_is_not_forgotten_at_once() {
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
