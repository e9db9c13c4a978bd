//! Synthetic traces. Each shows one difficulty for an autoscaler. They are random, and the same for
//! the same seed. Sizes suit workers of about five pages per second and a dozen partitions.

use std::f64::consts::TAU;

use clap::ValueEnum;
use fastrand::Rng;

use super::{
    trace::{Arrival, Nodes, Outage, Stall, Trace},
    whole,
};

const MINUTE: u32 = 60;
const HOUR: u32 = 3600;
/// Mean pages of a short document, and the most.
const PAGES: f64 = 10.0;
const LONGEST_SHORT: u32 = 64;

/// A synthetic trace. Documents have about ten pages, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Shape {
    /// One document per second for two hours.
    Steady,
    /// 1,500 documents within a minute, then nothing.
    Burst,
    /// 400 documents within ten seconds, every twenty minutes for three hours.
    Bursts,
    /// From zero to four documents per second within an hour, half an hour at that rate, then
    /// nothing.
    Ramp,
    /// A day: almost nothing at night, three documents per second at noon.
    Diurnal,
    /// Alternately two documents per second and none, for ten minutes each, for three hours.
    OnOff,
    /// One document about every quarter of an hour, for six hours.
    Rare,
    /// A document of 600 to 1,400 pages every ten minutes and short ones, for three hours.
    LongDocuments,
    /// One document every two seconds for two hours; six of ten go to one partition.
    HotPartition,
    /// One document every two seconds for two hours; one partition makes no progress for an hour.
    PoisonPartition,
    /// The stores accept eight pages per second in total. Ninety minutes of arrivals, with more
    /// than that for half an hour.
    SlowStores,
    /// 12,000 documents at once: more than all workers process within the drain target.
    Backfill,
    /// The rate jumps at random between zero and three documents per second, for four hours.
    Erratic,
    /// One document every two seconds for two hours; the stores do not respond for half an hour.
    Outage,
    /// One document every twenty seconds for four hours: less than one worker processes.
    SlowStart,
    /// One document per second for two hours; every ten minutes a worker crashes and is restarted.
    Flapping,
    /// 1,500 documents within a minute, every ninety minutes for six hours. There is no node at
    /// first; nodes are provisioned in four minutes, three at a time, and only nine ever come.
    Provisioning,
}

impl Shape {
    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The trace.
    pub(super) fn trace(self, seed: u64) -> Trace {
        let mut generator = Generator::new(seed);
        match self {
            Self::Steady => generator.poisson(0, 2 * HOUR, |_| 1.0),
            Self::Burst => generator.burst(300, MINUTE, 1500),
            Self::Bursts => {
                for start in (MINUTE..3 * HOUR).step_by(20 * 60) {
                    generator.burst(start, 10, 400);
                }
            }
            Self::Ramp => {
                generator.poisson(0, HOUR, |second| 4.0 * f64::from(second) / f64::from(HOUR));
                generator.poisson(HOUR, HOUR + 30 * MINUTE, |_| 4.0);
            }
            Self::Diurnal => generator.poisson(0, 24 * HOUR, |second| {
                let day = f64::from(second) / f64::from(24 * HOUR);
                // A long night and a short noon.
                3.0 * (0.5 - 0.5 * (TAU * day).cos()).powi(2)
            }),
            Self::OnOff => generator.poisson(0, 3 * HOUR, |second| {
                if (second / (10 * MINUTE)).is_multiple_of(2) {
                    2.0
                } else {
                    0.0
                }
            }),
            Self::Rare => generator.poisson(0, 6 * HOUR, |_| 1.0 / 900.0),
            Self::LongDocuments => {
                generator.poisson(0, 3 * HOUR, |_| 0.1);
                for start in (2 * MINUTE..3 * HOUR).step_by(600) {
                    let pages = generator.rng.u32(600..=1400);
                    generator.add(start, pages, None);
                }
            }
            Self::HotPartition => {
                generator.poisson(0, 2 * HOUR, |_| 0.5);
                generator.prefer(0, 0.6);
            }
            Self::PoisonPartition => {
                generator.poisson(0, 2 * HOUR, |_| 0.5);
                generator.trace.stalls.push(Stall {
                    partition: 0,
                    from: 20 * MINUTE,
                    until: 80 * MINUTE,
                });
            }
            Self::SlowStores => {
                generator.poisson(0, 90 * MINUTE, |second| {
                    let is_peak = (30 * MINUTE..60 * MINUTE).contains(&second);
                    if is_peak { 1.2 } else { 0.4 }
                });
                generator.trace.store_limit = Some(8.0);
            }
            Self::Backfill => generator.burst(MINUTE, 10, 12_000),
            Self::Erratic => generator.erratic(4 * HOUR),
            Self::Outage => {
                generator.poisson(0, 2 * HOUR, |_| 0.5);
                generator.trace.outages.push(Outage {
                    from: 30 * MINUTE,
                    until: HOUR,
                });
            }
            Self::SlowStart => generator.poisson(0, 4 * HOUR, |_| 0.05),
            Self::Flapping => {
                generator.poisson(0, 2 * HOUR, |_| 1.0);
                generator.trace.crash_interval = Some(10 * MINUTE);
            }
            Self::Provisioning => {
                for start in (5 * MINUTE..6 * HOUR).step_by(90 * 60) {
                    generator.burst(start, MINUTE, 1500);
                }
                generator.trace.nodes = Some(Nodes {
                    seconds: 4 * MINUTE,
                    at_a_time: 3,
                    most: 9,
                });
            }
        }
        generator.finish()
    }
}

struct Generator {
    rng: Rng,
    trace: Trace,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            trace: Trace::default(),
        }
    }

    fn add(&mut self, second: u32, pages: u32, partition: Option<u32>) {
        self.trace.arrivals.push(Arrival {
            second,
            pages,
            partition,
        });
    }

    /// The pages of a short document: mostly few, rarely many.
    fn short_pages(&mut self) -> u32 {
        let pages = 0.5 - (PAGES - 1.0) * (1.0 - self.rng.f64()).ln();
        whole(pages + 0.5).clamp(1, LONGEST_SHORT)
    }

    /// Adds independent arrivals with a mean number per second (a Poisson process).
    fn poisson(&mut self, from: u32, until: u32, per_second: impl Fn(u32) -> f64) {
        for second in from..until {
            let none = (-per_second(second)).exp();
            let mut product = self.rng.f64();
            while product > none {
                let pages = self.short_pages();
                self.add(second, pages, None);
                product *= self.rng.f64();
            }
        }
        self.trace.ends = self.trace.ends.max(until);
    }

    /// Adds a number of documents at random times within `seconds`.
    fn burst(&mut self, start: u32, seconds: u32, documents: u32) {
        for _ in 0..documents {
            let second = start + self.rng.u32(0..seconds);
            let pages = self.short_pages();
            self.add(second, pages, None);
        }
    }

    /// Sends this part of the documents to one partition.
    fn prefer(&mut self, partition: u32, part: f64) {
        for arrival in &mut self.trace.arrivals {
            if self.rng.f64() < part {
                arrival.partition = Some(partition);
            }
        }
    }

    /// Adds arrivals whose rate jumps at random times.
    fn erratic(&mut self, until: u32) {
        let mut start = 0;
        while start < until {
            let end = (start + self.rng.u32(3 * MINUTE..25 * MINUTE)).min(until);
            let per_second = [0.0, 0.1, 0.5, 1.0, 2.0, 3.0][self.rng.usize(0..6)];
            self.poisson(start, end, |_| per_second);
            start = end;
        }
    }

    fn finish(mut self) -> Trace {
        let arrivals = &mut self.trace.arrivals;
        arrivals.sort_by_key(|arrival| arrival.second);
        let last = arrivals.last().map_or(0, |arrival| arrival.second + 1);
        self.trace.ends = self.trace.ends.max(last);
        self.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_trace() {
        for shape in Shape::value_variants() {
            assert_eq!(shape.trace(7), shape.trace(7), "{shape:?}");
            assert_ne!(shape.trace(7), shape.trace(8), "{shape:?}");
        }
    }

    #[test]
    fn short_documents_have_about_ten_pages() {
        let trace = Shape::Backfill.trace(1);
        let pages: u32 = trace.arrivals.iter().map(|arrival| arrival.pages).sum();
        let mean = f64::from(pages) / trace.arrivals.len() as f64;
        assert!((9.0..11.0).contains(&mean), "{mean}");
    }

    #[test]
    fn a_steady_rate_is_kept() {
        let trace = Shape::Steady.trace(1);
        assert!((6900..7500).contains(&trace.arrivals.len()));
        assert_eq!(trace.ends, 7200);
    }

    #[test]
    fn arrivals_are_in_the_order_of_time_and_have_pages() {
        for shape in Shape::value_variants() {
            let trace = shape.trace(3);
            assert!(!trace.arrivals.is_empty(), "{shape:?}");
            assert!(trace.arrivals.is_sorted_by_key(|arrival| arrival.second));
            assert!(trace.arrivals.iter().all(|arrival| arrival.pages > 0));
        }
    }
}
