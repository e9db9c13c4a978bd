//! The rules that the user gave, in the units of the law.

use std::num::NonZeroU32;

use jiff::SignedDuration;
use layra_crds::{IngestionPipelineSpec, ModelFamily};

use super::learned::Learned;

/// The rules that hold for one decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    /// The fewest workers, a window of time that holds now included.
    pub(crate) floor: u32,
    /// The most workers.
    pub(crate) max: NonZeroU32,
    /// Within this time after it was sent a document should be done.
    pub(crate) drain_target: SignedDuration,
    /// The part of the workers' speed that steady arrivals may use, above 0, at most 1.
    pub(crate) utilization: f64,
    /// How long fewer workers must have been enough before workers are stopped. `None`: as long as
    /// a worker takes to start.
    pub(crate) scale_down_delay: Option<SignedDuration>,
    /// The most workers that may wait for a node.
    pub(crate) max_pending: NonZeroU32,
    /// What to do when the backlog has been unknown for long.
    pub(crate) fallback: Option<Fallback>,
    /// Pages of a message in the topic of ranges.
    pub(crate) range_pages: f64,
    /// What to assume of the workers before anything is learned.
    pub(crate) assumed: Learned,
}

/// What to do when the backlog has been unknown for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fallback {
    /// For how long.
    pub(crate) after: SignedDuration,
    /// At least so many workers.
    pub(crate) replicas: u32,
}

impl Policy {
    /// The rules of a pipeline; `floor` is the fewest workers at this time.
    pub(crate) fn new(spec: &IngestionPipelineSpec, floor: u32) -> Self {
        let scaling = &spec.scaling;
        let seconds = |seconds: u32| SignedDuration::from_secs(seconds.into());
        Self {
            floor,
            max: at_least_one(scaling.max_replicas),
            drain_target: seconds(scaling.drain_target_seconds),
            utilization: f64::from(scaling.target_utilization_percent.clamp(1, 100)) / 100.0,
            scale_down_delay: scaling.scale_down_delay_seconds.map(seconds),
            max_pending: NonZeroU32::new(scaling.max_pending_workers).unwrap_or(NonZeroU32::MIN),
            fallback: scaling.fallback.map(|fallback| Fallback {
                after: seconds(fallback.after_seconds),
                replicas: u32::try_from(fallback.replicas).unwrap_or(0),
            }),
            range_pages: f64::from(spec.documents.range_pages.max(1)),
            assumed: assumed(spec),
        }
    }
}

fn at_least_one(count: i32) -> NonZeroU32 {
    u32::try_from(count)
        .ok()
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN)
}

/// Before anything is learned a worker is taken for rather fast: a minute of work corrects that,
/// while a GPU that was ordered in vain is paid for.
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
        startup_seconds,
        longest_seconds: 0.0,
    }
}
