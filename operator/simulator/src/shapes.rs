//! Traces with a name. Each shows one thing that arrivals do to an autoscaler. Random, and the same
//! for the same seed. Sizes fit workers of about five pages a second and a dozen partitions.

use std::f64::consts::TAU;

use clap::ValueEnum;
use fastrand::Rng;

use super::{
    trace::{Arrival, Stall, Trace},
    whole,
};

const MINUTE: u32 = 60;
const HOUR: u32 = 3600;
/// Pages of a document on average, and of the longest short one.
const PAGES: f64 = 10.0;
const LONGEST_SHORT: u32 = 64;

/// A synthetic trace. Documents have about ten pages, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Shape {
    /// One document a second for two hours.
    Steady,
    /// 1,500 documents within a minute, and nothing else.
    Burst,
    /// 400 documents within ten seconds, every twenty minutes for three hours.
    Bursts,
    /// From nothing to four documents a second within an hour, half an hour of that, then nothing.
    Ramp,
    /// A day: almost nothing at night, three documents a second at noon.
    Diurnal,
    /// Two documents a second for ten minutes, nothing for ten minutes, for three hours.
    OnOff,
    /// One document now and then, about every quarter of an hour, for six hours.
    Rare,
    /// A document of 600 to 1,400 pages every ten minutes for three hours, beside short ones.
    LongDocuments,
    /// Six of ten documents go to one partition; one document in two seconds for two hours.
    HotPartition,
    /// One partition stands still for an hour; one document in two seconds for two hours.
    PoisonPartition,
    /// The stores take eight pages a second in all; an hour of steady work with half an hour of
    /// more than that in it.
    SlowStores,
    /// 12,000 documents at once: more than all workers get done within the drain target.
    Backfill,
    /// The rate jumps at random between none and three documents a second, for four hours.
    Erratic,
}

impl Shape {
    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The trace.
    pub(super) fn trace(self, seed: u64) -> Trace {
        let mut maker = Maker::new(seed);
        match self {
            Self::Steady => maker.rate(0, 2 * HOUR, |_| 1.0),
            Self::Burst => maker.spread(300, MINUTE, 1500),
            Self::Bursts => {
                for start in (MINUTE..3 * HOUR).step_by(20 * 60) {
                    maker.spread(start, 10, 400);
                }
            }
            Self::Ramp => {
                maker.rate(0, HOUR, |second| 4.0 * f64::from(second) / f64::from(HOUR));
                maker.rate(HOUR, HOUR + 30 * MINUTE, |_| 4.0);
            }
            Self::Diurnal => maker.rate(0, 24 * HOUR, |second| {
                let day = f64::from(second) / f64::from(24 * HOUR);
                // A night that is long and a noon that is short.
                3.0 * (0.5 - 0.5 * (TAU * day).cos()).powi(2)
            }),
            Self::OnOff => maker.rate(0, 3 * HOUR, |second| {
                if (second / (10 * MINUTE)).is_multiple_of(2) {
                    2.0
                } else {
                    0.0
                }
            }),
            Self::Rare => maker.rate(0, 6 * HOUR, |_| 1.0 / 900.0),
            Self::LongDocuments => {
                maker.rate(0, 3 * HOUR, |_| 0.1);
                for start in (2 * MINUTE..3 * HOUR).step_by(600) {
                    let pages = maker.rng.u32(600..=1400);
                    maker.add(start, pages, None);
                }
            }
            Self::HotPartition => {
                maker.rate(0, 2 * HOUR, |_| 0.5);
                maker.prefer(0, 0.6);
            }
            Self::PoisonPartition => {
                maker.rate(0, 2 * HOUR, |_| 0.5);
                maker.trace.stalls.push(Stall {
                    partition: 0,
                    from: 20 * MINUTE,
                    until: 80 * MINUTE,
                });
            }
            Self::SlowStores => {
                maker.rate(0, 90 * MINUTE, |second| {
                    let more = (30 * MINUTE..60 * MINUTE).contains(&second);
                    if more { 1.2 } else { 0.4 }
                });
                maker.trace.store_limit = Some(8.0);
            }
            Self::Backfill => maker.spread(MINUTE, 10, 12_000),
            Self::Erratic => maker.erratic(4 * HOUR),
        }
        maker.finish()
    }
}

struct Maker {
    rng: Rng,
    trace: Trace,
}

impl Maker {
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

    /// Many short documents, few longer ones.
    fn short(&mut self) -> u32 {
        let pages = 0.5 - (PAGES - 1.0) * (1.0 - self.rng.f64()).ln();
        whole(pages + 0.5).clamp(1, LONGEST_SHORT)
    }

    /// Documents that come independently of each other, so many a second (a Poisson process).
    fn rate(&mut self, from: u32, until: u32, documents: impl Fn(u32) -> f64) {
        for second in from..until {
            let none = (-documents(second)).exp();
            let mut product = self.rng.f64();
            while product > none {
                let pages = self.short();
                self.add(second, pages, None);
                product *= self.rng.f64();
            }
        }
        self.trace.ends = self.trace.ends.max(until);
    }

    /// So many documents within a time.
    fn spread(&mut self, start: u32, seconds: u32, documents: u32) {
        for _ in 0..documents {
            let second = start + self.rng.u32(0..seconds);
            let pages = self.short();
            self.add(second, pages, None);
        }
    }

    /// Sends a part of the documents to one partition.
    fn prefer(&mut self, partition: u32, part: f64) {
        for arrival in &mut self.trace.arrivals {
            if self.rng.f64() < part {
                arrival.partition = Some(partition);
            }
        }
    }

    /// A rate that jumps at random times.
    fn erratic(&mut self, until: u32) {
        let mut start = 0;
        while start < until {
            let end = (start + self.rng.u32(3 * MINUTE..25 * MINUTE)).min(until);
            let documents = [0.0, 0.1, 0.5, 1.0, 2.0, 3.0][self.rng.usize(0..6)];
            self.rate(start, end, |_| documents);
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
    fn a_steady_rate_holds() {
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
