//! Settles messages: completes the steps that must precede the commit of an offset.
//!
//! ```text
//! dead letter ─► ledger ─► progress ─► (the caller commits)
//! ```
//! Each step can be repeated. When a worker dies between two steps, the message is redelivered, and
//! the ledger shows which steps are missing. Nothing is committed here.

use layra_crds::metric_names::worker::STATUS_FAILED;
use mongodb::bson::DateTime;
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
use crate::runtime::traces;
use crate::stores::ledger::{Entry, Ledger, Rejection, State};
use crate::stores::progress::Progress;

/// A Kafka message that is being settled, and the clients that this needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// The message as it was received.
    pub(crate) message: &'a OwnedMessage,
    /// Position of the task. The message is this task or one of its page ranges.
    pub(crate) origin: &'a Origin,
    /// When the task was written.
    pub(crate) written_at: DateTime,
    /// Whether the message is a page range.
    pub(crate) is_range: bool,
    pub(crate) outbox: &'a Outbox,
    pub(crate) progress: &'a Progress,
}

/// A step that must be complete before the message may be committed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step<'a> {
    /// Send the ranges of a split document.
    SendRanges(&'a Entry, &'a [(u32, u32)]),
    /// Send the document's task again, as its latest request.
    SendAgain(&'a Entry),
    /// Send the dead letter, unless another range of the document has sent it.
    SendDeadLetter(&'a Entry, &'a Rejection),
    /// Record in the ledger that the dead letter was sent.
    RecordDeadLetter(&'a Entry),
    /// Show users that the file failed.
    ShowFailure(&'a Rejection),
    /// Show users that the file is searchable.
    ShowSuccess,
    /// Show users what the ledger holds, if the document is finished. A worker may have died after
    /// it finished the document and before it showed that.
    ShowRecorded,
}

/// The steps that an outcome requires, in order.
fn steps(outcome: &Outcome, is_range: bool) -> Vec<Step<'_>> {
    match outcome {
        Outcome::Stored(_) => vec![Step::ShowSuccess],
        // A range that is stored does not mean that its document is.
        Outcome::AlreadyStored | Outcome::Deleted if !is_range => vec![Step::ShowSuccess],
        Outcome::Split(entry, ranges) => vec![Step::SendRanges(entry, ranges)],
        Outcome::Repeat(entry) => vec![Step::SendAgain(entry)],
        Outcome::Rejected(entry, rejection) => vec![
            Step::SendDeadLetter(entry, rejection),
            Step::RecordDeadLetter(entry),
            Step::ShowFailure(rejection),
        ],
        // Whoever finishes the document shows it.
        Outcome::RangeStored | Outcome::NoRoom(_) => Vec::new(),
        Outcome::AlreadyStored | Outcome::Deleted | Outcome::Settled | Outcome::Superseded => {
            vec![Step::ShowRecorded]
        }
    }
}

impl Pipeline {
    /// Carries out the consequences of an outcome. Once this returns `Ok`, the message may be
    /// committed. Without a message only the ledger is updated: a command reports its outcome
    /// itself.
    pub(crate) async fn settle(
        &self,
        outcome: &Outcome,
        task: &Task,
        incoming: Option<Incoming<'_>>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let is_range = incoming.is_some_and(|incoming| incoming.is_range);
        let settlement = self.settlement(cancel);
        for step in steps(outcome, is_range) {
            let failure = match settlement.carry_out(step, task, incoming.as_ref()).await {
                Err(failure) if failure.rejects_document() => failure,
                carried_out => {
                    carried_out?;
                    continue;
                }
            };
            match step {
                // What must be sent may be too large. The ledger must not expect it.
                Step::SendRanges(entry, _) | Step::SendAgain(entry) => {
                    let reject = Box::pin(self.reject_round(entry, &failure, cancel));
                    let rejected = reject.await?;
                    return Box::pin(self.settle(&rejected, task, incoming, cancel)).await;
                }
                // The message is settled: a second dead letter would be about nothing else.
                Step::RecordDeadLetter(_) | Step::ShowRecorded => {
                    tracing::warn!(%failure, "the ledger refuses a request");
                }
                _ => return Err(failure),
            }
        }
        Ok(())
    }

    /// Rejects a message without a ledger entry: it is not valid, or it failed for good before it
    /// was entered. Once this returns `Ok`, the message may be committed.
    pub(crate) async fn reject_message(
        &self,
        failure: &Failure,
        incoming: Incoming<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let rejection = Rejection::from(failure);
        self.settlement(cancel)
            .dead_letter(&incoming, None, &rejection)
            .await?;
        let payload = rdkafka::Message::payload(incoming.message).unwrap_or_default();
        if let Some((task_id, file_id)) = task::progress_ids(payload) {
            let file_id = file_id.unwrap_or_else(|| incoming.origin.to_string());
            let why = &rejection.message;
            incoming.progress.failed(&task_id, &file_id, why).await;
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

/// Carries out steps. Retries while a server is unavailable.
struct Settlement<'a> {
    ledger: &'a Ledger,
    retry: &'a Retry,
    metrics: &'a Metrics,
    cancel: &'a CancellationToken,
}

impl Settlement<'_> {
    async fn carry_out(
        &self,
        step: Step<'_>,
        task: &Task,
        incoming: Option<&Incoming<'_>>,
    ) -> Result<(), Failure> {
        match (step, incoming) {
            (Step::RecordDeadLetter(entry), _) => self.record_dead_letter(entry).await,
            (_, None) => Ok(()),
            (Step::SendRanges(entry, ranges), Some(incoming)) => {
                self.ranges(incoming, entry, ranges).await
            }
            (Step::SendAgain(entry), Some(incoming)) => {
                let request = entry.requested();
                let send = |_| incoming.outbox.send_again(incoming.message, &request);
                self.retry.run(Stage::DeadLetter, self.cancel, send).await
            }
            (Step::SendDeadLetter(entry, rejection), Some(incoming)) => {
                self.dead_letter(incoming, Some(entry), rejection).await
            }
            (Step::ShowFailure(rejection), Some(incoming)) => {
                let (task_id, file_id) = (&task.task_id, &task.file.file_id);
                incoming
                    .progress
                    .failed(task_id, file_id, &rejection.message)
                    .await;
                Ok(())
            }
            (Step::ShowSuccess, Some(incoming)) => {
                incoming.progress.succeeded(task).await;
                Ok(())
            }
            (Step::ShowRecorded, Some(incoming)) => {
                self.show_recorded(task, incoming.progress).await
            }
        }
    }

    async fn ranges(
        &self,
        incoming: &Incoming<'_>,
        entry: &Entry,
        ranges: &[(u32, u32)],
    ) -> Result<(), Failure> {
        let pages = entry.pages.unwrap_or_default();
        tracing::info!(
            pages,
            ranges = ranges.len(),
            "document split into page ranges"
        );
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|&(first, count)| Range {
                round: entry.round.clone(),
                first,
                count,
                origin: incoming.origin.clone(),
                at: incoming.written_at.timestamp_millis(),
            })
            .collect();
        let send = |_| incoming.outbox.ranges(incoming.message, &ranges);
        self.retry.run(Stage::DeadLetter, self.cancel, send).await?;
        self.metrics.splits.inc();
        Ok(())
    }

    /// Sends the dead letter of a message. With an entry, the document has one for all its ranges.
    async fn dead_letter(
        &self,
        incoming: &Incoming<'_>,
        entry: Option<&Entry>,
        rejection: &Rejection,
    ) -> Result<(), Failure> {
        tracing::warn!(
            stage = rejection.stage,
            reason = rejection.reason,
            error = rejection.message,
            "sending dead letter"
        );
        traces::failed(&rejection.reason);
        let send = |_| async {
            // Ranges may wait for Kafka together: the first one sends it.
            if let Some(entry) = entry
                && self.is_dead_letter_sent(entry).await?
            {
                return Ok(false);
            }
            let Incoming {
                message, origin, ..
            } = incoming;
            incoming
                .outbox
                .dead_letter(message, origin, rejection)
                .await?;
            Ok(true)
        };
        if self.retry.run(Stage::DeadLetter, self.cancel, send).await? {
            let Metrics {
                files,
                dead_letters,
                ..
            } = self.metrics;
            files.with_label_values(&[STATUS_FAILED]).inc();
            dead_letters.with_label_values(&[&rejection.reason]).inc();
        }
        Ok(())
    }

    async fn is_dead_letter_sent(&self, entry: &Entry) -> Result<bool, Failure> {
        let now = self.ledger.find(&entry.file_id).await?;
        Ok(now.is_some_and(|now| now.round == entry.round && now.has_sent_dead_letter()))
    }

    async fn show_recorded(&self, task: &Task, progress: &Progress) -> Result<(), Failure> {
        let file_id = &task.file.file_id;
        let find = |_| self.ledger.find(file_id);
        let entry = self.retry.run(Stage::Mongodb, self.cancel, find).await?;
        match entry.map(|entry| (entry.state, entry.failure)) {
            Some((State::Done | State::Deleted, _)) => progress.succeeded(task).await,
            Some((State::Failed, Some(rejection))) => {
                let why = &rejection.message;
                progress.failed(&task.task_id, file_id, why).await;
            }
            // Whoever finishes the document shows it.
            Some((State::Working | State::Failed, _)) | None => {}
        }
        Ok(())
    }

    async fn record_dead_letter(&self, entry: &Entry) -> Result<(), Failure> {
        let record = |_| {
            self.ledger
                .record_dead_letter_sent(&entry.file_id, &entry.round)
        };
        self.retry.run(Stage::Mongodb, self.cancel, record).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Stored;
    use crate::runtime::failure::Reason;
    use crate::stores::ledger::an_entry;

    fn rejection() -> Rejection {
        Rejection::from(&Failure::permanent(Stage::Render, Reason::Damaged, "x"))
    }

    #[test]
    fn a_dead_letter_is_sent_then_recorded_then_shown() {
        let entry = Box::new(an_entry(State::Failed));
        let outcome = Outcome::Rejected(entry.clone(), rejection());
        for is_range in [false, true] {
            assert_eq!(
                steps(&outcome, is_range),
                [
                    Step::SendDeadLetter(&entry, &rejection()),
                    Step::RecordDeadLetter(&entry),
                    Step::ShowFailure(&rejection()),
                ]
            );
        }
    }

    #[test]
    fn remaining_work_is_sent_before_the_message_is_committed() {
        let entry = Box::new(an_entry(State::Working));
        let ranges = vec![(0, 64), (64, 36)];
        let split = Outcome::Split(entry.clone(), ranges.clone());
        assert_eq!(steps(&split, false), [Step::SendRanges(&entry, &ranges)]);
        let repeat = Outcome::Repeat(entry.clone());
        assert_eq!(steps(&repeat, true), [Step::SendAgain(&entry)]);
    }

    #[test]
    fn a_document_is_shown_as_searchable_by_its_last_range_alone() {
        let stored = Outcome::Stored(Stored::default());
        assert_eq!(steps(&stored, false), [Step::ShowSuccess]);
        assert_eq!(steps(&stored, true), [Step::ShowSuccess]);
        assert!(steps(&Outcome::RangeStored, true).is_empty());
        let full = layra_crds::QuotaUse {
            kind: layra_crds::QuotaKind::Vectors,
            knowledge_base: Some("kb".into()),
            used: 2,
            limit: 2,
        };
        assert!(steps(&Outcome::NoRoom(full), false).is_empty(), "it waits");
        for outcome in [Outcome::AlreadyStored, Outcome::Deleted] {
            assert_eq!(steps(&outcome, false), [Step::ShowSuccess]);
            assert_eq!(steps(&outcome, true), [Step::ShowRecorded]);
        }
    }

    #[test]
    fn a_redelivery_shows_what_a_dead_worker_did_not() {
        for outcome in [Outcome::Settled, Outcome::Superseded] {
            for is_range in [false, true] {
                assert_eq!(steps(&outcome, is_range), [Step::ShowRecorded]);
            }
        }
    }
}
