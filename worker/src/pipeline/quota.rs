//! Counts what the pipeline and its knowledge bases hold, and lets documents wait for room.
//!
//! A document whose knowledge base is full waits in the ledger: its entry says since when
//! (`no_room_since`), and its message is committed, so that it holds up no other. Rechecks find the
//! entry every 20 seconds, and send the task again when there is room. The task keeps the time and
//! position of its request, which decide about deletions; it loses its place among the tasks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Job, Outcome, Pipeline};
use crate::document::task::Task;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::Failure;
use crate::runtime::quotas::{BaseUsage, PipelineUsage, Room};
use crate::stores::ledger::{Entry, State};

/// How often a worker reads the last count of the pipeline.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two counts of all collections: this, or so many times what the last one took.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
const PAUSE_FACTOR: u32 = 10;
/// Another worker counts when a worker has not counted for so many pauses.
const TURN_FACTOR: u32 = 3;
/// Collections that are counted at the same time.
const CONCURRENT_COUNTS: usize = 4;
/// Documents of a knowledge base that is nearly full for which one round of rechecks makes room.
const RESENT_AT_ONCE: u32 = 32;

impl Pipeline {
    /// Reads the last count, so that a worker that starts does not begin documents at a limit.
    pub(crate) async fn load_usage(&self) {
        if !self.quotas.counts_collections() {
            return;
        }
        match self.stores.usage.read().await {
            Ok(Some(usage)) => self.quotas.record_pipeline(usage),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "usage not read, will retry"),
        }
    }

    /// Counts what the pipeline holds, or reads what another worker counted, until the worker ends.
    pub(crate) async fn watch_quotas(&self) {
        if !self.quotas.counts_collections() {
            return;
        }
        let mut pause = COUNT_INTERVAL;
        let mut counted: Option<Instant> = None;
        loop {
            let due = counted.is_none_or(|then| then.elapsed() >= pause);
            match self.refresh_usage(due, pause).await {
                Ok(Some(took)) => {
                    counted = Some(Instant::now());
                    pause = COUNT_INTERVAL.max(took * PAUSE_FACTOR);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "usage not counted, will retry"),
            }
            tokio::time::sleep(READ_INTERVAL).await;
        }
    }

    /// Returns how long the count took, if this worker counted.
    async fn refresh_usage(&self, due: bool, pause: Duration) -> Result<Option<Duration>, Failure> {
        let record = &self.stores.usage;
        let mut took = None;
        if due && record.take_turn(pause * TURN_FACTOR).await? {
            let started = Instant::now();
            record.write(self.count_usage().await?).await?;
            took = Some(started.elapsed());
        }
        if let Some(usage) = record.read().await? {
            self.quotas.record_pipeline(usage);
        }
        Ok(took)
    }

    async fn count_usage(&self) -> Result<PipelineUsage, Failure> {
        let vectors = &self.stores.vectors;
        let mut names = vectors.collection_names().await?;
        names.retain(|name| self.stores.milvus.owns_collection(name));
        let collections = u64::try_from(names.len()).unwrap_or(u64::MAX);
        let rows = if self.quotas.counts_vectors() {
            let counts: Vec<_> = names.iter().map(|name| vectors.count_rows(name)).collect();
            stream::iter(counts)
                .buffer_unordered(CONCURRENT_COUNTS)
                .try_fold(0_u64, |sum, rows| async move {
                    Ok(sum.saturating_add(rows.unwrap_or(0)))
                })
                .await?
        } else {
            0
        };
        Ok(PipelineUsage {
            collections,
            vectors: rows,
        })
    }

    /// The room that the knowledge base of a task has, by a count that is at most some seconds old.
    async fn room_for(&self, task: &Task) -> Result<Room, Failure> {
        let id = task.knowledge_base.as_str();
        if let Some(room) = self.quotas.known_room(id, Instant::now()) {
            return Ok(room);
        }
        let vectors = &self.stores.vectors;
        let collection = self.stores.collection_of(id);
        let rows = if self.quotas.counts_bases() {
            vectors.count_rows(&collection).await?
        } else if self.quotas.limits_collections() {
            let exists = vectors.has_collection(&collection).await?;
            exists.then_some(0)
        } else {
            Some(0)
        };
        let url = self.stores.objects.link(&task.file.key);
        let list = self.stores.documents.list_size(task, &url).await?;
        let usage = BaseUsage {
            has_collection: rows.is_some(),
            vectors: rows.unwrap_or(0),
            list_bytes: list.bytes,
            is_list_estimated: !list.is_exact,
        };
        Ok(self.quotas.record_base(id, usage, Instant::now()))
    }

    /// Lets a document that was not begun wait, if its knowledge base is full.
    pub(super) async fn wait_for_base(
        &self,
        job: &Job<'_>,
        entry: Box<Entry>,
    ) -> Result<ControlFlow<Outcome, Box<Entry>>, Failure> {
        if entry.is_begun() || entry.repeats > 0 {
            return Ok(ControlFlow::Continue(entry));
        }
        let Some(full) = self.room_for(job.task).await?.full else {
            if entry.no_room_since.is_some() {
                self.stores.ledger.record_room(&entry).await?;
            }
            return Ok(ControlFlow::Continue(entry));
        };
        if !self.stores.ledger.record_no_room(&entry).await? {
            return Ok(ControlFlow::Break(Outcome::Superseded));
        }
        tracing::info!(
            quota = full.kind.as_str(),
            used = full.used,
            limit = full.limit,
            "the knowledge base has no room, the document waits in the ledger"
        );
        Ok(ControlFlow::Break(Outcome::NoRoom(full)))
    }

    /// Sends the task of a document again that has waited for room, if there is room. `sent` counts
    /// those of this round of rechecks, by knowledge base.
    pub(super) async fn recheck_room(
        &self,
        entry: &Entry,
        outbox: &Outbox,
        sent: &mut BTreeMap<String, u32>,
    ) -> Result<(), Failure> {
        let (ledger, id) = (&self.stores.ledger, &entry.knowledge_db_id);
        let task = Task::from(entry);
        let room = self.room_for(&task).await?;
        let sent = sent.entry(id.clone()).or_default();
        if room.full.is_some() || (room.is_near && *sent >= RESENT_AT_ONCE) {
            return ledger.postpone_without_room(id).await;
        }
        outbox.send_task(&task, &entry.requested()).await?;
        *sent += 1;
        tracing::info!(file_id = entry.file_id, "there is room: task sent again");
        ledger.record_room(entry).await
    }
}

/// Whether a new round takes the place of what the stores hold of the document already: then it
/// needs no room.
pub(super) fn replaces_stored(before: Option<&Entry>) -> bool {
    before.is_some_and(|before| match before.state {
        State::Done => true,
        State::Working => before.is_begun() || before.repeats > 0,
        State::Failed | State::Deleted => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    #[test]
    fn a_document_that_replaces_itself_needs_no_room() {
        assert!(!replaces_stored(None));
        let mut entry = an_entry(State::Working);
        assert!(replaces_stored(Some(&entry)));
        entry.prepared = false;
        assert!(!replaces_stored(Some(&entry)), "it waits for room itself");
        entry.repeats = 1;
        assert!(replaces_stored(Some(&entry)));
        assert!(replaces_stored(Some(&an_entry(State::Done))));
        for state in [State::Failed, State::Deleted] {
            assert!(!replaces_stored(Some(&an_entry(state))));
        }
    }
}
