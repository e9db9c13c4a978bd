//! What to do about a file whose collection was embedded again, once the new one serves. No I/O.

use mongodb::bson::DateTime;

use crate::stores::ledger::{Entry, State};

/// The collection is looked at twice. In between, every request that was in flight at the swap has
/// landed or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    First,
    Last,
}

/// What is known about a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileState<'a> {
    /// Whether `files` in MongoDB has it.
    pub(super) is_known: bool,
    /// Its entry in the ledger. `None`: LAYRA ingested it itself.
    pub(super) entry: Option<&'a Entry>,
    /// Whether a page that should have vectors has none.
    pub(super) misses: bool,
    /// Its rows in the new collection.
    pub(super) rows: u64,
    /// The same at the first look.
    pub(super) rows_before: Option<u64>,
}

/// What to do about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Leave,
    /// Delete its rows: it was deleted.
    Remove,
    /// Record the number of its rows in the ledger.
    Count,
    /// Let a worker ingest it again from its original.
    Ingest,
    /// Embed it here: no worker has a task for it.
    Embed,
}

pub(super) fn verdict(file: &FileState<'_>, look: Look, swapped_at: DateTime) -> Verdict {
    if !file.is_known {
        // LAYRA writes a new file to Milvus first: absent is not deleted, unless it stays absent
        // and nothing is added.
        let is_unchanged = file.rows_before == Some(file.rows);
        let is_deleted = look == Look::Last && is_unchanged && file.rows > 0;
        return if is_deleted {
            Verdict::Remove
        } else {
            Verdict::Leave
        };
    }
    let Some(entry) = file.entry else {
        return if file.misses {
            Verdict::Embed
        } else {
            Verdict::Leave
        };
    };
    match entry.state {
        // Its worker counts its rows at the end; its recheck removes what is left.
        State::Working | State::Failed | State::Deleted => Verdict::Leave,
        // It was ingested by a worker since: that one has counted.
        State::Done if entry.finished_at.is_some_and(|at| at > swapped_at) => Verdict::Leave,
        State::Done if entry.vectors.is_none() => Verdict::Leave,
        State::Done if file.misses => Verdict::Ingest,
        State::Done if entry.vectors == Some(file.rows) => Verdict::Leave,
        State::Done => Verdict::Count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    const SWAP: i64 = 1_000_000;

    fn file(entry: Option<&Entry>) -> FileState<'_> {
        FileState {
            is_known: true,
            entry,
            misses: false,
            rows: 30,
            rows_before: Some(30),
        }
    }

    fn decide(file: &FileState<'_>, look: Look) -> Verdict {
        verdict(file, look, DateTime::from_millis(SWAP))
    }

    fn done(finished: i64, vectors: u64) -> Entry {
        let mut entry = an_entry(State::Done);
        entry.vectors = Some(vectors);
        entry.finished_at = Some(DateTime::from_millis(finished));
        entry
    }

    #[test]
    fn the_ledger_gets_the_number_of_the_new_vectors() {
        let before = done(SWAP - 1, 10);
        assert_eq!(decide(&file(Some(&before)), Look::First), Verdict::Count);
        let same = done(SWAP - 1, 30);
        assert_eq!(decide(&file(Some(&same)), Look::First), Verdict::Leave);
        // A worker has counted its own rows.
        let since = done(SWAP + 1, 10);
        assert_eq!(decide(&file(Some(&since)), Look::Last), Verdict::Leave);
    }

    #[test]
    fn a_file_with_a_page_that_could_not_be_embedded_is_ingested_again() {
        let entry = done(SWAP - 1, 30);
        let misses = FileState {
            misses: true,
            ..file(Some(&entry))
        };
        assert_eq!(decide(&misses, Look::First), Verdict::Ingest);
        // It was told already: its count is open until a worker comes.
        let mut told = entry.clone();
        told.vectors = None;
        let misses = FileState {
            entry: Some(&told),
            ..misses
        };
        assert_eq!(decide(&misses, Look::Last), Verdict::Leave);
        let of_layra = FileState {
            entry: None,
            ..misses
        };
        assert_eq!(decide(&of_layra, Look::Last), Verdict::Embed);
        assert_eq!(decide(&file(None), Look::Last), Verdict::Leave);
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
            rows_before: Some(20),
            ..gone
        };
        assert_eq!(decide(&growing, Look::Last), Verdict::Leave);
        let none = FileState {
            rows: 0,
            rows_before: Some(0),
            ..gone
        };
        assert_eq!(decide(&none, Look::Last), Verdict::Leave);
    }

    #[test]
    fn a_document_in_progress_is_left_to_its_worker() {
        for state in [State::Working, State::Failed, State::Deleted] {
            let entry = an_entry(state);
            let misses = FileState {
                misses: true,
                ..file(Some(&entry))
            };
            for look in [Look::First, Look::Last] {
                assert_eq!(decide(&misses, look), Verdict::Leave);
            }
        }
    }
}
