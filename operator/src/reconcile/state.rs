//! What the operator remembers of a pipeline between two reconciles: a part for each phase, which
//! no other phase changes. Losing it, with the process, costs a few reads and keeps workers a little
//! longer; nothing else depends on it.

use layra_autoscaler::Memory;

use super::{observe::Seen, report::Reported, world::PastWrites};

/// What is remembered of one pipeline.
#[derive(Default)]
pub(super) struct PipelineState {
    /// The UID this state belongs to: a recreated pipeline of the same name starts without it.
    pub(super) uid: Option<String>,
    /// Of observe: what was read.
    pub(super) seen: Seen,
    /// Of plan: what the autoscaler remembers; begins with the first decision.
    pub(super) autoscaler: Option<Memory>,
    /// Of apply: what became of writes.
    pub(super) past_writes: PastWrites,
    /// Of report: when it reported.
    pub(super) reported: Reported,
    /// Reconciles that failed in a row.
    pub(super) failures: u32,
}
