//! What to do about a file whose rows differ after the swap. No I/O.
//!
//! The old collection has what was written before the swap, and the last writes that were in flight;
//! the new one has what was written since. The difference alone does not tell a lost insert from a
//! deletion: `files` and the ledger do.

use mongodb::bson::DateTime;

use crate::stores::ledger::{Entry, State};

/// The old and the new collection are compared twice. In between, every request that was in flight
/// at the swap has landed or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    First,
    Last,
}

/// What is known about a file.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(super) struct FileState<'a> {
    /// Whether `files` in MongoDB has it.
    pub(super) is_known: bool,
    /// Its entry in the ledger. `None`: LAYRA ingested it itself.
    pub(super) entry: Option<&'a Entry>,
    /// Whether a page is only in the old collection.
    pub(super) misses: bool,
    /// Whether a page has other rows in the old collection.
    pub(super) is_changed: bool,
    /// Rows of the file in the old and in the new collection.
    pub(super) old_rows: u64,
    pub(super) new_rows: u64,
    /// Whether its rows in the new collection are the same as at the first look.
    pub(super) is_unchanged: bool,
}

/// What to do about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Leave,
    /// Copy the pages that the new collection lacks.
    Copy,
    /// Copy these, and replace those with other rows.
    Replace,
    /// Replace all its rows, under the lease of its entry.
    ReplaceAll,
    /// Delete its rows: it was deleted.
    Remove,
    /// Let a worker count its rows, and ingest it again if they are wrong.
    Recheck,
}

pub(super) fn verdict(file: &FileState<'_>, look: Look, swapped_at: DateTime) -> Verdict {
    if !file.is_known {
        // LAYRA writes a new file to Milvus first: absent is not deleted, unless it stays absent
        // and nothing is added.
        let is_deleted = look == Look::Last && file.is_unchanged && file.new_rows > 0;
        return if is_deleted {
            Verdict::Remove
        } else {
            Verdict::Leave
        };
    }
    let Some(entry) = file.entry else {
        return of_layra(file);
    };
    match entry.state {
        // Its worker counts its rows at the end, and repeats it if they are wrong.
        State::Working if look == Look::First && file.misses => Verdict::Copy,
        // Its recheck removes what is left.
        State::Working | State::Failed | State::Deleted => Verdict::Leave,
        State::Done => match entry.vectors {
            Some(rows) => of_done(file, entry, rows, swapped_at),
            None => of_layra(file),
        },
    }
}

fn of_layra(file: &FileState<'_>) -> Verdict {
    if file.misses || file.is_changed {
        Verdict::Replace
    } else {
        Verdict::Leave
    }
}

fn of_done(file: &FileState<'_>, entry: &Entry, rows: u64, swapped_at: DateTime) -> Verdict {
    let is_whole = file.new_rows == rows;
    // It was ingested again: before the swap the old collection has the later rows.
    let is_stale = file.is_changed && entry.finished_at.is_some_and(|at| at < swapped_at);
    if is_whole && !(is_stale && file.old_rows == rows) {
        Verdict::Leave
    } else if file.old_rows == rows {
        Verdict::ReplaceAll
    } else {
        Verdict::Recheck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    const SWAP: i64 = 1_000_000;

    fn at(time: i64) -> DateTime {
        DateTime::from_millis(time)
    }

    fn file(entry: Option<&Entry>) -> FileState<'_> {
        FileState {
            is_known: true,
            entry,
            misses: true,
            is_changed: false,
            old_rows: 10,
            new_rows: 7,
            is_unchanged: true,
        }
    }

    fn decide(file: &FileState<'_>, look: Look) -> Verdict {
        verdict(file, look, at(SWAP))
    }

    fn done(finished: i64) -> Entry {
        let mut entry = an_entry(State::Done);
        entry.vectors = Some(10);
        entry.finished_at = Some(at(finished));
        entry
    }

    #[test]
    fn a_deleted_file_goes_only_when_it_is_surely_deleted() {
        let gone = FileState {
            is_known: false,
            ..file(None)
        };
        assert_eq!(decide(&gone, Look::First), Verdict::Leave);
        assert_eq!(decide(&gone, Look::Last), Verdict::Remove);
        let growing = FileState {
            is_unchanged: false,
            ..gone
        };
        assert_eq!(decide(&growing, Look::Last), Verdict::Leave);
        let only_old = FileState {
            new_rows: 0,
            ..gone
        };
        assert_eq!(decide(&only_old, Look::Last), Verdict::Leave, "not copied");
    }

    #[test]
    fn a_missed_insert_is_copied() {
        for look in [Look::First, Look::Last] {
            assert_eq!(decide(&file(None), look), Verdict::Replace);
            assert_eq!(
                decide(&file(Some(&done(SWAP - 1))), look),
                Verdict::ReplaceAll
            );
        }
    }

    #[test]
    fn a_file_that_is_whole_in_the_new_collection_stays_as_it_is() {
        // Deleted pages of an earlier round, or rows that were inserted since.
        let entry = done(SWAP + 1);
        let whole = FileState {
            is_changed: true,
            new_rows: 10,
            ..file(Some(&entry))
        };
        assert_eq!(decide(&whole, Look::Last), Verdict::Leave);
        let earlier = done(SWAP - 1);
        let stale = FileState {
            entry: Some(&earlier),
            ..whole
        };
        assert_eq!(decide(&stale, Look::Last), Verdict::ReplaceAll);
    }

    #[test]
    fn rows_that_neither_has_are_left_to_a_worker() {
        let entry = done(SWAP + 1);
        let neither = FileState {
            old_rows: 3,
            ..file(Some(&entry))
        };
        assert_eq!(decide(&neither, Look::Last), Verdict::Recheck);
    }

    #[test]
    fn a_document_in_progress_is_left_to_its_worker_at_the_end() {
        let working = an_entry(State::Working);
        assert_eq!(decide(&file(Some(&working)), Look::First), Verdict::Copy);
        assert_eq!(decide(&file(Some(&working)), Look::Last), Verdict::Leave);
        for state in [State::Failed, State::Deleted] {
            let entry = an_entry(state);
            assert_eq!(decide(&file(Some(&entry)), Look::First), Verdict::Leave);
        }
    }
}
