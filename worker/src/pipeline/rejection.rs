//! What follows from a failure that retrying cannot overcome: the document is rejected, or dropped
//! because it was deleted. Both are recorded once, so that no recheck sends its task again.

use tokio_util::sync::CancellationToken;

use super::admit::Job;
use super::{Outcome, Pipeline};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::stores::ledger::{Decider, Entry, State};

impl Pipeline {
    /// Concludes work on a document whose round is known. A failure that was not recorded under a
    /// claim, for example because the whole document was counted or the ledger refused a write,
    /// rejects the document as a whole.
    pub(super) async fn conclude(
        &self,
        job: &Job<'_>,
        round: &Entry,
        result: Result<Outcome, Failure>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let failure = match result {
            Err(failure) if failure.rejects_document() => failure,
            result => return result,
        };
        let failure = self.check_deletion(job, failure, cancel).await;
        if failure.class == Class::Deleted {
            self.drop_round(job, round, cancel).await
        } else if failure.rejects_document() {
            self.reject_round(round, &failure, cancel).await
        } else {
            Err(failure)
        }
    }

    /// Rejects a document in progress without a claim. [`Outcome::Superseded`]: its round is over.
    pub(super) async fn reject_round(
        &self,
        round: &Entry,
        failure: &Failure,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let ledger = &self.stores.ledger;
        let record = || async {
            if let Some(failed) = ledger.record_failed(Decider::Round(round), failure).await? {
                return Ok(Some(failed));
            }
            // A claim of this worker may have recorded a failure before something else failed.
            let now = ledger.find(&round.file_id).await?;
            Ok(now.filter(|now| now.round == round.round && now.state == State::Failed))
        };
        let failed = self.ledger(cancel, record).await?;
        match failed {
            Some(failed) => self.withdraw_rejected(Box::new(failed), cancel).await,
            None => Ok(Outcome::Superseded),
        }
    }

    /// Drops a document in progress without a claim, because it was deleted.
    async fn drop_round(
        &self,
        job: &Job<'_>,
        round: &Entry,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        let decider = Decider::Round(round);
        match self.record_deletion(job, decider, cancel).await? {
            Some(entry) => {
                let outcome = self.recheck_if_over(&entry.file_id, cancel).await?;
                Ok(outcome.unwrap_or(Outcome::Superseded))
            }
            None => Ok(Outcome::Superseded),
        }
    }

    /// Withdraws a failed document from the stores. Its dead letter must be sent next.
    /// [`Outcome::Superseded`]: the entry changed, and there is nothing to send.
    pub(super) async fn withdraw_rejected(
        &self,
        entry: Box<Entry>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Failure> {
        match Box::pin(self.withdraw_with_retries(&entry, cancel)).await {
            Err(failure) if failure.class == Class::Superseded => return Ok(Outcome::Superseded),
            // The document's own reason counts. The scheduled recheck removes the rest.
            Err(failure) if failure.rejects_document() => {
                tracing::warn!(%failure, "failed document not removed, will be rechecked");
            }
            withdrawn => withdrawn?,
        }
        // Another range of the document may have waited for the same lease before this one.
        let find = || self.stores.ledger.find(&entry.file_id);
        let now = self.ledger(cancel, find).await?;
        if now.is_some_and(|now| now.round == entry.round && now.has_sent_dead_letter()) {
            return Ok(Outcome::Settled);
        }
        let rejection = entry.failure.clone().unwrap_or_else(|| {
            let unknown = Failure::permanent(
                Stage::Intake,
                Reason::Unknown,
                "the ledger has no failure reason",
            );
            (&unknown).into()
        });
        Ok(Outcome::Rejected(entry, rejection))
    }

    /// A document whose knowledge base was deleted did not fail: it was deleted, too. Its collection
    /// existed when the round was prepared. A knowledge base that never existed is a failure.
    pub(super) async fn check_deletion(
        &self,
        job: &Job<'_>,
        failure: Failure,
        cancel: &CancellationToken,
    ) -> Failure {
        let had_collection = match failure.reason {
            Reason::KnowledgeBaseNotFound => false,
            Reason::CollectionGone => true,
            _ => return failure,
        };
        let is_deleted = || async {
            if self.knowledge_base_deletion(job).await?.is_some() {
                return Ok(true);
            }
            let id = &job.task.knowledge_base;
            Ok(had_collection && !self.stores.documents.has_knowledge_base(id).await?)
        };
        match self.ledger(cancel, is_deleted).await {
            Ok(true) => Failure::deleted(failure.stage, failure.message),
            Ok(false) => failure,
            Err(error) => error,
        }
    }

    /// Records that a document was deleted while it was processed. The original of a file that
    /// LAYRA deleted is LAYRA's: it stays, unless somebody asked for the deletion of the knowledge
    /// base. `None`: the decider is superseded.
    pub(super) async fn record_deletion(
        &self,
        job: &Job<'_>,
        decider: Decider<'_>,
        cancel: &CancellationToken,
    ) -> Result<Option<Entry>, Failure> {
        let requested = self
            .ledger(cancel, || self.knowledge_base_deletion(job))
            .await?;
        let ledger = &self.stores.ledger;
        let dropped = self
            .ledger(cancel, || {
                ledger.record_deleted(decider, requested.as_ref())
            })
            .await?;
        if dropped.is_some() {
            tracing::warn!("the file was deleted while it was processed, dropping it");
        }
        Ok(dropped)
    }
}
