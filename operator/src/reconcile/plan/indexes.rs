//! Missing indexes of MongoDB in the condition WorkersAvailable, which stays true. Pure.

use super::conditions::Verdict;
use crate::reconcile::{counts::Reports, reason::Reason};

/// The verdict about the workers, with what they say about MongoDB.
pub(super) fn judge(workers: Verdict, reports: &Reports) -> Verdict {
    // Held upgrades need nobody, and may last.
    let may_be_added = matches!(workers.reason, Reason::WorkersReady | Reason::UpgradeHeld);
    if reports.missing_indexes.is_empty() || !may_be_added {
        return workers;
    }
    let missing: Vec<&str> = reports.missing_indexes.iter().map(String::as_str).collect();
    let message = format!(
        "{} MongoDB lacks indexes, so queries read whole collections: {}. Create them, or set stores.mongodb.manageIndexes.",
        workers.message,
        missing.join("; ")
    );
    Verdict {
        reason: Reason::IndexMissing,
        message,
        ..workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_index_is_a_reason_and_the_workers_stay_available() {
        let reports = Reports {
            missing_indexes: ["db.files.createIndex({file_id: 1})".to_owned()].into(),
            ..Reports::default()
        };
        let ready = || Verdict::yes(Reason::WorkersReady, "2 workers are ready.");
        let verdict = judge(ready(), &reports);
        assert!(verdict.is_true());
        assert_eq!(verdict.reason, Reason::IndexMissing);
        let words = "2 workers are ready. MongoDB lacks indexes";
        assert!(verdict.message.starts_with(words), "{}", verdict.message);
        assert_eq!(judge(ready(), &Reports::default()), ready());
        let held = Verdict::yes(Reason::UpgradeHeld, "They keep the image.");
        let verdict = judge(held, &reports);
        assert_eq!(verdict.reason, Reason::IndexMissing);
        assert!(verdict.message.starts_with("They keep the image. "));
        let crashing = Verdict::no(Reason::WorkersCrashing, "x");
        assert_eq!(judge(crashing.clone(), &reports), crashing);
    }
}
