//! Our implementation of the published formula of KEDA's `apache-kafka` scaler with its defaults.
//!
//! The metric is the lag of all partitions of the group's topics, clamped to
//! `partitions · lagThreshold` once `floor(lag / lagThreshold) > partitions`. From zero to one by
//! KEDA's own loop every `pollingInterval` (30 s) when the lag exceeds `activationLagThreshold`
//! (0); between one and the maximum by an HPA ([`super::hpa`]) with `lagThreshold` (10) as target;
//! to zero after no poll has seen lag for `cooldownPeriod` (300 s). Sources: kedacore/keda-docs,
//! scaler `apache-kafka` and the `ScaledObject` specification; kedacore/keda
//! `pkg/scalers/kafka_scaler.go`.

use super::{
    hpa::{self, Hpa},
    scaler::{Bounds, Recommendation, Scaler},
    world::World,
};

/// `lagThreshold`, messages per worker.
pub(super) const LAG_THRESHOLD: f64 = 10.0;
const POLLING: u32 = 30;
const COOLDOWN: u32 = 300;

/// The `ScaledObject` and its HPA.
#[derive(Clone, Debug)]
pub(super) struct Keda {
    bounds: Bounds,
    threshold: f64,
    hpa: Hpa,
    last_active: u32,
}

impl Keda {
    pub(super) fn new(bounds: Bounds, threshold: f64) -> Self {
        Self {
            bounds,
            threshold,
            hpa: Hpa::new(bounds, threshold),
            last_active: 0,
        }
    }

    /// The metric that the HPA reads.
    fn metric(&self, lag: f64, partitions: u32) -> f64 {
        if (lag / self.threshold).floor() > f64::from(partitions) {
            f64::from(partitions) * self.threshold
        } else {
            lag
        }
    }

    /// The loop that activates from zero and deactivates to zero.
    fn poll(&mut self, now: u32, lag: f64, desired: u32) -> Option<u32> {
        if lag > 0.0 {
            self.last_active = now;
            if desired == 0 {
                self.hpa.forget();
                return Some(self.bounds.min.max(1));
            }
        } else if desired > 0 && self.bounds.min == 0 && now - self.last_active >= COOLDOWN {
            return Some(0);
        }
        None
    }
}

impl Scaler for Keda {
    fn name(&self) -> &'static str {
        "keda"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        let now = world.now;
        let lag = world.queues.lag() as f64;
        if now == 0 && self.bounds.min > 0 {
            return Some(Recommendation::new(self.bounds.min));
        }
        if now.is_multiple_of(POLLING)
            && let Some(workers) = self.poll(now, lag, world.desired)
        {
            return Some(Recommendation::new(workers));
        }
        if world.desired == 0 || !now.is_multiple_of(hpa::SYNC) {
            return None;
        }
        // Both topics of the group have the same number of partitions.
        let metric = self.metric(lag, 2 * world.partitions());
        Some(Recommendation::new(self.hpa.sync(
            now,
            metric,
            world.replicas(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keda() -> Keda {
        Keda::new(Bounds { min: 0, max: 50 }, 100.0)
    }

    fn same(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} {right}");
    }

    #[test]
    fn lag_is_clamped_with_the_quotient_rounded_down() {
        // floor(1050 / 100) does not exceed ten partitions: eleven workers are recommended.
        same(keda().metric(1050.0, 10), 1050.0);
        same(keda().metric(1100.0, 10), 1000.0);
        same(keda().metric(9000.0, 10), 1000.0);
        assert_eq!(keda().hpa.sync(0, 1050.0, 6), 11);
    }

    #[test]
    fn one_message_starts_one_worker_at_the_next_poll() {
        assert_eq!(keda().poll(30, 1.0, 0), Some(1));
        assert_eq!(keda().poll(30, 0.0, 0), None);
    }

    #[test]
    fn scales_to_zero_after_five_minutes_without_lag() {
        let mut keda = keda();
        assert_eq!(keda.poll(60, 5.0, 3), None);
        assert_eq!(keda.poll(330, 0.0, 3), None);
        assert_eq!(keda.poll(360, 0.0, 3), Some(0));
    }

    #[test]
    fn a_minimum_is_kept() {
        let mut keda = Keda::new(Bounds { min: 2, max: 9 }, 10.0);
        assert_eq!(keda.poll(3000, 0.0, 2), None);
    }
}
