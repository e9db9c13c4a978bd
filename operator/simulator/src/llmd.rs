//! Our implementation of the autoscaling that llm-d proposes for batch inference with deadlines:
//! KEDA on the backlog and on a histogram of the time that is left until each deadline.
//!
//! For each boundary `t` of the histogram that is later than the cold start `C`, the `B(t)` requests
//! that are due within `t` require `B(t) / (R · (t − C))` replicas, where `R` is the throughput of
//! one replica. The largest of these counts; requests that are due within `C` require the maximum.
//! A second trigger, the backlog with 50 requests for each replica, is kept as a fallback, and the
//! larger proposal applies. The pool wakes when the deadlines require more than 0.85 replicas, at
//! the latest safe moment. It sleeps again after `cooldownPeriod` (300 s) in which they do not.
//! While it is awake, an HPA follows without delay upwards, and downwards with a stabilisation of
//! 300 s and at most one pod every 120 s.
//!
//! `C` and `R` are to be measured and entered by hand: here they are the true ones. The proposal
//! does not say when the fallback wakes the pool; here it does with one replica's worth of requests,
//! since with any request the pool would never sleep until the last safe moment.
//! Source: llm-d/llm-d-autoscaling `docs/proposals/async-batch-autoscaling.md` (a draft).

use std::collections::VecDeque;

use super::{
    hpa::SYNC,
    policies::Workload,
    scaler::{Bounds, Recommendation, Scaler},
    whole,
    world::World,
};

/// The boundaries of the histogram, in seconds; the first one counts what is overdue.
const BOUNDARIES: [f64; 14] = [
    0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0,
    86_400.0,
];
/// Requests for each replica, for the fallback.
pub(super) const BACKLOG_THRESHOLD: f64 = 50.0;
/// Replicas that the deadlines must require before the pool wakes.
const ACTIVATION: f64 = 0.85;
const TOLERANCE: f64 = 0.1;
const POLLING: u32 = 30;
const COOLDOWN: u32 = 300;
const DOWN_STABILISATION: u32 = 300;
const SECONDS_PER_REMOVED_POD: u32 = 120;
const SCALE_UP_FACTOR: u32 = 2;
const SCALE_UP_LEAST: u32 = 4;

/// The `ScaledObject` with its two triggers, and its HPA.
#[derive(Clone, Debug)]
pub(super) struct Llmd {
    bounds: Bounds,
    workload: Workload,
    threshold: f64,
    recommendations: VecDeque<(u32, u32)>,
    last_active: u32,
    last_removed: Option<u32>,
}

impl Llmd {
    pub(super) fn new(bounds: Bounds, workload: Workload, threshold: f64) -> Self {
        Self {
            bounds,
            workload,
            threshold,
            recommendations: VecDeque::new(),
            last_active: 0,
            last_removed: None,
        }
    }

    /// The replicas that the deadlines require. `left`: the seconds until each one.
    fn required(&self, left: &[f64]) -> f64 {
        let cold_start = self.workload.seconds_until_ready;
        let mut required: f64 = 0.0;
        for boundary in BOUNDARIES {
            let due = left.iter().filter(|left| **left <= boundary).count() as f64;
            if boundary > cold_start {
                let seconds = boundary - cold_start;
                required = required.max(due / (self.workload.documents_per_second * seconds));
            } else if due > 0.0 {
                return f64::from(self.bounds.max);
            }
        }
        required
    }

    /// One sync of the HPA with the values of both triggers, in replicas.
    fn sync(&mut self, now: u32, triggers: [f64; 2], replicas: u32) -> u32 {
        let proposal = |value: f64| {
            let usage = value / f64::from(replicas.max(1));
            if (usage - 1.0).abs() <= TOLERANCE {
                replicas
            } else {
                whole(value.ceil())
            }
        };
        let proposed = triggers.map(proposal).into_iter().max().unwrap_or(0);
        self.recommendations.push_back((now, proposed));
        self.recommendations
            .retain(|(at, _)| now - at < DOWN_STABILISATION);
        let stabilised = self.recommendations.iter().map(|(_, one)| *one).max();
        let most = (SCALE_UP_FACTOR * replicas).max(replicas + SCALE_UP_LEAST);
        let mut workers = stabilised.unwrap_or(proposed).min(most);
        if workers < replicas {
            let is_due = self
                .last_removed
                .is_none_or(|at| now - at >= SECONDS_PER_REMOVED_POD);
            workers = if is_due {
                self.last_removed = Some(now);
                replicas - 1
            } else {
                replicas
            };
        }
        workers.clamp(self.bounds.min.max(1), self.bounds.max)
    }
}

impl Scaler for Llmd {
    fn name(&self) -> &'static str {
        "llm-d"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        let now = world.now;
        if now == 0 && self.bounds.min > 0 {
            return Some(Recommendation::new(self.bounds.min));
        }
        if !now.is_multiple_of(SYNC) {
            return None;
        }
        let left: Vec<f64> = world
            .queues
            .arrivals_of_unprocessed()
            .map(|arrived| self.workload.drain_target - f64::from(now - arrived))
            .collect();
        let required = self.required(&left);
        let backlog = world.queues.lag() as f64 / self.threshold;
        if now.is_multiple_of(POLLING) {
            if required > ACTIVATION || backlog > 1.0 {
                self.last_active = now;
                if world.desired == 0 {
                    self.recommendations.clear();
                    return Some(Recommendation::new(1));
                }
            } else if self.bounds.min == 0
                && world.desired > 0
                && now - self.last_active >= COOLDOWN
            {
                return Some(Recommendation::new(0));
            }
        }
        if world.desired == 0 {
            return None;
        }
        let triggers = [required, backlog];
        Some(Recommendation::new(self.sync(
            now,
            triggers,
            world.replicas(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two documents per second, a cold start of 100 s.
    fn llmd() -> Llmd {
        let workload = Workload {
            documents_per_second: 2.0,
            drain_target: 600.0,
            seconds_until_ready: 100.0,
        };
        Llmd::new(Bounds { min: 0, max: 12 }, workload, BACKLOG_THRESHOLD)
    }

    fn same(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} {right}");
    }

    #[test]
    fn deadlines_require_what_can_be_done_after_a_cold_start() {
        // 300 are due within 600 s, of which a new replica has 500 for two each.
        same(llmd().required(&[500.0; 300]), 0.3);
        // 100 more within 120 s, of which it has 20.
        let left: Vec<f64> = [500.0; 300].into_iter().chain([110.0; 100]).collect();
        same(llmd().required(&left), 2.5);
        same(llmd().required(&[]), 0.0);
    }

    #[test]
    fn what_is_due_within_a_cold_start_requires_the_maximum() {
        same(llmd().required(&[60.0]), 12.0);
        same(llmd().required(&[-5.0]), 12.0);
    }

    #[test]
    fn the_larger_trigger_applies_and_pods_are_removed_one_at_a_time() {
        let mut llmd = llmd();
        assert_eq!(llmd.sync(0, [2.2, 6.0], 3), 6);
        assert_eq!(llmd.sync(15, [1.0, 0.5], 6), 6, "stabilised");
        assert_eq!(llmd.sync(315, [1.0, 0.5], 6), 5);
        assert_eq!(llmd.sync(330, [1.0, 0.5], 5), 5);
        assert_eq!(llmd.sync(435, [1.0, 0.5], 5), 4);
        assert_eq!(llmd.sync(450, [40.0, 0.5], 4), 8, "up at once");
    }
}
