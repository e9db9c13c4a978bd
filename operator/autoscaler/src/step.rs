//! The last step of a decision: how far the number of workers may move towards the required
//! replicas. Up at once, down with delay, and always within the bounds.

use jiff::SignedDuration;

use super::{
    activation::{Activation, Queue},
    capacity::age,
    decision::{Limit, Reason, Terms},
    law::RequiredReplicas,
    memory::Memory,
    observation::{Observation, Phase, Worker},
    policy::Policy,
};

/// A single worker that has waited for a server for this many seconds gets a second one: its node
/// may be the cause.
const LONG_OUTAGE: f64 = 600.0;

/// Everything that the last step of a decision depends on.
pub(super) struct Step<'a> {
    pub(super) observation: &'a Observation,
    pub(super) bounds: Bounds,
    pub(super) delay: SignedDuration,
    pub(super) required: RequiredReplicas,
    pub(super) required_at_reduced_speed: RequiredReplicas,
    pub(super) work: Work,
    /// Workers that replace others that are not expected any more.
    pub(super) replacements: u32,
    pub(super) activation: Option<Activation>,
    pub(super) queue: Queue,
    /// Work has missed the drain target.
    pub(super) overdue: bool,
    /// The most workers that can have work at the same time.
    pub(super) partitions_with_work: u32,
    /// What the workers make of the backlog, if there is one.
    pub(super) progress: BacklogProgress,
    /// Partitions whose offsets are unknown.
    pub(super) unread: usize,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    None,
    /// No backlog, but rechecks that are due.
    Rechecks,
    Backlog,
}

/// What the workers make of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BacklogProgress {
    Known,
    /// It is unknown what they process.
    Unknown,
    /// Every worker waits for a server.
    StoresAway,
}

impl Step<'_> {
    /// The number of workers, its limits with the strongest first, and the terms.
    pub(super) fn decide(&self, memory: &mut Memory) -> (u32, Vec<Limit>, Terms) {
        let now = self.observation.at;
        let current = self.observation.current;
        let mut limits = Vec::new();
        let required = self.at_least_one_for_work(self.required);
        let unbounded = self
            .queue
            .activated(required, self.activation, current, &mut limits);
        let wanted = self.bounds.clamp(unbounded);
        let kept = self
            .bounds
            .clamp(self.at_least_one_for_work(self.required_at_reduced_speed))
            .min(current)
            .max(wanted);
        let is_held = self.progress == BacklogProgress::StoresAway;
        let by_quota = is_held && self.is_held_by_quota();
        let held = is_held.then(|| {
            let held = if by_quota { 1 } else { self.held(memory) };
            self.bounds.clamp(held)
        });
        memory.window.record(now, held.unwrap_or(kept), self.delay);
        let window = memory.window.largest(now, self.delay);

        let terms = self.terms(window);
        if let Some(held) = held.filter(|_| by_quota) {
            // With the delay: there may be room again soon.
            let largest = window.unwrap_or(current).max(held);
            let desired = self.bounds.clamp(largest.min(current));
            return (desired, vec![Limit::QuotaReached], terms);
        }
        if let Some(held) = held {
            return (held, vec![Limit::StoresAway], terms);
        }
        limits.extend(
            self.bounds
                .limit(unbounded, self.required.exceeds_partitions),
        );
        let desired = if wanted > current {
            self.up(wanted, memory, &mut limits)
        } else {
            self.down(kept, window, &mut limits)
        };
        let desired = self.within_pending(desired, memory, &mut limits);
        if self.required.exceeds_partitions
            && self.partitions_with_work < self.bounds.ceiling
            && self.work == Work::Backlog
        {
            limits.push(Limit::PartitionsWithWork);
        }
        (desired, limits, terms)
    }

    fn terms(&self, window: Option<u32>) -> Terms {
        Terms {
            for_arrivals: self.required.for_arrivals,
            for_backlog: self.required.for_backlog,
            to_scale_down: self.required_at_reduced_speed.workers(),
            floor: self.bounds.floor,
            ceiling: self.bounds.ceiling,
            window,
            window_seconds: self.delay.as_secs(),
        }
    }

    /// Which part of the work requires the most workers.
    pub(super) fn reason(&self) -> Reason {
        if self.required.for_arrivals > self.required.for_backlog {
            return Reason::KeepingUp;
        }
        match self.work {
            Work::Backlog => Reason::Draining,
            Work::Rechecks => Reason::Rechecking,
            Work::None => Reason::Idle,
        }
    }

    /// At least one for work and rechecks, and others for those that are not expected any more.
    fn at_least_one_for_work(&self, required: RequiredReplicas) -> u32 {
        let least = u32::from(self.work != Work::None);
        match required.workers().max(least) {
            0 => 0,
            workers => workers.saturating_add(self.replacements),
        }
    }

    /// Whether every worker that waits does so because a quota is reached.
    fn is_held_by_quota(&self) -> bool {
        let waiting = || {
            let workers = self.observation.workers.iter();
            workers.filter(|worker| worker.waits())
        };
        waiting().next().is_some() && waiting().all(Worker::waits_for_quota)
    }

    /// The current number while every worker waits for a server; after a long time one more than
    /// a single worker.
    fn held(&self, memory: &Memory) -> u32 {
        let Observation {
            at,
            current,
            ref workers,
            ..
        } = *self.observation;
        let is_long = memory
            .outage_since
            .is_some_and(|since| age(at, since) > LONG_OUTAGE);
        let comes = workers
            .iter()
            .any(|worker| matches!(worker.phase, Phase::Pending { .. } | Phase::Starting { .. }));
        if is_long && current == 1 && !comes {
            2
        } else {
            current
        }
    }

    fn up(&self, wanted: u32, memory: &Memory, limits: &mut Vec<Limit>) -> u32 {
        let current = self.observation.current;
        let is_held = |worker: &Worker| worker.counts.as_ref().is_some_and(|it| it.held_by_quota);
        if self.observation.workers.iter().any(is_held) {
            // Documents that were begun make progress; the backlog would only wait elsewhere.
            limits.push(Limit::QuotaReached);
            return current.max(self.bounds.floor);
        }
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
        // More workers than partitions with work cannot help with overdue work.
        let kept_for_overdue = self.partitions_with_work.max(kept).min(current);
        if self.overdue && kept_for_overdue == current {
            limits.push(Limit::DrainTargetAtRisk);
            return current;
        }
        if self.observation.terminating > 0 {
            limits.push(Limit::Settling);
            return current;
        }
        if self.progress == BacklogProgress::Unknown {
            limits.push(Limit::MetricsMissing);
            return current;
        }
        if self.unread > 0 {
            limits.push(Limit::PartitionsUnread);
            return current;
        }
        let least = if self.overdue { kept_for_overdue } else { kept };
        match window.map(|largest| largest.max(least)) {
            Some(largest) if largest < current => largest,
            _ => {
                limits.push(Limit::ScaleDownDelay);
                current
            }
        }
    }

    /// Only a few workers are pending while nodes fail to come, but never fewer than the floor.
    fn within_pending(&self, desired: u32, memory: &Memory, limits: &mut Vec<Limit>) -> u32 {
        let most = memory.pending.ceiling(&self.observation.workers);
        match most.map(|most| most.max(self.bounds.floor)) {
            Some(most) if most < desired => {
                limits.push(Limit::PendingWorkers);
                most
            }
            _ => desired,
        }
    }
}

/// The fewest and the most workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) floor: u32,
    pub(super) ceiling: u32,
    /// The ceiling is the number of partitions.
    pub(super) by_partitions: bool,
}

impl Bounds {
    /// A topic with fewer partitions than the floor lowers the floor too: further workers would be
    /// idle.
    pub(super) fn of(policy: &Policy, partitions: Option<u32>) -> Self {
        let max = policy.max.get();
        let ceiling = partitions.map_or(max, |count| max.min(count));
        Self {
            floor: policy.floor.min(ceiling),
            ceiling,
            by_partitions: partitions == Some(ceiling),
        }
    }

    /// The nearest number within the bounds.
    pub(super) fn clamp(self, workers: u32) -> u32 {
        workers.clamp(self.floor, self.ceiling)
    }

    /// The bound that applies to `unbounded`, which the law keeps within the partitions.
    fn limit(self, unbounded: u32, exceeds_partitions: bool) -> Option<Limit> {
        if unbounded < self.floor {
            Some(Limit::Floor)
        } else if unbounded > self.ceiling {
            Some(Limit::MaxReplicas)
        } else if exceeds_partitions && self.by_partitions && unbounded == self.ceiling {
            Some(Limit::Partitions)
        } else {
            None
        }
    }
}
