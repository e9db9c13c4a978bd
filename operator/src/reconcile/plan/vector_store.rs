//! What to say of Milvus. Pure.

use super::conditions::Verdict;
use crate::{milvus::IndexReport, reconcile::world::Problem};

/// The word for collections whose index is not the one in the spec.
pub(crate) const INDEX_DRIFT: &str = "IndexDrift";

/// Another index is no fault: searches work, only not as fast or exact as the spec says. It shows
/// in the reason, and the collections stand in the status.
pub(super) fn judge(indexes: &Result<IndexReport, Problem>) -> Verdict {
    let report = match indexes {
        Ok(report) => report,
        Err(problem) => return problem.into(),
    };
    let drifted = report.drifted.len();
    match (report.collections, drifted) {
        (0, _) => Verdict::yes("IndexesMatch", "No collection yet: the workers make them."),
        (all, 0) => Verdict::yes(
            "IndexesMatch",
            format!("Collections with the index of the spec: {all}."),
        ),
        (all, _) => Verdict::yes(
            INDEX_DRIFT,
            format!(
                "The index of {drifted} of {all} collections differs from the spec, for example {}: {}. They go on working; status.driftedCollections names all.",
                report.drifted[0].name, report.drifted[0].difference
            ),
        ),
    }
}
