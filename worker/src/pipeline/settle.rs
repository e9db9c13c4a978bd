//! The end of every message: what must have happened before its offset may be committed.
//!
//! ```text
//! dead letter ─► ledger ─► progress ─► (the caller commits)
//! ```
//! Each step is safe to repeat, and a worker that dies between two of them leaves a message that is
//! delivered again: the ledger then tells what is still owed. Nothing is committed here.

use rdkafka::message::OwnedMessage;
use tokio_util::sync::CancellationToken;

use super::{Outcome, Pipeline};
use crate::document::Origin;
use crate::document::page_range::Range;
use crate::document::task::{self, Task};
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::metrics::Metrics;
use crate::runtime::retry::Retry;
use crate::stores::ledger::{Entry, Ledger, Rejection};
use crate::stores::progress::Progress;

/// A message of Kafka, and who hears how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The message as it came.
    pub message: &'a OwnedMessage,
    /// Where the task lies that the message is, or is a range of.
    pub origin: &'a Origin,
    /// When the task was written, in milliseconds since 1970.
    pub written_at: i64,
    /// Whether it is a range of a task's pages.
    pub is_range: bool,
    /// Where further messages are written.
    pub outbox: &'a Outbox,
    /// What users see.
    pub progress: &'a Progress,
}

/// Something that must have happened before a message may be committed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step<'a> {
    /// The ranges of a document that is split are in their topic.
    SendRanges(&'a Entry, &'a [(u32, u32)]),
    /// The document's task is in its topic once more.
    SendTask(&'a Entry),
    /// The dead letter is in its topic.
    SendDeadLetter(&'a Rejection),
    /// The ledger knows that the dead letter is written.
    RecordDeadLetter(&'a Entry),
    /// Users see that the file has failed.
    ShowFailure(&'a Rejection),
    /// Users see that the file is searchable.
    ShowSuccess,
}

/// What follows from an outcome, in the order in which it must happen.
fn steps(outcome: &Outcome, is_range: bool) -> Vec<Step<'_>> {
    match outcome {
        Outcome::Stored(_) => vec![Step::ShowSuccess],
        // A range says nothing of its document.
        Outcome::AlreadyStored | Outcome::Deleted if !is_range => vec![Step::ShowSuccess],
        Outcome::Split(entry, ranges) => vec![Step::SendRanges(entry, ranges)],
        Outcome::Again(entry) => vec![Step::SendTask(entry)],
        Outcome::Rejected(entry, rejection) => vec![
            Step::SendDeadLetter(rejection),
            Step::RecordDeadLetter(entry),
            Step::ShowFailure(rejection),
        ],
        Outcome::PartStored
        | Outcome::AlreadyStored
        | Outcome::Deleted
        | Outcome::Settled
        | Outcome::Superseded => Vec::new(),
    }
}

impl Pipeline {
    /// Does what follows from the outcome of a task or a range. Once this returns `Ok`, its message
    /// may be committed. Without a sender only the ledger is told: the command that asked hears of
    /// the outcome itself.
    pub async fn settle(
        &self,
        outcome: &Outcome,
        task: &Task,
        sender: Option<Sender<'_>>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let is_range = sender.is_some_and(|sender| sender.is_range);
        let settlement = self.settlement(cancel);
        for step in steps(outcome, is_range) {
            settlement.take(step, task, sender.as_ref()).await?;
        }
        Ok(())
    }

    /// Rejects a message that never became a document: nobody can read it, or its request failed
    /// for good before the ledger knew of it. Once this returns `Ok`, it may be committed.
    pub async fn reject_message(
        &self,
        failure: &Failure,
        sender: Sender<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let rejection = Rejection::from(failure);
        self.settlement(cancel)
            .dead_letter(&sender, &rejection)
            .await?;
        let payload = rdkafka::Message::payload(sender.message).unwrap_or_default();
        if let Some((task_id, file_id)) = task::shown_as(payload) {
            let file_id = file_id.unwrap_or_else(|| sender.origin.to_string());
            let why = &rejection.message;
            sender.progress.failed(&task_id, &file_id, why).await;
        }
        Ok(())
    }

    fn settlement<'a>(&'a self, cancel: &'a CancellationToken) -> Settlement<'a> {
        Settlement {
            ledger: &self.stores.ledger,
            retry: &self.retry,
            metrics: &self.metrics,
            cancel,
        }
    }
}

/// Carries steps out. Servers that are away are waited for.
struct Settlement<'a> {
    ledger: &'a Ledger,
    retry: &'a Retry,
    metrics: &'a Metrics,
    cancel: &'a CancellationToken,
}

impl Settlement<'_> {
    async fn take(
        &self,
        step: Step<'_>,
        task: &Task,
        sender: Option<&Sender<'_>>,
    ) -> Result<(), Failure> {
        match (step, sender) {
            (Step::RecordDeadLetter(entry), _) => self.record(entry).await,
            (_, None) => Ok(()),
            (Step::SendRanges(entry, ranges), Some(to)) => self.ranges(to, entry, ranges).await,
            (Step::SendTask(entry), Some(to)) => {
                let task = Task::from(entry);
                let send = |_| to.outbox.request(&task);
                self.retry.run(Stage::DeadLetter, self.cancel, send).await
            }
            (Step::SendDeadLetter(rejection), Some(to)) => self.dead_letter(to, rejection).await,
            (Step::ShowFailure(rejection), Some(to)) => {
                let (task_id, file_id) = (&task.task_id, &task.file.file_id);
                to.progress
                    .failed(task_id, file_id, &rejection.message)
                    .await;
                Ok(())
            }
            (Step::ShowSuccess, Some(to)) => {
                to.progress.succeeded(task).await;
                Ok(())
            }
        }
    }

    /// Sends the ranges of a document to their topic.
    async fn ranges(
        &self,
        to: &Sender<'_>,
        entry: &Entry,
        ranges: &[(u32, u32)],
    ) -> Result<(), Failure> {
        let pages = entry.pages.unwrap_or_default();
        tracing::info!(pages, ranges = ranges.len(), "split");
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|&(first, count)| Range {
                round: entry.round.clone(),
                first,
                count,
                origin: to.origin.clone(),
                at: to.written_at,
            })
            .collect();
        let send = |_| to.outbox.ranges(to.message, &ranges);
        self.retry.run(Stage::DeadLetter, self.cancel, send).await?;
        self.metrics.splits.inc();
        Ok(())
    }

    async fn dead_letter(&self, to: &Sender<'_>, rejection: &Rejection) -> Result<(), Failure> {
        tracing::warn!(
            stage = rejection.stage,
            reason = rejection.reason,
            error = rejection.message,
            "dead letter"
        );
        let send = |_| to.outbox.dead_letter(to.message, to.origin, rejection);
        self.retry.run(Stage::DeadLetter, self.cancel, send).await?;
        let Metrics {
            files,
            dead_letters,
            ..
        } = self.metrics;
        files.with_label_values(&["failed"]).inc();
        dead_letters.with_label_values(&[&rejection.reason]).inc();
        Ok(())
    }

    async fn record(&self, entry: &Entry) -> Result<(), Failure> {
        let record = |_| self.ledger.lettered(&entry.file_id, &entry.round);
        self.retry.run(Stage::Mongodb, self.cancel, record).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Stored;
    use crate::stores::ledger::{State, an_entry};

    fn rejection() -> Rejection {
        Rejection::from(&Failure::permanent(Stage::Render, "Damaged", "x"))
    }

    #[test]
    fn a_dead_letter_is_sent_before_the_ledger_is_told_and_shown_last() {
        let entry = Box::new(an_entry(State::Failed));
        let outcome = Outcome::Rejected(entry.clone(), rejection());
        for is_range in [false, true] {
            assert_eq!(
                steps(&outcome, is_range),
                [
                    Step::SendDeadLetter(&rejection()),
                    Step::RecordDeadLetter(&entry),
                    Step::ShowFailure(&rejection()),
                ]
            );
        }
    }

    #[test]
    fn what_is_left_to_do_is_sent_before_the_message_is_committed() {
        let entry = Box::new(an_entry(State::Working));
        let ranges = vec![(0, 64), (64, 36)];
        let split = Outcome::Split(entry.clone(), ranges.clone());
        assert_eq!(steps(&split, false), [Step::SendRanges(&entry, &ranges)]);
        let again = Outcome::Again(entry.clone());
        assert_eq!(steps(&again, true), [Step::SendTask(&entry)]);
    }

    #[test]
    fn a_document_is_shown_as_searchable_once_and_by_its_last_range() {
        let stored = Outcome::Stored(Stored::default());
        assert_eq!(steps(&stored, false), [Step::ShowSuccess]);
        assert_eq!(steps(&stored, true), [Step::ShowSuccess]);
        assert!(steps(&Outcome::PartStored, true).is_empty());
        for outcome in [Outcome::AlreadyStored, Outcome::Deleted] {
            assert_eq!(steps(&outcome, false), [Step::ShowSuccess]);
            assert!(steps(&outcome, true).is_empty());
        }
        for outcome in [Outcome::Settled, Outcome::Superseded] {
            assert!(steps(&outcome, false).is_empty());
        }
    }
}
