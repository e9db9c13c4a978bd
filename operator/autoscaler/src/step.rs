//! When the number of workers may move: up at once, down carefully, and never out of bounds.

use jiff::SignedDuration;

use super::{Limit, Memory, Observation, Phase, Policy, Terms, count, law::Need};

/// Everything that the last step of a decision looks at.
pub(super) struct Look<'a> {
    pub(super) observation: &'a Observation,
    pub(super) policy: &'a Policy,
    pub(super) bounds: Bounds,
    pub(super) delay: SignedDuration,
    pub(super) need: Need,
    /// The need if workers were slower.
    pub(super) careful: Need,
    pub(super) any_work: bool,
    pub(super) overdue: bool,
    /// Workers that can have work at the same time.
    pub(super) useful: u32,
    /// There is work, and it is not known what the workers get done.
    pub(super) blind_workers: bool,
}

impl Look<'_> {
    /// The number, what bounded it, the strongest first, and the terms.
    pub(super) fn decide(&self, memory: &mut Memory) -> (u32, Vec<Limit>, Terms) {
        let now = self.observation.at;
        let current = self.observation.current;
        let mut limits = Vec::new();
        let asked = self.asked(self.need);
        let wanted = self.bounds.clamp(asked);
        let kept = self
            .bounds
            .clamp(self.asked(self.careful))
            .min(current)
            .max(wanted);
        memory.window.record(now, kept, self.delay);
        let window = memory.window.largest(now, self.delay);

        limits.extend(self.bounds.limit(asked, self.need.out_of_reach));
        let desired = if wanted > current {
            self.up(wanted, memory, &mut limits)
        } else {
            self.down(kept, window, &mut limits)
        };
        let desired = self.within_pending(desired, &mut limits);
        if self.need.out_of_reach && self.useful < self.bounds.ceiling && self.any_work {
            limits.push(Limit::PartitionsWithWork);
        }
        let terms = Terms {
            for_arrivals: self.need.for_arrivals,
            for_backlog: self.need.for_backlog,
            to_scale_down: self.careful.workers(),
            floor: self.bounds.floor,
            ceiling: self.bounds.ceiling,
            window,
            window_seconds: self.delay.as_secs(),
        };
        (desired, limits, terms)
    }

    /// What the work asks for: one worker at least while there is any.
    fn asked(&self, need: Need) -> u32 {
        need.workers().max(u32::from(self.any_work))
    }

    fn up(&self, wanted: u32, memory: &Memory, limits: &mut Vec<Limit>) -> u32 {
        let current = self.observation.current;
        let useful = memory.effect.ceiling(self.observation.at);
        match useful.map(|useful| useful.max(current)) {
            Some(useful) if useful < wanted => {
                limits.push(Limit::IneffectiveScaleUp);
                useful.max(self.bounds.floor)
            }
            _ => wanted,
        }
    }

    fn down(&self, kept: u32, window: Option<u32>, limits: &mut Vec<Limit>) -> u32 {
        let current = self.observation.current.min(self.bounds.ceiling);
        if kept >= current {
            return kept;
        }
        // Workers beyond those that can have work do not help what is overdue.
        let needed_late = self.useful.max(kept).min(current);
        if self.overdue && needed_late == current {
            limits.push(Limit::DrainTargetAtRisk);
            return current;
        }
        if self.observation.leaving > 0 {
            limits.push(Limit::Settling);
            return current;
        }
        if self.blind_workers {
            limits.push(Limit::MetricsMissing);
            return current;
        }
        let least = if self.overdue { needed_late } else { kept };
        match window.map(|largest| largest.max(least)) {
            Some(largest) if largest < current => largest,
            _ => {
                limits.push(Limit::ScaleDownDelay);
                current
            }
        }
    }

    /// Only a few workers wait for a node at the same time.
    fn within_pending(&self, desired: u32, limits: &mut Vec<Limit>) -> u32 {
        let workers = &self.observation.workers;
        let waiting = count(workers, |phase| matches!(phase, Phase::Waiting { .. }));
        if waiting == 0 {
            return desired;
        }
        let placed = count(workers, |phase| !matches!(phase, Phase::Waiting { .. }));
        let most = placed + self.policy.max_pending.get();
        if desired <= most {
            return desired;
        }
        limits.push(Limit::PendingWorkers);
        most
    }
}

/// The fewest and the most workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) floor: u32,
    pub(super) ceiling: u32,
    /// The partitions are the ceiling.
    pub(super) by_partitions: bool,
}

impl Bounds {
    /// A topic with fewer partitions than the floor lowers the floor too: the rest would be idle.
    pub(super) fn of(policy: &Policy, partitions: Option<u32>) -> Self {
        let max = policy.max.get();
        let ceiling = partitions.map_or(max, |count| max.min(count));
        Self {
            floor: policy.floor.min(ceiling),
            ceiling,
            by_partitions: partitions == Some(ceiling),
        }
    }

    /// The nearest number within.
    pub(super) fn clamp(self, workers: u32) -> u32 {
        workers.clamp(self.floor, self.ceiling)
    }

    /// What keeps the number from `asked`, which the law keeps within the partitions.
    fn limit(self, asked: u32, out_of_reach: bool) -> Option<Limit> {
        if asked < self.floor {
            Some(Limit::Floor)
        } else if asked > self.ceiling {
            Some(Limit::MaxReplicas)
        } else if out_of_reach && self.by_partitions && asked == self.ceiling {
            Some(Limit::Partitions)
        } else {
            None
        }
    }
}
