//! The state that the operator keeps of a pipeline between two reconciles. Each phase has its own
//! part, which no other phase changes. When the process restarts, a few reads are repeated and a
//! scale-down comes a little later; nothing else depends on this state.

use layra_autoscaler::Memory;

use super::{lost_records::LostRecords, observe::ReadCache, report::Reported, world::PastWrites};

/// The state of one pipeline.
#[derive(Default)]
pub(super) struct PipelineState {
    /// UID of the pipeline: a recreated pipeline of the same name starts with an empty state.
    pub(super) uid: Option<String>,
    /// Of observe.
    pub(super) reads: ReadCache,
    /// Of plan: the autoscaler's state, `None` before the first decision.
    pub(super) autoscaler: Option<Memory>,
    /// Of apply.
    pub(super) past_writes: PastWrites,
    /// The deleted records that were reported.
    pub(super) lost_records: LostRecords,
    /// Of report.
    pub(super) reported: Reported,
    /// Consecutive failed reconciles.
    pub(super) failures: u32,
}
