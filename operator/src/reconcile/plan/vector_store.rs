//! The condition VectorStoreReady. Pure.

use super::conditions::Verdict;
use crate::{
    milvus::IndexReport,
    reconcile::{reason::Reason, world::Problem},
};

/// Another index than the spec's does not make the condition false: searches work, only slower or
/// less exact. The reason shows it, and the status lists the collections.
pub(super) fn judge(indexes: &Result<IndexReport, Problem>) -> Verdict {
    let report = match indexes {
        Ok(report) => report,
        Err(problem) => return problem.into(),
    };
    let drifted = report.drifted.len();
    match (report.collections, drifted) {
        (0, _) => Verdict::yes(
            Reason::IndexesMatch,
            "No collection exists yet; workers create collections when needed.",
        ),
        (1, 0) => Verdict::yes(
            Reason::IndexesMatch,
            "The only collection has the index of the spec.",
        ),
        (all, 0) => Verdict::yes(
            Reason::IndexesMatch,
            format!("All {all} collections have the index of the spec."),
        ),
        (all, _) => Verdict::yes(
            Reason::IndexDrift,
            format!(
                "The index differs from the spec in {drifted} of {all} collections, for example {}: {}. Searches work; status.driftedCollections lists every difference.",
                report.drifted[0].name, report.drifted[0].difference
            ),
        ),
    }
}
