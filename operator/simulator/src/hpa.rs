//! Our implementation of the published formula of the Kubernetes `HorizontalPodAutoscaler` on an
//! external metric with a target of type `AverageValue`.
//!
//! Every 15 s: `desired = ceil(lag / target)`, unless `lag / (target · replicas)` is within 10 % of
//! one; then the largest recommendation of the last 5 minutes (down-stabilisation); then at most
//! `max(2 · replicas, 4)` (the limit without a `behavior`: 1, 4, 8, ...). Never below one.
//! Sources: Kubernetes documentation, "Horizontal Pod Autoscaling", algorithm details, and the
//! defaults of kube-controller-manager (`--horizontal-pod-autoscaler-sync-period`,
//! `-tolerance`, `-downscale-stabilization`).

use std::collections::VecDeque;

use super::{
    scaler::{Bounds, Recommendation, Scaler},
    whole,
    world::World,
};

/// Seconds between two syncs.
pub(super) const SYNC: u32 = 15;
const TOLERANCE: f64 = 0.1;
const DOWN_STABILISATION: u32 = 300;
const SCALE_UP_FACTOR: u32 = 2;
const SCALE_UP_LEAST: u32 = 4;

/// The control loop.
#[derive(Clone, Debug)]
pub(super) struct Hpa {
    bounds: Bounds,
    /// The target: lag per worker.
    target: f64,
    recommendations: VecDeque<(u32, u32)>,
}

impl Hpa {
    /// At least one worker, whatever the bounds say.
    pub(super) fn new(bounds: Bounds, target: f64) -> Self {
        Self {
            bounds: Bounds {
                min: bounds.min.max(1),
                ..bounds
            },
            target,
            recommendations: VecDeque::new(),
        }
    }

    /// One sync with this metric and this many replicas.
    pub(super) fn sync(&mut self, now: u32, lag: f64, replicas: u32) -> u32 {
        let usage = lag / (self.target * f64::from(replicas.max(1)));
        let recommended = if (usage - 1.0).abs() <= TOLERANCE {
            replicas
        } else {
            whole((lag / self.target).ceil())
        };
        self.recommendations.push_back((now, recommended));
        self.recommendations
            .retain(|(at, _)| now - at < DOWN_STABILISATION);
        let stabilised = self.recommendations.iter().map(|(_, one)| *one).max();
        let limit = (SCALE_UP_FACTOR * replicas).max(SCALE_UP_LEAST);
        stabilised
            .unwrap_or(recommended)
            .min(limit)
            .clamp(self.bounds.min, self.bounds.max)
    }

    /// Drops the recommendations.
    pub(super) fn forget(&mut self) {
        self.recommendations.clear();
    }
}

impl Scaler for Hpa {
    fn name(&self) -> &'static str {
        "hpa"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        if world.now == 0 {
            return Some(Recommendation::new(self.bounds.min));
        }
        world.now.is_multiple_of(SYNC).then(|| {
            let lag = world.queues.lag() as f64;
            Recommendation::new(self.sync(world.now, lag, world.replicas()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hpa(min: u32, max: u32) -> Hpa {
        Hpa::new(Bounds { min, max }, 10.0)
    }

    #[test]
    fn recommends_the_lag_divided_by_the_target_rounded_up() {
        assert_eq!(hpa(0, 50).sync(0, 41.0, 5), 5);
        assert_eq!(hpa(0, 50).sync(0, 61.0, 5), 7);
        assert_eq!(hpa(0, 50).sync(0, 0.0, 5), 1, "never zero");
    }

    #[test]
    fn changes_nothing_within_a_tenth() {
        // 640 / 63 is within a tenth of the target: 63 are kept, although 64 are recommended.
        assert_eq!(hpa(0, 64).sync(0, 640.0, 63), 63);
        assert_eq!(hpa(0, 64).sync(0, 700.0, 63), 64);
    }

    #[test]
    fn scales_up_from_one_to_four_to_eight() {
        let mut hpa = hpa(0, 50);
        assert_eq!(hpa.sync(0, 1000.0, 1), 4);
        assert_eq!(hpa.sync(15, 1000.0, 4), 8);
        assert_eq!(hpa.sync(30, 1000.0, 8), 16);
    }

    #[test]
    fn scales_down_to_the_largest_of_five_minutes() {
        let mut hpa = hpa(0, 50);
        assert_eq!(hpa.sync(0, 80.0, 8), 8);
        assert_eq!(hpa.sync(15, 30.0, 8), 8);
        assert_eq!(hpa.sync(299, 0.0, 8), 8);
        assert_eq!(hpa.sync(300, 0.0, 8), 3);
        assert_eq!(hpa.sync(315, 0.0, 3), 1);
    }
}
