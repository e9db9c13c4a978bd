//! The first step of a decision: what an observation shows about the work and the workers.

use jiff::{SignedDuration, Timestamp};

use super::{
    activation::Queue,
    arrivals::Waiting,
    capacity,
    decision::Inputs,
    law::{Demand, Fleet},
    learned::{Learned, Progress},
    memory::Memory,
    observation::{self, Backlog, Observation, Partition, PartitionOffsets, Topic, Worker},
    planned_drain_target,
    policy::Policy,
    scaled,
};

/// Shortest and longest scale-down delay, in seconds, that is derived from the start-up time.
const SHORTEST_DELAY: f64 = 30.0;
const LONGEST_DELAY: f64 = 240.0;
/// Available workers are saturated when the backlog would keep them busy for this many seconds.
const SATURATED_SECONDS: f64 = 20.0;

/// What an observation shows, in the units of the law.
pub(super) struct Estimate {
    pub(super) learned: Learned,
    pub(super) scale_down_delay: SignedDuration,
    pub(super) stuck: Vec<Partition>,
    pub(super) demand: Demand,
    pub(super) fleet: Fleet,
    /// Workers that are ready, or work although they are not.
    pub(super) available: u32,
    /// Workers that replace others that are not expected any more.
    pub(super) replacements: u32,
    /// Every worker that has started waits for a server.
    pub(super) stores_away: bool,
    waiting: Waiting,
}

impl Estimate {
    /// Records the observation in the memory, and estimates from both.
    pub(super) fn of(
        observation: &Observation,
        backlog: &Backlog,
        progress: &Progress,
        policy: &Policy,
        memory: &mut Memory,
    ) -> Self {
        let now = observation.at;
        let learned = memory.learner.learned();
        let delay = scale_down_delay(policy, learned);
        let stuck = memory
            .stuck
            .observe(now, backlog, progress, learned.longest_seconds);
        let range_pages = memory.range_size.pages(policy.range_pages);
        let waiting = memory.arrivals.waiting(
            now,
            backlog,
            planned_drain_target(policy),
            |topic| match topic {
                Topic::Tasks => learned.pages_per_document,
                Topic::Ranges => range_pages,
            },
            |partition, offsets| {
                if stuck.contains(&partition) {
                    return 0;
                }
                work(&observation.workers, partition, offsets)
            },
        );
        let stores_away = stores_away(&observation.workers);
        if stores_away {
            memory.away_until = Some(now);
        }
        let documents_per_second = memory.arrivals.documents_per_second(now, delay);
        let estimate = Self {
            learned,
            scale_down_delay: delay,
            demand: Demand {
                arriving: documents_per_second * learned.pages_per_document,
                due: waiting.due.clone(),
                partitions: partition_count(backlog),
                partitions_with_work: partitions_with_work(backlog, &stuck),
            },
            fleet: fleet(observation, memory.away_until, learned),
            available: observation::available(&observation.workers),
            replacements: capacity::replacements(
                &observation.workers,
                now,
                memory.away_until,
                &learned,
            ),
            stores_away,
            waiting,
            stuck,
        };
        // Workers that wait for a server show nothing about what more of them would do.
        let working = if estimate.stores_away {
            0
        } else {
            estimate.available
        };
        if progress.known || working == 0 {
            memory.effect.record(
                now,
                memory.seconds_since_last,
                working,
                progress.pages,
                estimate.is_saturated(),
            );
        }
        estimate
    }

    /// Whether all available workers have more work than they can process at the moment.
    fn is_saturated(&self) -> bool {
        let pages = self.learned.pages_per_second * f64::from(self.available) * SATURATED_SECONDS;
        self.demand.partitions_with_work >= self.available && self.waiting.pages >= pages
    }

    /// Whether the oldest message has already missed the planned drain target.
    pub(super) fn is_overdue(&self) -> bool {
        let oldest = self.waiting.due.first();
        oldest.is_some_and(|due| due.within <= 0.0)
    }

    /// The work that waits.
    pub(super) fn queue(&self, backlog: &Backlog) -> Queue {
        Queue {
            lag: backlog.lag(),
            oldest_seconds: self.waiting.oldest_seconds,
        }
    }

    /// The inputs of the decision's explanation.
    pub(super) fn inputs(&self, workers: &[Worker], backlog: &Backlog) -> Inputs {
        Inputs {
            documents: Some(backlog.tasks.iter().map(|offsets| offsets.lag()).sum()),
            ranges: Some(backlog.ranges.iter().map(|offsets| offsets.lag()).sum()),
            pages: Some(self.waiting.pages),
            oldest_seconds: Some(self.waiting.oldest_seconds),
            arriving: Some(self.demand.arriving),
            partitions: Some(self.demand.partitions),
            partitions_with_work: Some(self.demand.partitions_with_work),
            ..Inputs::of_workers(workers)
        }
    }
}

/// How long fewer workers must have been enough before some are stopped. An idle worker is kept for
/// as long as another one would take to start: whatever comes next, that costs at most twice what
/// the best choice in hindsight would.
pub(super) fn scale_down_delay(policy: &Policy, learned: Learned) -> SignedDuration {
    policy.scale_down_delay.unwrap_or_else(|| {
        let seconds = learned
            .seconds_until_ready()
            .clamp(SHORTEST_DELAY, LONGEST_DELAY);
        scaled(SignedDuration::from_secs(1), seconds)
    })
}

fn fleet(observation: &Observation, away_until: Option<Timestamp>, learned: Learned) -> Fleet {
    let mut available_in: Vec<f64> = observation
        .workers
        .iter()
        .filter_map(|worker| capacity::available_in(worker, observation.at, away_until, &learned))
        .collect();
    available_in.sort_by(f64::total_cmp);
    Fleet {
        pages_per_second: learned.pages_per_second,
        available_in,
        startup_seconds: learned.seconds_until_ready(),
    }
}

fn stores_away(workers: &[Worker]) -> bool {
    workers.iter().any(Worker::waits) && !workers.iter().any(Worker::works)
}

/// Messages of a partition that are to be processed. The first one after the committed offset is, and
/// some of the others may have been processed before it.
fn work(workers: &[Worker], partition: Partition, offsets: PartitionOffsets) -> i64 {
    let counts = workers.iter().filter_map(|worker| worker.counts.as_ref());
    let ahead = counts.filter_map(|counts| counts.processed_ahead.get(&partition));
    let lag = offsets.lag();
    (lag - ahead.sum::<i64>()).max(lag.min(1))
}

/// Partitions of the tasks topic.
pub(super) fn partition_count(backlog: &Backlog) -> u32 {
    u32::try_from(backlog.tasks.len()).unwrap_or(u32::MAX)
}

fn partitions_with_work(backlog: &Backlog, stuck: &[Partition]) -> u32 {
    let found = backlog
        .partitions()
        .filter(|(partition, offsets)| offsets.lag() > 0 && !stuck.contains(partition))
        .count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Counts, Phase, Times};

    #[test]
    fn what_workers_processed_out_of_order_is_no_work() {
        let partition = Partition::of(Topic::Tasks, 0);
        let worker = |ahead| Worker {
            name: "a".into(),
            phase: Phase::Ready,
            times: Times::default(),
            counts: Some(Counts {
                processed_ahead: [(partition, ahead)].into(),
                ..Counts::default()
            }),
        };
        let work = |ahead, end| {
            let offsets = PartitionOffsets {
                log_start: 0,
                end,
                committed: Some(10),
            };
            work(&[worker(ahead)], partition, offsets)
        };
        assert_eq!(work(0, 40), 30);
        assert_eq!(work(20, 40), 10);
        assert_eq!(work(500, 40), 1, "the first one is not processed");
        assert_eq!(work(500, 10), 0);
    }
}
