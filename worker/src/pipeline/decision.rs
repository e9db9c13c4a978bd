//! Decides what a task needs, from the ledger's entry of its document. No I/O.

use super::Outcome;
use crate::stores::ledger::{Entry, Request, State};

/// What to do with a task.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// Begin a new round. Holds the entry of the previous one.
    Begin(Option<Box<Entry>>),
    /// Continue the current round.
    Resume(Box<Entry>),
    /// Everything should be stored. Check this, and begin a new round if it is not.
    Inspect(Box<Entry>),
    /// The document failed, and its dead letter was not sent yet.
    SendDeadLetter(Box<Entry>),
    /// Wait as long as the entry changes: a worker with a newer configuration began the round.
    WaitForNewerWorker(Box<Entry>),
    /// Drop it: somebody asked for the deletion of its document after it was sent.
    Drop(Box<Entry>),
    /// Nothing: this message was settled before, or LAYRA deleted its document after it was sent.
    End(Outcome),
}

/// Decides on a request to ingest a document.
pub(super) fn decide(entry: Option<Box<Entry>>, request: &Request) -> Decision {
    let Some(entry) = entry else {
        return Decision::Begin(None);
    };
    // Whatever followed the deletion belongs to a later request.
    if entry.is_deletion_requested_after(&request.sent) {
        return Decision::Drop(entry);
    }
    let same_request = entry.origin == request.sent.origin;
    let same_recipe = request.recipe.matches(&entry.recipe);
    let newer = request.worker_since > entry.worker_since;
    let sent_later = !entry.is_deleted_after(&request.sent);
    let lacks_dead_letter = entry.failure.as_ref().is_some_and(|why| !why.letter);
    match entry.state {
        State::Deleted if sent_later => Decision::Begin(Some(entry)),
        State::Deleted => Decision::End(Outcome::Deleted),
        State::Failed if lacks_dead_letter => Decision::SendDeadLetter(entry),
        State::Failed if same_request => Decision::End(Outcome::Settled),
        State::Failed => Decision::Begin(Some(entry)),
        State::Done if same_recipe || !newer => Decision::Inspect(entry),
        State::Working if same_recipe => Decision::Resume(entry),
        State::Done | State::Working if newer => Decision::Begin(Some(entry)),
        State::Done | State::Working => Decision::WaitForNewerWorker(entry),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;
    use crate::document::{Cutoff, Origin, Recipe, Sent};
    use crate::runtime::failure::{Failure, Reason, Stage};
    use crate::stores::ledger::{Rejection, an_entry};

    fn sent(offset: i64, ms: i64) -> Sent {
        Sent {
            origin: format!("tasks/0/{offset}"),
            at: DateTime::from_millis(ms),
        }
    }

    fn request() -> Request {
        Request {
            sent: sent(7, 500),
            recipe: Recipe::stored("recipe"),
            worker_since: DateTime::from_millis(1_000),
        }
    }

    fn known(state: State) -> Box<Entry> {
        Box::new(an_entry(state))
    }

    fn failed(letter: bool) -> Box<Entry> {
        let failure = Failure::permanent(Stage::Render, Reason::Damaged, "x");
        let mut entry = known(State::Failed);
        entry.failure = Some(Rejection {
            letter,
            ..Rejection::from(&failure)
        });
        entry
    }

    #[test]
    fn a_redelivery_resumes_and_repeats_nothing() {
        let again = request();
        assert_eq!(decide(None, &again), Decision::Begin(None));
        let working = known(State::Working);
        assert_eq!(
            decide(Some(working.clone()), &again),
            Decision::Resume(working)
        );
        let done = known(State::Done);
        assert_eq!(decide(Some(done.clone()), &again), Decision::Inspect(done));
        assert_eq!(
            decide(Some(known(State::Deleted)), &again),
            Decision::End(Outcome::Deleted)
        );
        assert_eq!(
            decide(Some(failed(false)), &again),
            Decision::SendDeadLetter(failed(false))
        );
        assert_eq!(
            decide(Some(failed(true)), &again),
            Decision::End(Outcome::Settled)
        );
    }

    #[test]
    fn a_new_request_restarts_a_failed_or_deleted_document() {
        let request = Request {
            sent: sent(8, 3_000),
            ..request()
        };
        assert_eq!(
            decide(Some(failed(true)), &request),
            Decision::Begin(Some(failed(true)))
        );
        let mut deleted = known(State::Deleted);
        deleted.finished_at = Some(DateTime::from_millis(2_000));
        assert_eq!(
            decide(Some(deleted.clone()), &request),
            Decision::Begin(Some(deleted.clone()))
        );
        let sent_before = Request {
            sent: sent(8, 1_999),
            ..request.clone()
        };
        assert_eq!(
            decide(Some(deleted), &sent_before),
            Decision::End(Outcome::Deleted)
        );
        let done = known(State::Done);
        assert_eq!(
            decide(Some(done.clone()), &request),
            Decision::Inspect(done)
        );
    }

    #[test]
    fn a_task_that_was_sent_before_a_deletion_is_dropped_whatever_followed() {
        let position = Origin::parse("tasks/0/9").unwrap();
        for state in [State::Working, State::Done, State::Failed, State::Deleted] {
            let mut entry = known(state);
            let cutoff = Cutoff::of_message(&position, DateTime::from_millis(100));
            entry.deletions.push(cutoff);
            // Its clock is ahead.
            assert_eq!(
                decide(Some(entry.clone()), &request()),
                Decision::Drop(entry.clone())
            );
            let later = Request {
                sent: sent(10, 50),
                ..request()
            };
            let decision = decide(Some(entry), &later);
            assert!(!matches!(decision, Decision::Drop(_)), "{decision:?}");
        }
    }

    #[test]
    fn the_newer_configuration_wins() {
        let other = Request {
            recipe: Recipe::stored("another"),
            ..request()
        };
        let newer = Request {
            worker_since: DateTime::from_millis(2_000),
            ..other.clone()
        };
        for state in [State::Working, State::Done] {
            assert_eq!(
                decide(Some(known(state)), &newer),
                Decision::Begin(Some(known(state)))
            );
        }
        assert_eq!(
            decide(Some(known(State::Working)), &other),
            Decision::WaitForNewerWorker(known(State::Working))
        );
        let done = known(State::Done);
        assert_eq!(decide(Some(done.clone()), &other), Decision::Inspect(done));
    }
}
