//! Rechecks of documents. A write that was in flight when its worker was replaced may have landed
//! after the document was finished, and a document that another worker took over may be orphaned.

use std::time::Duration;

use mongodb::bson::DateTime;

use super::{Outcome, Pipeline};
use crate::document::task::Task;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::Failure;
use crate::stores::ledger::{Entry, State};

/// How often a worker looks for documents that are due for a recheck.
const INTERVAL: Duration = Duration::from_secs(20);

impl Pipeline {
    /// Rechecks documents as they become due, until the worker ends.
    pub(crate) async fn recheck_all(&self, outbox: &Outbox) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.recheck_due(outbox).await {
                tracing::warn!(%error, "recheck failed, will retry");
            }
        }
    }

    async fn recheck_due(&self, outbox: &Outbox) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        while let Some(entry) = ledger.next_recheck().await? {
            if entry.state == State::Working {
                // The recheck stays scheduled until the document is done.
                if entry.is_orphaned(DateTime::now()) {
                    tracing::warn!(file = entry.file_id, "orphaned document: task sent again");
                    outbox.send_task(&Task::from(&entry)).await?;
                    ledger.record_resend(&entry).await?;
                }
                continue;
            }
            if let Outcome::Repeat(entry) = self.recheck(&entry).await? {
                outbox.send_task(&Task::from(entry.as_ref())).await?;
            }
            ledger.record_rechecked(&entry).await?;
        }
        Ok(())
    }

    /// Rechecks a document that is done, failed or deleted, and removes the effects of late writes.
    pub(super) async fn recheck(&self, entry: &Entry) -> Result<Outcome, Failure> {
        match entry.state {
            State::Working => Ok(Outcome::Superseded),
            State::Done => {
                let outcome = self.inspect(entry).await?;
                match &outcome {
                    // It was deleted through LAYRA in the meantime: nothing may remain.
                    Outcome::Deleted => self.withdraw(entry).await?,
                    Outcome::Repeat(_) => {
                        tracing::warn!(
                            file = entry.file_id,
                            "a late write changed the document, ingesting it again"
                        );
                        self.metrics.repeats.inc();
                    }
                    _ => {}
                }
                Ok(outcome)
            }
            State::Failed => {
                self.withdraw(entry).await?;
                Ok(Outcome::Settled)
            }
            State::Deleted => {
                self.withdraw(entry).await?;
                Ok(Outcome::Deleted)
            }
        }
    }

    /// Compares the stores with the ledger for a document that is done, and changes nothing.
    /// [`Outcome::AlreadyStored`]: they agree. [`Outcome::Deleted`]: LAYRA has deleted the
    /// document. [`Outcome::Repeat`]: they differ.
    pub(super) async fn inspect(&self, entry: &Entry) -> Result<Outcome, Failure> {
        let stores = &self.stores;
        let Some(file) = stores.documents.stored_file(&entry.file_id).await? else {
            return Ok(Outcome::Deleted);
        };
        let differs = || Outcome::Repeat(Box::new(entry.clone()));
        let collection = stores.collection_of(&entry.knowledge_db_id);
        if !stores.vectors.has_collection(&collection).await? {
            return Ok(differs());
        }
        let rows = stores.vectors.count_file(&collection, &entry.file_id);
        let (rows, pages) = (rows.await?, u32::try_from(file.pages.len()));
        if Some(rows) == entry.vectors && Some(pages.unwrap_or(u32::MAX)) == entry.pages {
            Ok(Outcome::AlreadyStored)
        } else {
            Ok(differs())
        }
    }
}
