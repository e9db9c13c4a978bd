//! The scaling rules of a pipeline, in the units of the law.

use std::num::NonZeroU32;

use jiff::SignedDuration;

use super::{activation::Activation, learned::Learned};

/// The rules for one decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The fewest workers, including the scheduled floor of this time.
    pub floor: u32,
    /// The most workers.
    pub max: NonZeroU32,
    /// A document should be processed within this time after it was sent.
    pub drain_target: SignedDuration,
    /// The part of the workers' speed that steady arrivals may use, above 0, at most 1.
    pub utilization: f64,
    /// When work starts the first worker. `None`: at once.
    pub activation: Option<Activation>,
    /// How long fewer workers must have been enough before some are stopped. `None`: as long as a
    /// worker takes to start.
    pub scale_down_delay: Option<SignedDuration>,
    /// The most workers that may be pending after nodes have failed to come. Doubles with each node
    /// that comes.
    pub max_pending: NonZeroU32,
    /// What to do when the backlog has been unknown for a long time.
    pub fallback: Option<Fallback>,
    /// Most pages of a message in the ranges topic.
    pub range_pages: f64,
    /// Assumed speed, sizes and times until they have been measured.
    pub assumed: Learned,
}

/// What to do when the backlog has been unknown for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// How long the backlog must have been unknown.
    pub after: SignedDuration,
    /// The fewest workers from then on.
    pub replicas: u32,
}
