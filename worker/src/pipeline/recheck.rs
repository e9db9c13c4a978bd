//! Rechecks of documents. A write that was in flight when its worker was replaced may have landed
//! after the document was finished. A document in progress that does not change may be orphaned.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::bson::DateTime;

use super::{Outcome, Pipeline};
use crate::document::task::Task;
use crate::kafka::committed::Committed;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::{Class, Failure, Reason};
use crate::stores::ledger::{Entry, State};

/// How often a worker looks for documents that are due for a recheck.
const INTERVAL: Duration = Duration::from_secs(20);
/// How often a worker counts rechecks.
const COUNT_INTERVAL: Duration = Duration::from_mins(1);
/// Page images that are looked up at the same time.
const CONCURRENT_LOOKUPS: usize = 8;

impl Pipeline {
    /// Rechecks documents as they become due, until the worker ends.
    pub(crate) async fn recheck_all(&self, outbox: &Outbox, committed: &Committed) {
        if let Err(error) = self.stores.ledger.schedule_missing_rechecks().await {
            tracing::warn!(%error, "missing rechecks not scheduled");
        }
        let mut counted = None;
        loop {
            if counted.is_none_or(|then: Instant| then.elapsed() >= COUNT_INTERVAL) {
                counted = Some(Instant::now());
                self.count_rechecks().await;
            }
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.recheck_due(outbox, committed).await {
                tracing::warn!(%error, "recheck failed, will retry");
            }
        }
    }

    /// Counts the rechecks for the operator, which keeps a worker for them.
    async fn count_rechecks(&self) {
        match self.stores.ledger.count_rechecks().await {
            Ok(count) => self.metrics.set_open_rechecks(count),
            Err(error) => tracing::warn!(%error, "rechecks not counted, will retry"),
        }
        match self.stores.ledger.count_without_room().await {
            Ok(count) => {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.metrics.without_room.set(count);
            }
            Err(error) => tracing::warn!(%error, "waiting documents not counted, will retry"),
        }
    }

    async fn recheck_due(&self, outbox: &Outbox, committed: &Committed) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        let mut sent = BTreeMap::new();
        while let Some(entry) = ledger.next_recheck().await? {
            if entry.waits_for_room() {
                self.recheck_room(&entry, outbox, &mut sent).await?;
                continue;
            }
            if entry.state == State::Working {
                // The recheck stays scheduled until the document is done.
                self.recheck_progress(&entry, outbox, committed).await?;
                continue;
            }
            match self.recheck(&entry).await {
                Ok(Outcome::Superseded) => continue,
                Ok(Outcome::Repeat(entry)) => {
                    let task = Task::from(entry.as_ref());
                    outbox.send_task(&task, &entry.requested()).await?;
                }
                Ok(_) => {}
                // It is rechecked when that worker must be done.
                Err(failure) if failure.reason == Reason::BeingRemoved => continue,
                Err(failure) => {
                    ledger.record_failed_recheck(&entry).await?;
                    return Err(failure);
                }
            }
            ledger.record_rechecked(&entry).await?;
        }
        Ok(())
    }

    /// Rechecks a document in progress. Its task is sent again if the entry does not change and
    /// Kafka has no message of it left: neither its task nor a page range waits for a worker, and
    /// no worker processes one.
    async fn recheck_progress(
        &self,
        entry: &Entry,
        outbox: &Outbox,
        committed: &Committed,
    ) -> Result<(), Failure> {
        let ledger = &self.stores.ledger;
        let Some(last_sent) = entry.last_sent(DateTime::now()) else {
            return Ok(());
        };
        let last_sent = last_sent.timestamp_millis();
        if !committed.is_everything_before(last_sent).await? {
            return ledger.postpone_recheck(entry).await;
        }
        tracing::warn!(
            file_id = entry.file_id,
            "orphaned document: task sent again"
        );
        outbox
            .send_task(&Task::from(entry), &entry.requested())
            .await?;
        ledger.record_resend(entry).await
    }

    /// Rechecks a document that is done, failed or deleted, and removes the effects of late writes.
    /// [`Outcome::Superseded`]: the document is in another state now, and nothing was removed.
    pub(super) async fn recheck(&self, entry: &Entry) -> Result<Outcome, Failure> {
        let outcome = match entry.state {
            State::Working => return Ok(Outcome::Superseded),
            State::Done => self.inspect(entry).await?,
            State::Failed => Outcome::Settled,
            State::Deleted => Outcome::Deleted,
        };
        match &outcome {
            // A document that is done was deleted through LAYRA in the meantime: nothing of it may
            // remain.
            Outcome::Deleted | Outcome::Settled => match Box::pin(self.withdraw(entry)).await {
                Err(failure) if failure.class == Class::Superseded => {
                    return Ok(Outcome::Superseded);
                }
                withdrawn => withdrawn?,
            },
            Outcome::Repeat(_) => {
                tracing::warn!(
                    file_id = entry.file_id,
                    "a late write changed the document, ingesting it again"
                );
                self.metrics.repeats.inc();
            }
            _ => {}
        }
        Ok(outcome)
    }

    /// Whether the object store holds the image of every page.
    async fn has_images(&self, pages: &[(String, String)]) -> Result<bool, Failure> {
        let objects = &self.stores.objects;
        let lookups: Vec<_> = pages.iter().map(|(_, key)| objects.exists(key)).collect();
        let found: Vec<bool> = stream::iter(lookups)
            .buffer_unordered(CONCURRENT_LOOKUPS)
            .try_collect()
            .await?;
        Ok(found.into_iter().all(|exists| exists))
    }

    /// Compares the stores with the ledger for a document that is done, and changes nothing.
    /// [`Outcome::AlreadyStored`]: they agree. [`Outcome::Deleted`]: LAYRA has deleted the
    /// document. [`Outcome::Repeat`]: they differ.
    pub(super) async fn inspect(&self, entry: &Entry) -> Result<Outcome, Failure> {
        let stores = &self.stores;
        let Some(file) = stores.documents.stored_file(&entry.file_id).await? else {
            return Ok(Outcome::Deleted);
        };
        // An archive holds its vectors.
        let archive = stores.archives.find(&entry.knowledge_db_id).await?;
        if archive.is_some_and(|archive| archive.is_away()) {
            return Ok(Outcome::AlreadyStored);
        }
        let differs = || Outcome::Repeat(Box::new(entry.clone()));
        let collection = stores.collection_of(&entry.knowledge_db_id);
        if !stores.vectors.has_collection(&collection).await? {
            return Ok(differs());
        }
        let rows = match stores.vectors.count_file(&collection, &entry.file_id).await {
            // It was dropped in the meantime.
            Err(failure) if failure.reason == Reason::CollectionGone => return Ok(differs()),
            counted => counted?,
        };
        // A late deletion of a page that one worker skipped and another stored.
        if !entry.open.is_empty() && !self.has_images(&file.pages).await? {
            return Ok(differs());
        }
        let pages = u32::try_from(file.pages.len());
        if Some(rows) == entry.vectors && Some(pages.unwrap_or(u32::MAX)) == entry.good_pages() {
            Ok(Outcome::AlreadyStored)
        } else {
            Ok(differs())
        }
    }
}
