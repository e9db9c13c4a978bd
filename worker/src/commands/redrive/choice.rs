//! Chooses dead letters. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;

use super::letter::Letter;
use crate::stores::ledger::{Entry, State};

/// Selects dead letters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Only dead letters with this word as their reason. Any version of the worker may have sent
    /// them.
    pub(crate) reason: Option<String>,
    /// Only dead letters of this file.
    pub(crate) file_id: Option<String>,
    pub(crate) dry_run: bool,
}

/// The position of a message in the dead-letter topic.
pub(super) type Position = (i32, i64);

/// Dead letters that are wanted, before the ledger is asked.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Of several dead letters of a file, the last one. With its time.
    pub(super) files: BTreeMap<String, (i64, Position)>,
    pub(super) without_file: BTreeSet<Position>,
}

impl Candidates {
    /// Adds a dead letter. Returns the number of those that it replaces, or that replace it.
    pub(super) fn add(&mut self, letter: &Letter, message: &OwnedMessage) -> usize {
        let position = (message.partition(), message.offset());
        let Some(file_id) = letter.file_id.clone() else {
            self.without_file.insert(position);
            return 0;
        };
        let time = message.timestamp().to_millis().unwrap_or_default();
        match self.files.get_mut(&file_id) {
            None => {
                self.files.insert(file_id, (time, position));
                0
            }
            Some(earlier) => {
                *earlier = (*earlier).max((time, position));
                1
            }
        }
    }
}

/// Whether a dead letter of this pipeline is chosen, as far as it shows itself.
pub(super) fn is_wanted(letter: &Letter, choice: &Choice) -> bool {
    let reason = choice.reason.as_ref();
    let file = choice.file_id.as_ref();
    reason.is_none_or(|reason| *reason == letter.reason)
        && file.is_none_or(|file| Some(file) == letter.file_id.as_ref())
        // It may have been redriven before: nothing records that.
        && (letter.file_id.is_some() || reason.is_some())
}

/// Whether the dead letter of a file may be redriven: the document failed, its dead letter is
/// complete, and it was not redriven since. A document that failed before it had an entry is
/// redriven only if it is chosen, because nothing records that.
pub(super) fn may_be_redriven(entry: Option<&Entry>, choice: &Choice) -> bool {
    match entry {
        Some(entry) => {
            let failure = entry.failure.as_ref();
            let is_pending = failure.is_some_and(|why| why.letter && !why.redriven);
            entry.state == State::Failed && is_pending
        }
        None => choice.reason.is_some() || choice.file_id.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::{TASK, letter, message};
    use super::*;
    use crate::runtime::failure::{Failure, Reason, Stage};
    use crate::stores::ledger::{Rejection, an_entry};

    fn by(reason: Option<&str>, file: Option<&str>) -> Choice {
        Choice {
            reason: reason.map(str::to_owned),
            file_id: file.map(str::to_owned),
            dry_run: false,
        }
    }

    #[test]
    fn dead_letters_are_selected_by_reason_and_file() {
        let encrypted = letter(Some("f"), "Encrypted");
        assert!(is_wanted(&encrypted, &by(None, None)));
        assert!(is_wanted(&encrypted, &by(Some("Encrypted"), Some("f"))));
        assert!(!is_wanted(&encrypted, &by(Some("Damaged"), None)));
        assert!(!is_wanted(&encrypted, &by(None, Some("g"))));
    }

    #[test]
    fn an_invalid_task_is_redriven_only_by_its_reason() {
        let garbage = letter(None, "NotJson");
        assert!(!is_wanted(&garbage, &Choice::default()));
        assert!(is_wanted(&garbage, &by(Some("NotJson"), None)));
    }

    #[test]
    fn a_document_is_redriven_once_and_after_its_dead_letter_was_sent() {
        let failure = Failure::permanent(Stage::Render, Reason::Encrypted, "x");
        let failed = |letter, redriven| {
            let mut entry = an_entry(State::Failed);
            entry.failure = Some(Rejection {
                letter,
                redriven,
                ..Rejection::from(&failure)
            });
            entry
        };
        let any = Choice::default();
        assert!(may_be_redriven(Some(&failed(true, false)), &any));
        assert!(!may_be_redriven(Some(&failed(true, true)), &any), "again");
        assert!(!may_be_redriven(Some(&failed(false, false)), &any), "early");
        for state in [State::Working, State::Done, State::Deleted] {
            assert!(!may_be_redriven(Some(&an_entry(state)), &any));
        }
        // It was rejected before it was entered.
        assert!(!may_be_redriven(None, &any));
        assert!(may_be_redriven(None, &by(Some("MongodbRefused"), None)));
        assert!(may_be_redriven(None, &by(None, Some("f"))));
    }

    #[test]
    fn of_several_dead_letters_of_a_file_the_last_one_counts() {
        let mut candidates = Candidates::default();
        let replaced: Vec<usize> = [4, 9, 7]
            .into_iter()
            .map(|offset| {
                let message = message(Some(TASK), offset, &[]);
                candidates.add(&letter(Some("f"), "x"), &message)
            })
            .collect();
        assert_eq!(replaced, [0, 1, 1]);
        assert_eq!(candidates.files["f"], (9, (0, 9)));
    }
}
