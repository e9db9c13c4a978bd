//! The rules that the user gave, in the units of the law.

use std::num::NonZeroU32;

use jiff::SignedDuration;

use super::learned::Learned;

/// The rules that hold for one decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The fewest workers, a window of time that holds now included.
    pub floor: u32,
    /// The most workers.
    pub max: NonZeroU32,
    /// Within this time after it was sent a document should be done.
    pub drain_target: SignedDuration,
    /// The part of the workers' speed that steady arrivals may use, above 0, at most 1.
    pub utilization: f64,
    /// How long fewer workers must have been enough before workers are stopped. `None`: as long as
    /// a worker takes to start.
    pub scale_down_delay: Option<SignedDuration>,
    /// The most workers that may wait for a node.
    pub max_pending: NonZeroU32,
    /// What to do when the backlog has been unknown for long.
    pub fallback: Option<Fallback>,
    /// Pages of a message in the topic of ranges.
    pub range_pages: f64,
    /// What to assume of the workers before anything is learned.
    pub assumed: Learned,
}

/// What to do when the backlog has been unknown for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// For how long.
    pub after: SignedDuration,
    /// Minimum number of workers.
    pub replicas: u32,
}
