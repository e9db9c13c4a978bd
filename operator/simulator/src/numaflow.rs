//! Our implementation of the published formula of Numaflow's autoscaler for a source, with its
//! defaults.
//!
//! Every 30 s: `desired = round((pending / rate) / targetProcessingSeconds · ready)`, with pending
//! and rate averaged over `lookbackSeconds` (120); at least one, never more than what is pending,
//! zero when nothing is pending and nothing is processed. At most two replicas more or fewer at a
//! time (`replicasPerScaleUp`, `replicasPerScaleDown`), with 90 s between two changes
//! (`scaleUpCooldownSeconds`, `scaleDownCooldownSeconds`). From zero one replica starts every
//! `zeroReplicaSleepSeconds` (120) to check. Nothing is decided while the number of ready pods is
//! zero or not as desired. Sources: numaproj/numaflow `docs/user-guide/reference/autoscaling.md`,
//! `pkg/reconciler/vertex/scaling/{scaling,options}.go`.

use super::{
    scaler::{Bounds, History, Recommendation, Scaler},
    whole,
    world::World,
};

/// `targetProcessingSeconds`.
pub(super) const TARGET_PROCESSING: f64 = 20.0;
const INTERVAL: u32 = 30;
const LOOKBACK: u32 = 120;
const COOLDOWN: u32 = 90;
const ZERO_REPLICA_SLEEP: u32 = 120;
const REPLICAS_PER_SCALE: u32 = 2;

/// The scaler of one source vertex.
#[derive(Clone, Debug)]
pub(super) struct Numaflow {
    bounds: Bounds,
    target: f64,
    processed: History,
    pending: History,
    last_scaled: u32,
}

impl Numaflow {
    pub(super) fn new(bounds: Bounds, target: f64) -> Self {
        Self {
            bounds,
            target,
            processed: History::default(),
            pending: History::default(),
            last_scaled: 0,
        }
    }

    /// The formula.
    fn desired(&self, pending: f64, rate: f64, ready: u32) -> u32 {
        if pending <= 0.0 && rate <= 0.0 {
            return 0;
        }
        if pending <= 0.0 || rate <= 0.0 {
            return 1;
        }
        let desired = (pending / rate / self.target * f64::from(ready)).round();
        whole(desired.min(pending)).max(1)
    }

    /// The next replicas on the way from `current` to `desired`.
    fn step(&self, desired: u32, current: u32) -> u32 {
        let desired = desired.clamp(self.bounds.min, self.bounds.max);
        desired.clamp(
            current.saturating_sub(REPLICAS_PER_SCALE),
            current + REPLICAS_PER_SCALE,
        )
    }

    fn decide(&self, world: &World) -> u32 {
        let current = world.desired;
        let since = world.now - self.last_scaled;
        if current == 0 {
            return u32::from(since >= ZERO_REPLICA_SLEEP);
        }
        if since < COOLDOWN || world.ready() == 0 || world.ready() != current {
            return current;
        }
        let rate = self.processed.rate().unwrap_or(0.0);
        self.step(
            self.desired(self.pending.mean(), rate, world.ready()),
            current,
        )
    }
}

impl Scaler for Numaflow {
    fn name(&self) -> &'static str {
        "numaflow"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        let now = world.now;
        let processed = world.queues.committed() as f64;
        self.processed.record(now, processed, LOOKBACK);
        self.pending
            .record(now, world.queues.lag() as f64, LOOKBACK);
        if now == 0 {
            return Some(Recommendation::new(self.bounds.min));
        }
        if !now.is_multiple_of(INTERVAL) {
            return None;
        }
        let workers = self.decide(world);
        if workers != world.desired {
            self.last_scaled = now;
        }
        Some(Recommendation::new(workers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numaflow() -> Numaflow {
        Numaflow::new(Bounds { min: 0, max: 50 }, 20.0)
    }

    #[test]
    fn recommends_by_the_time_that_the_pending_messages_take() {
        // 600 messages at 10 a second take 60 s, three times the target: six for two.
        assert_eq!(numaflow().desired(600.0, 10.0, 2), 6);
        assert_eq!(numaflow().desired(50.0, 10.0, 2), 1, "0.5, rounded");
        assert_eq!(numaflow().desired(3.0, 0.01, 4), 3, "never above pending");
    }

    #[test]
    fn one_without_pending_and_none_without_both() {
        assert_eq!(numaflow().desired(0.0, 10.0, 6), 1);
        assert_eq!(numaflow().desired(7.0, 0.0, 6), 1);
        assert_eq!(numaflow().desired(0.0, 0.0, 6), 0);
    }

    #[test]
    fn changes_by_two_at_most() {
        assert_eq!(numaflow().step(9, 3), 5);
        assert_eq!(numaflow().step(0, 3), 1);
        assert_eq!(numaflow().step(4, 3), 4);
    }
}
