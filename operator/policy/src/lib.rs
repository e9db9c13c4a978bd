//! The scaling part of an `IngestionPipeline` in the autoscaler's own types and units. Pure.
//!
//! The operator and the simulator's command share it, so that both decide by the same policy.

use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use layra_autoscaler::{
    self as autoscaler, Activation, Fallback, Floor, Learned, Policy, ScheduleError,
};
use layra_crds::{FloorSpec, IngestionPipelineSpec, ModelFamily, ScalingSpec};

/// The scaling policy of a pipeline. `floor` is the minimum number of workers at this time.
#[must_use]
pub fn policy(spec: &IngestionPipelineSpec, floor: u32) -> Policy {
    let scaling = &spec.scaling;
    let seconds = |seconds: u32| SignedDuration::from_secs(seconds.into());
    Policy {
        floor,
        max: at_least_one(scaling.max_replicas),
        drain_target: seconds(scaling.drain_target_seconds),
        utilization: f64::from(scaling.target_utilization_percent.clamp(1, 100)) / 100.0,
        activation: scaling.activation.map(|activation| Activation {
            backlog: activation.backlog,
            after: seconds(activation.seconds),
        }),
        scale_down_delay: scaling.scale_down_delay_seconds.map(seconds),
        max_pending: NonZeroU32::new(scaling.max_pending_workers).unwrap_or(NonZeroU32::MIN),
        fallback: scaling.fallback.map(|fallback| Fallback {
            after: seconds(fallback.after_seconds),
            replicas: not_negative(fallback.replicas),
        }),
        range_pages: f64::from(spec.documents.range_pages.max(1)),
        assumed: assumed(spec),
    }
}

/// `minReplicas` as the autoscaler counts workers.
#[must_use]
pub fn fewest(scaling: &ScalingSpec) -> u32 {
    not_negative(scaling.min_replicas)
}

/// The minimum number of workers at `now`: `minReplicas`, or the highest of `floors` that applies.
///
/// Fails when a schedule or a time zone of `floors` is not valid.
pub fn floor_now(scaling: &ScalingSpec, now: Timestamp) -> Result<u32, ScheduleError> {
    autoscaler::floor_now(fewest(scaling), scaling.floors.iter().map(floor), now)
}

fn floor(spec: &FloorSpec) -> Floor<'_> {
    Floor {
        start: &spec.start,
        end: &spec.end,
        time_zone: &spec.time_zone,
        workers: not_negative(spec.min_replicas),
    }
}

fn not_negative(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

fn at_least_one(count: i32) -> NonZeroU32 {
    NonZeroU32::new(not_negative(count)).unwrap_or(NonZeroU32::MIN)
}

/// Before anything is learned, a worker is assumed to be rather fast: a minute of work corrects an
/// optimistic assumption, while a GPU started needlessly has to be paid for.
fn assumed(spec: &IngestionPipelineSpec) -> Learned {
    let pages_per_second = match (spec.embedding.model.family, &spec.worker.gpu) {
        (ModelFamily::Minilm, _) => 4.0,
        (_, Some(_)) => 10.0,
        (_, None) => 0.5,
    };
    let startup_seconds = if spec.worker.gpu.is_some() {
        120.0
    } else {
        30.0
    };
    Learned {
        pages_per_second,
        pages_per_document: 10.0,
        provisioning_seconds: 0.0,
        startup_seconds,
        longest_seconds: 0.0,
    }
}
