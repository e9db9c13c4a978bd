//! Which files of an archive come back. No I/O.
//!
//! A file that was deleted, or ingested again, after the archive was written does not.

use crate::stores::ledger::State;

/// What is known about a file of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Whether `files` has its document now.
    pub(super) has_document: bool,
    /// Whether MongoDB has the knowledge base now.
    pub(super) has_knowledge_base: bool,
    /// The state of its entry in the ledger, and when it changed last.
    pub(super) entry: Option<(State, i64)>,
}

pub(super) fn comes_back(file: File, archived_at: i64) -> bool {
    let is_unchanged = match file.entry {
        Some((State::Done, changed_at)) => changed_at <= archived_at,
        Some(_) => false,
        // LAYRA, or another program, stored it.
        None => true,
    };
    // Without the knowledge base everything comes back. With it, a file that is missing was deleted.
    is_unchanged && (file.has_document || !file.has_knowledge_base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_or_ingested_again_does_not_come_back() {
        let whole = File {
            has_document: true,
            has_knowledge_base: true,
            entry: Some((State::Done, 500)),
        };
        assert!(comes_back(whole, 500));
        assert!(!comes_back(whole, 499), "ingested again");
        for state in [State::Working, State::Failed, State::Deleted] {
            let entry = Some((state, 100));
            assert!(!comes_back(File { entry, ..whole }, 500), "{state:?}");
        }
        let deleted = File {
            has_document: false,
            ..whole
        };
        assert!(!comes_back(deleted, 500), "through LAYRA");
        let base_gone = File {
            has_knowledge_base: false,
            ..deleted
        };
        assert!(comes_back(base_gone, 500));
        let layras = File {
            entry: None,
            ..whole
        };
        assert!(comes_back(layras, 500));
    }
}
