//! Learns the speed of a worker, the size of documents and the times that nodes and workers take
//! to come. The result is kept in the status, so that a restart of the operator loses nothing.
//!
//! Only what a worker did while it could work is learned: time in which it is not ready, or waits
//! for a server, shows nothing about its speed. Times are medians of the last few, so that one
//! that went wrong does not count.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    observation::{Counts, Partition, Phase, Worker},
    recent::Recent,
};

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
/// Seconds after which the longest work counts for half, unless work takes as long again.
const LONGEST_WORK_HALF_LIFE: f64 = 6.0 * 3600.0;

/// A start-up that takes longer has failed: the startup probe and the download of a model allow
/// less. It is not learned.
const LONGEST_STARTUP: f64 = 1800.0;
/// A node that takes longer has not been provisioned for this pod. It is not learned.
const LONGEST_PROVISIONING: f64 = 1800.0;
/// Half of the longest termination grace period.
const LONGEST_WORK: f64 = 3.0 * 3600.0;
/// A recalled speed is at most this many times slower or faster than the assumed one.
const SPEED_FACTOR: f64 = 50.0;
/// The bounds of recalled pages per document.
const FEWEST_PAGES: f64 = 0.1;
const MOST_PAGES: f64 = 10_000.0;

/// Speed, sizes and times of a pipeline's workers, measured or assumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Pages per second of one worker while it works.
    pub pages_per_second: f64,
    /// Pages per document.
    pub pages_per_document: f64,
    /// Seconds from creation to placement on a node: 0 while nodes have room, else the time in
    /// which a node is provisioned.
    pub provisioning_seconds: f64,
    /// Seconds from placement to the first readiness: image, model, warm-up.
    pub startup_seconds: f64,
    /// Seconds of the longest recent document or page range.
    pub longest_seconds: f64,
}

impl Learned {
    /// `τ`: seconds until a worker that is created now is ready.
    #[must_use]
    pub fn seconds_until_ready(&self) -> f64 {
        self.provisioning_seconds + self.startup_seconds
    }

    /// Without values that cannot be true, which an earlier version may have learned from an
    /// outage.
    fn plausible(self, assumed: &Self) -> Self {
        let speed = assumed.pages_per_second;
        Self {
            pages_per_second: self
                .pages_per_second
                .clamp(speed / SPEED_FACTOR, speed * SPEED_FACTOR),
            pages_per_document: self.pages_per_document.clamp(FEWEST_PAGES, MOST_PAGES),
            provisioning_seconds: self.provisioning_seconds.clamp(0.0, LONGEST_PROVISIONING),
            startup_seconds: self.startup_seconds.clamp(0.0, LONGEST_STARTUP),
            longest_seconds: self.longest_seconds.clamp(0.0, LONGEST_WORK),
        }
    }
}

/// What the workers processed since the last observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// Pages of all of them.
    pub(crate) pages: f64,
    /// The partitions assigned to workers that processed pages, or that wait for a server.
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
    provisioning: Recent,
    startup: Recent,
    longest_seconds: f64,
    last: BTreeMap<String, Reading>,
    /// Workers present at the first observation whose counters have no baseline yet: what they
    /// processed before it is unknown. Later workers counted from zero. `None` before the first
    /// observation.
    without_baseline: Option<BTreeSet<String>>,
    /// Workers that were observed before they were ready.
    starting: BTreeSet<String>,
    /// Workers whose start-up time was recorded or must not be.
    started: BTreeSet<String>,
    /// Workers whose time until placement was recorded or must not be.
    placed: BTreeSet<String>,
    /// A speed was measured, by this process or an earlier one.
    speed_known: bool,
}

/// What a worker had counted.
#[derive(Clone, Debug)]
struct Reading {
    counts: Counts,
    /// It was ready and did not wait for a server.
    worked: bool,
}

impl Learner {
    /// Starts with what an earlier process learned, or else with the assumptions.
    pub(crate) fn new(recalled: Option<Learned>, assumed: Learned) -> Self {
        let recalled = recalled.map(|recalled| recalled.plausible(&assumed));
        let (from, seconds, documents) = match recalled {
            Some(recalled) => (recalled, RECALLED_SECONDS, RECALLED_DOCUMENTS),
            None => (assumed, ASSUMED_SECONDS, ASSUMED_DOCUMENTS),
        };
        let times = |seconds: f64| match recalled {
            Some(_) => Recent::recalled(seconds),
            None => Recent::assumed(seconds),
        };
        Self {
            speed: Average::new(from.pages_per_second, seconds, RATE_MEMORY),
            size: Average::new(from.pages_per_document, documents, SIZE_MEMORY),
            pages_since_document: 0.0,
            provisioning: times(from.provisioning_seconds),
            startup: times(from.startup_seconds),
            longest_seconds: from.longest_seconds,
            last: BTreeMap::new(),
            without_baseline: None,
            starting: BTreeSet::new(),
            started: BTreeSet::new(),
            placed: BTreeSet::new(),
            speed_known: recalled.is_some(),
        }
    }

    /// The current estimates.
    pub(crate) fn learned(&self) -> Learned {
        Learned {
            pages_per_second: self.speed.value(),
            pages_per_document: self.size.value(),
            provisioning_seconds: self.provisioning.median(),
            startup_seconds: self.startup.median(),
            longest_seconds: self.longest_seconds,
        }
    }

    /// Whether the speed was measured and is not only assumed.
    pub(crate) fn knows_speed(&self) -> bool {
        self.speed_known
    }

    /// Learns from an observation of the workers, made `seconds` after the last one.
    pub(crate) fn observe(&mut self, now: Timestamp, seconds: f64, workers: &[Worker]) -> Progress {
        let mut progress = Progress::default();
        let (mut pages, mut busy, mut documents) = (0.0, 0.0, 0.0);
        if self.without_baseline.is_none() && self.speed_known {
            // An earlier process has learned these times, or has chosen not to.
            self.skip_times_of(workers);
        }
        self.longest_seconds *= 0.5_f64.powf(seconds.max(0.0) / LONGEST_WORK_HALF_LIFE);
        let mut without_baseline = self.without_baseline.take().unwrap_or_else(|| {
            let names = workers.iter().map(|worker| worker.name.clone());
            names.collect()
        });
        for worker in workers {
            self.observe_placement(worker);
            self.observe_start(now, worker);
            let Some(counts) = &worker.counts else {
                continue;
            };
            // An older worker that is not ready does not say what it waits for.
            let worked = worker.phase == Phase::Ready && worker.works();
            if !worked {
                progress.partitions.extend(&counts.partitions);
            }
            let reading = Reading {
                counts: counts.clone(),
                worked,
            };
            let last = self.last.insert(worker.name.clone(), reading);
            let last_longest = last
                .as_ref()
                .map_or(0.0, |last| last.counts.longest_seconds);
            if counts.longest_seconds > last_longest {
                let longest = counts.longest_seconds.min(LONGEST_WORK);
                self.longest_seconds = self.longest_seconds.max(longest);
            }
            let lacks_baseline = without_baseline.remove(&worker.name);
            let Some(last) = last.or_else(|| (!lacks_baseline).then(Reading::of_a_new_worker))
            else {
                continue;
            };
            if counts.busy_seconds < last.counts.busy_seconds || counts.pages < last.counts.pages {
                // Its container was restarted and its counters began at zero.
                continue;
            }
            progress.known = true;
            let processed = counts.pages - last.counts.pages;
            progress.pages += processed;
            documents += (counts.documents - last.counts.documents).max(0.0);
            self.pages_since_document += processed;
            if processed > 0.0 {
                progress.partitions.extend(&counts.partitions);
            }
            if worked && last.worked {
                pages += processed;
                busy += counts.busy_seconds - last.counts.busy_seconds;
            }
        }
        self.without_baseline = Some(without_baseline);
        self.forget_gone(workers);
        if busy > 0.0 {
            self.speed.add(pages, busy);
            self.speed_known |= pages > 0.0;
        }
        if documents > 0.0 && self.pages_since_document > 0.0 {
            self.size.add(self.pages_since_document, documents);
            self.pages_since_document = 0.0;
        }
        progress
    }

    /// Skips the times until placement of pods that wait for room which others are about to leave:
    /// no node is provisioned for them.
    pub(crate) fn ignore_placements(&mut self, workers: &[Worker]) {
        let pending = workers
            .iter()
            .filter(|worker| matches!(worker.phase, Phase::Pending { .. }));
        self.placed
            .extend(pending.map(|worker| worker.name.clone()));
    }

    /// Skips everything that these workers have done until now.
    pub(crate) fn skip_past_of(&mut self, workers: &[Worker]) {
        self.skip_times_of(workers);
        let mut unread = BTreeSet::new();
        for worker in workers {
            let Some(counts) = worker.counts.clone() else {
                unread.insert(worker.name.clone());
                continue;
            };
            let reading = Reading {
                counts,
                worked: false,
            };
            self.last.insert(worker.name.clone(), reading);
        }
        self.without_baseline = Some(unread);
    }

    fn skip_times_of(&mut self, workers: &[Worker]) {
        for worker in workers {
            self.started.insert(worker.name.clone());
            self.placed.insert(worker.name.clone());
        }
    }

    /// A pod's times of creation and placement never change.
    fn observe_placement(&mut self, worker: &Worker) {
        let (Some(created), Some(placed)) = (worker.times.created, worker.times.placed) else {
            return;
        };
        if self.placed.insert(worker.name.clone()) {
            let seconds = placed.duration_since(created).as_secs_f64();
            if (0.0..=LONGEST_PROVISIONING).contains(&seconds) {
                self.provisioning.add(seconds);
            }
        }
    }

    /// The readiness of a worker that was not observed before it may be its second one. Its own
    /// count of the seconds that it took is certain, except after a restart. A start that waited for
    /// a server does not count.
    fn observe_start(&mut self, now: Timestamp, worker: &Worker) {
        if matches!(worker.phase, Phase::Pending { .. } | Phase::Starting { .. }) {
            self.starting.insert(worker.name.clone());
            let counts = worker.counts.as_ref();
            if counts.is_some_and(|counts| !counts.retrying.is_empty()) {
                self.started.insert(worker.name.clone());
            }
            return;
        }
        let was_starting = self.starting.remove(&worker.name);
        let Some(placed) = worker.times.placed else {
            return;
        };
        let Some(process_started) = worker.times.process_started else {
            return;
        };
        let counted = worker
            .counts
            .as_ref()
            .and_then(|counts| counts.startup_seconds)
            .map(|seconds| process_started.duration_since(placed).as_secs_f64() + seconds);
        let seen = was_starting.then(|| now.duration_since(placed).as_secs_f64());
        let Some(seconds) = counted.or(seen) else {
            return;
        };
        if self.started.insert(worker.name.clone()) && (0.0..=LONGEST_STARTUP).contains(&seconds) {
            self.startup.add(seconds);
        }
    }

    fn forget_gone(&mut self, workers: &[Worker]) {
        let is_there = |name: &str| workers.iter().any(|worker| worker.name == name);
        self.last.retain(|name, _| is_there(name));
        self.starting.retain(|name| is_there(name));
        self.started.retain(|name| is_there(name));
        self.placed.retain(|name| is_there(name));
    }
}

impl Reading {
    fn of_a_new_worker() -> Self {
        Self {
            counts: Counts::default(),
            worked: true,
        }
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
#[path = "learned_tests.rs"]
mod tests;
