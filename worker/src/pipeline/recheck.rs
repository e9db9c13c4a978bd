//! Documents that are looked at once more: a write that was on its way when its worker was replaced
//! may have landed, and a document that was taken over may have nobody.

use std::time::Duration;

use mongodb::bson::DateTime;

use super::{Outcome, Pipeline};
use crate::document::task::Task;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::Failure;
use crate::stores::ledger::{Entry, State};

/// How often a worker asks for documents that should be looked at once more.
const INTERVAL: Duration = Duration::from_secs(20);

impl Pipeline {
    /// Looks at documents as they become due, until the worker ends.
    pub async fn recheck_all(&self, outbox: &Outbox) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.recheck_due(outbox).await {
                tracing::warn!(%error, "documents could not be looked at once more; later");
            }
        }
    }

    async fn recheck_due(&self, outbox: &Outbox) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        while let Some(entry) = ledger.next_recheck().await? {
            if entry.state == State::Working {
                // Looked at again until it is done.
                if entry.is_orphan(DateTime::now()) {
                    tracing::warn!(file = entry.file_id, "nobody works on it; sent once more");
                    outbox.request(&Task::from(&entry)).await?;
                    ledger.adopted(&entry).await?;
                }
                continue;
            }
            if let Outcome::Again(entry) = self.recheck(&entry).await? {
                outbox.request(&Task::from(entry.as_ref())).await?;
            }
            ledger.rechecked(&entry).await?;
        }
        Ok(())
    }

    /// Looks once more at a document that is done, failed or deleted, and puts right what a late
    /// write has changed.
    pub(super) async fn recheck(&self, entry: &Entry) -> Result<Outcome, Failure> {
        match entry.state {
            State::Working => Ok(Outcome::Superseded),
            State::Done => {
                let outcome = self.inspect(entry).await?;
                match &outcome {
                    // Deleted through LAYRA meanwhile: nothing may be left.
                    Outcome::Deleted => self.withdraw(entry).await?,
                    Outcome::Again(_) => {
                        tracing::warn!(
                            file = entry.file_id,
                            "a late write has changed the document"
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

    /// What the stores hold of a document that is done: [`Outcome::AlreadyStored`] for all of it,
    /// once; [`Outcome::Deleted`] when LAYRA does not know it any more; [`Outcome::Again`] when it
    /// is not what the ledger says. Changes nothing.
    pub(super) async fn inspect(&self, entry: &Entry) -> Result<Outcome, Failure> {
        let stores = &self.stores;
        let Some(file) = stores.documents.stored_file(&entry.file_id).await? else {
            return Ok(Outcome::Deleted);
        };
        let damaged = || Outcome::Again(Box::new(entry.clone()));
        let collection = stores.collection_of(&entry.knowledge_db_id);
        if !stores.vectors.has_collection(&collection).await? {
            return Ok(damaged());
        }
        let rows = stores.vectors.count_file(&collection, &entry.file_id);
        let (rows, pages) = (rows.await?, u32::try_from(file.pages.len()));
        if Some(rows) == entry.vectors && Some(pages.unwrap_or(u32::MAX)) == entry.pages {
            Ok(Outcome::AlreadyStored)
        } else {
            Ok(damaged())
        }
    }
}
