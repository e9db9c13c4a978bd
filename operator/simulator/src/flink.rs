//! Our implementation of the published formula of the Flink autoscaler with its defaults, for one
//! source vertex whose subtasks are the workers.
//!
//! Every 60 s, after 5 min of stabilisation and a full window of 15 min since the last change. Let
//! `L` be the lag, `λ` the consumption rate plus the growth of the lag, `μ` the rate at full use of
//! all workers:
//!
//! * `C(u, restart) = L/T + [restart]·λ·R/T + λ/u` with `T` 30 min (catch-up) and `R` 5 min
//!   (restart);
//! * act only if `μ < C(1.0, no restart)` or `μ > C(0.4, restart)`; with a backlog of more than
//!   5 min there is no scale-down (the second bound is infinite);
//! * `P' = ceil(P · C(0.7, restart)/μ)`, the factor at least 0.4, within the bounds and the
//!   partitions, moved up to the next value that spreads the partitions better (`BALANCED`);
//! * down only an hour after the first such recommendation, to the largest since then.
//!
//! `μ` is the rate divided by the busy part of the time. With more than 30 s of lag, it is the rate
//! itself if that is smaller by more than 15 %. Never below one worker. Left out: a change restarts
//! the whole Flink job. Here it only creates or stops workers, which favours Flink. Sources:
//! apache/flink-kubernetes-operator `docs/content/docs/custom-resource/autoscaler.md`,
//! `flink-autoscaler` (`ScalingMetricEvaluator`, `JobVertexScaler`, `DelayedScaleDown`,
//! `ParallelismAligner`, `AutoScalerOptions`).

use super::{
    scaler::{Bounds, History, Recommendation, Scaler},
    whole,
    world::World,
};

/// `T`, seconds.
pub(super) const CATCH_UP: f64 = 1800.0;
const INTERVAL: u32 = 60;
const STABILISATION: u32 = 300;
const WINDOW: u32 = 900;
const SCALE_DOWN_INTERVAL: u32 = 3600;
const RESTART: f64 = 300.0;
const UTILISATION: f64 = 0.7;
const HIGHEST_UTILISATION: f64 = 1.0;
const LOWEST_UTILISATION: f64 = 0.4;
const LEAST_FACTOR: f64 = 0.4;
const BACKLOG_SECONDS: f64 = 300.0;
const LAG_FOR_OBSERVED: f64 = 30.0;
const OBSERVED_TOLERANCE: f64 = 1.15;

/// The autoscaler of one vertex.
#[derive(Clone, Debug)]
pub(super) struct Flink {
    bounds: Bounds,
    catch_up: f64,
    consumed: History,
    lag: History,
    busy: History,
    /// Since when the number of ready workers has been as desired.
    running_since: Option<u32>,
    /// When fewer were first recommended, and the largest recommendation since then.
    scale_down: Option<(u32, u32)>,
}

/// The metrics of the window.
#[derive(Clone, Copy, Debug)]
struct Metrics {
    lag: f64,
    arriving: f64,
    consumed: f64,
    /// `μ`.
    capacity: f64,
}

impl Flink {
    pub(super) fn new(bounds: Bounds, catch_up: f64) -> Self {
        Self {
            bounds: Bounds {
                min: bounds.min.max(1),
                ..bounds
            },
            catch_up,
            consumed: History::default(),
            lag: History::default(),
            busy: History::default(),
            running_since: None,
            scale_down: None,
        }
    }

    fn metrics(&self, lag: f64, workers: u32) -> Option<Metrics> {
        let consumed = self.consumed.rate()?;
        let growth = self.lag.rate()?;
        let busy = self.busy.rate()? / f64::from(workers.max(1));
        Some(Metrics {
            lag,
            arriving: (consumed + growth).max(0.0),
            consumed,
            capacity: capacity(consumed, busy, lag),
        })
    }

    /// `C(u, restart)`.
    fn needed(&self, metrics: Metrics, utilisation: f64, restart: bool) -> f64 {
        let restart = if restart { RESTART } else { 0.0 };
        metrics.lag / self.catch_up
            + metrics.arriving * restart / self.catch_up
            + metrics.arriving / utilisation
    }

    /// The parallelism that the formulas require.
    fn target(&self, metrics: Metrics, parallelism: u32, partitions: u32) -> u32 {
        let too_slow = metrics.capacity < self.needed(metrics, HIGHEST_UTILISATION, false);
        let has_backlog = metrics.lag > BACKLOG_SECONDS * metrics.consumed;
        let too_fast =
            !has_backlog && metrics.capacity > self.needed(metrics, LOWEST_UTILISATION, true);
        if !too_slow && !too_fast {
            return parallelism;
        }
        let factor = self.needed(metrics, UTILISATION, true) / metrics.capacity;
        let scaled = (factor.max(LEAST_FACTOR) * f64::from(parallelism)).ceil();
        let most = self.bounds.max.min(partitions);
        let target = whole(scaled).clamp(self.bounds.min, most);
        let end = if target > parallelism {
            most
        } else {
            parallelism.min(most)
        };
        aligned(target, end, partitions)
    }

    /// Scales down only after an hour, to the largest recommendation of that time.
    fn delayed(&mut self, now: u32, target: u32, parallelism: u32) -> u32 {
        if target >= parallelism {
            self.scale_down = None;
            return target;
        }
        let (since, most) = self.scale_down.unwrap_or((now, target));
        let most = most.max(target);
        if now - since < SCALE_DOWN_INTERVAL {
            self.scale_down = Some((since, most));
            return parallelism;
        }
        self.scale_down = None;
        most
    }

    fn watch(&mut self, world: &World) {
        let now = world.now;
        if world.ready() != world.desired || world.replicas() != world.desired {
            self.running_since = None;
        } else if self.running_since.is_none() {
            self.running_since = Some(now);
            self.consumed.clear();
            self.lag.clear();
            self.busy.clear();
        }
        let consumed = world.queues.committed() as f64;
        self.consumed.record(now, consumed, WINDOW);
        self.lag.record(now, world.queues.lag() as f64, WINDOW);
        self.busy.record(now, world.busy_seconds, WINDOW);
    }
}

/// `μ`: the rate at full use.
fn capacity(rate: f64, busy: f64, lag: f64) -> f64 {
    if rate <= 0.0 {
        return f64::INFINITY;
    }
    let by_busy_time = rate / busy;
    let saturated = lag >= LAG_FOR_OBSERVED * rate;
    if saturated && by_busy_time > OBSERVED_TOLERANCE * rate {
        rate
    } else {
        by_busy_time
    }
}

/// The first value from `target` to `end` that divides the partitions or gives each worker fewer.
fn aligned(target: u32, end: u32, partitions: u32) -> u32 {
    (target..=end)
        .find(|p| partitions.is_multiple_of(*p) || partitions / p < partitions / target)
        .unwrap_or(target)
}

impl Scaler for Flink {
    fn name(&self) -> &'static str {
        "flink"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        self.watch(world);
        let now = world.now;
        if now == 0 {
            return Some(Recommendation::new(self.bounds.min));
        }
        let running = self.running_since?;
        let full = running + STABILISATION + WINDOW;
        if now < full || !now.is_multiple_of(INTERVAL) {
            return None;
        }
        let metrics = self.metrics(world.queues.lag() as f64, world.ready())?;
        let target = self.target(metrics, world.desired, world.partitions());
        Some(Recommendation::new(self.delayed(
            now,
            target,
            world.desired,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flink() -> Flink {
        Flink::new(Bounds { min: 0, max: 50 }, CATCH_UP)
    }

    fn metrics(lag: f64, arriving: f64, consumed: f64, capacity: f64) -> Metrics {
        Metrics {
            lag,
            arriving,
            consumed,
            capacity,
        }
    }

    fn same(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} {right}");
    }

    #[test]
    fn the_capacity_needed_has_backlog_restart_and_arrivals() {
        // 18000/1800 + 7·300/1800 + 7/0.7 = 10 + 7/6 + 10
        let metrics = metrics(18_000.0, 7.0, 7.0, 7.0);
        same(flink().needed(metrics, 0.7, true), 20.0 + 7.0 / 6.0);
        same(flink().needed(metrics, 0.7, false), 20.0);
    }

    #[test]
    fn the_rate_at_full_use_is_derived_from_the_busy_time() {
        same(capacity(6.0, 0.5, 0.0), 12.0);
        assert!(capacity(0.0, 0.0, 5.0).is_infinite());
        // With 30 s of lag all workers have work: they process as much as they can.
        same(capacity(6.0, 0.5, 180.0), 6.0);
        same(capacity(6.0, 0.9, 180.0), 6.0 / 0.9);
    }

    #[test]
    fn nothing_changes_within_the_band() {
        // Two workers at 70 % of their rate of 10.
        assert_eq!(flink().target(metrics(0.0, 7.0, 7.0, 10.0), 2, 12), 2);
    }

    #[test]
    fn scales_up_when_the_backlog_cannot_be_drained() {
        // 10 < 9000/1800 + 7; (5 + 7/6 + 10) / 10 · 2 = 3.2: four, which divides twelve.
        assert_eq!(flink().target(metrics(9000.0, 7.0, 7.0, 10.0), 2, 12), 4);
    }

    #[test]
    fn values_that_distribute_partitions_badly_are_skipped() {
        assert_eq!(aligned(5, 12, 12), 6, "12 = 6 · 2");
        assert_eq!(aligned(7, 10, 12), 7, "each of 7 to 10 has one or two");
        assert_eq!(aligned(9, 40, 40), 10);
    }

    #[test]
    fn never_scales_down_with_a_backlog_and_at_most_by_six_tenths() {
        let idle = metrics(0.0, 0.1, 0.1, 50.0);
        assert_eq!(flink().target(idle, 10, 12), 4);
        let behind = metrics(31.0, 0.1, 0.1, 50.0);
        assert_eq!(flink().target(behind, 10, 12), 10);
    }

    #[test]
    fn scales_down_an_hour_later_to_the_largest_recommendation() {
        let mut flink = flink();
        assert_eq!(flink.delayed(0, 2, 6), 6);
        assert_eq!(flink.delayed(1800, 4, 6), 6);
        assert_eq!(flink.delayed(3600, 1, 6), 4);
    }
}
