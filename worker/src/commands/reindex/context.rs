//! What all rebuilds of a run share.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use layra_crds::{MilvusSpec, ResolvedIndex};
use mongodb::bson::{DateTime, Document};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::reembed::Reembedding;
use super::window::Window;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::metrics::Metrics;
use crate::runtime::retry::Retry;
use crate::stores::archives::{Archives, Record};
use crate::stores::collection_models::CollectionModels;
use crate::stores::ledger::Ledger;
use crate::stores::milvus::{Loading, Vectors};
use crate::stores::mongo::{Documents, pattern_like};
use crate::stores::rebuilds::{Owner, Rebuild, Rebuilds};

/// Between two looks at a server that builds or loads.
const POLL: Duration = Duration::from_millis(500);

/// What all rebuilds of a run share.
pub(super) struct Context {
    pub(super) vectors: Vectors,
    pub(super) documents: Documents,
    pub(super) ledger: Ledger,
    pub(super) rebuilds: Rebuilds,
    pub(super) archives: Archives,
    pub(super) models: CollectionModels,
    /// The model with which collections are embedded again. `None`: their vectors are copied.
    pub(super) reembedding: Option<Reembedding>,
    pub(super) owner: Owner,
    pub(super) milvus: MilvusSpec,
    pub(super) index: ResolvedIndex,
    pub(super) window: Window,
    /// Copies are not filled any more.
    pub(super) only_finishes: bool,
    pub(super) throttle: Throttle,
    pub(super) progress: Arc<Progress>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) retry: Retry,
    pub(super) stop: CancellationToken,
    /// After this time a request that was in flight has landed or failed.
    pub(super) late_writes: Duration,
}

impl Context {
    /// Whether this run continues a rebuild that an earlier one began.
    pub(super) fn continues(&self, rebuild: &Rebuild) -> bool {
        self.reembedding.is_some() == rebuild.model.is_some()
    }

    /// The digest of the model with which collections are embedded again.
    pub(super) fn model_digest(&self) -> Option<&str> {
        let model = self.reembedding.as_ref();
        model.map(|model| model.own().digest.as_str())
    }

    /// Whether nothing further may be begun, and copying pauses.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_cancelled() || !self.window.is_open(Timestamp::now())
    }

    /// Fails with the class `Stopped` once copying must pause.
    pub(super) fn check_time(&self) -> Result<(), Failure> {
        if self.is_over() {
            return Err(Failure::stopped(Stage::Milvus));
        }
        Ok(())
    }

    /// Records fields of a rebuild.
    pub(super) async fn record(
        &self,
        rebuild: &mut Rebuild,
        fields: Document,
    ) -> Result<(), Failure> {
        *rebuild = self
            .rebuilds
            .set(&rebuild.collection, &self.owner, fields)
            .await?;
        Ok(())
    }

    /// Does some work on a rebuild as long as it belongs to this process. Fails with the class
    /// `Superseded`, between two requests, when it may no longer.
    pub(super) async fn owned<T>(
        &self,
        collection: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(self.owner.lasts / 6) => {
                    match self.rebuilds.set(collection, &self.owner, Document::new()).await {
                        Ok(_) => renewed = Instant::now(),
                        // A request takes at most half of the time that the right lasts.
                        Err(failure)
                            if failure.class == Class::Transient
                                && renewed.elapsed() < self.owner.lasts / 2 => {}
                        Err(failure) if failure.class == Class::Transient => {
                            return Err(Failure::superseded(Stage::Mongodb));
                        }
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
    }

    /// Waits until the index of a collection is built for so many rows.
    pub(super) async fn wait_for_index(&self, name: &str, rows: u64) -> Result<(), Failure> {
        loop {
            match self.vectors.index_state(name).await? {
                Some(state) if state.is_built && state.rows >= rows => return Ok(()),
                Some(state) => {
                    if let Some(reason) = state.failure {
                        return Err(super::failed(format!(
                            "the index of {name} was not built: {reason}"
                        )));
                    }
                }
                None => self.vectors.ensure_index(name).await?,
            }
            self.pause(POLL).await?;
        }
    }

    /// Loads a collection and waits for it. Milvus gives up to load one, without a word, for which
    /// it has no memory, or which it was loading when it was restarted.
    pub(super) async fn load(&self, name: &str) -> Result<(), Failure> {
        let mut is_asked = false;
        loop {
            match self.vectors.load_state(name).await? {
                Loading::Loaded => return Ok(()),
                Loading::Loads => {}
                Loading::Not if is_asked => {
                    let message = format!("Milvus gave up to load collection {name}");
                    let reason = Reason::MilvusUnavailable;
                    return Err(Failure::transient(Stage::Milvus, reason, message));
                }
                Loading::Not => {
                    self.vectors.begin_load(name).await?;
                    is_asked = true;
                }
            }
            self.pause(POLL).await?;
        }
    }

    /// Fails with the class `Stopped` when the process must end.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), Failure> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(Failure::stopped(Stage::Milvus)),
        }
    }

    /// The record of an archive that keeps a collection from being rebuilt.
    pub(super) async fn archive_of(&self, collection: &str) -> Result<Option<Record>, Failure> {
        let id = self.milvus.knowledge_base_part(collection);
        let records = self.archives.like(&pattern_like(id)).await?;
        let now = DateTime::now();
        Ok(records.into_iter().find(|record| {
            self.milvus.collection_of(&record.knowledge_base) == collection
                && record.keeps_collection(now)
        }))
    }

    /// Whether the knowledge base of a collection exists.
    pub(super) async fn has_knowledge_base(&self, collection: &str) -> Result<bool, Failure> {
        let id = self.milvus.knowledge_base_part(collection);
        let ids = self.documents.knowledge_bases_like(id).await?;
        Ok(ids
            .iter()
            .any(|id| self.milvus.collection_of(id) == collection))
    }
}

/// Limits the vectors that are copied per second, in all collections together.
#[derive(Debug)]
pub(super) struct Throttle {
    per_second: Option<u32>,
    next: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self {
            per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `rows` may be copied.
    pub(super) async fn wait_for(&self, rows: usize) {
        let Some(per_second) = self.per_second else {
            return;
        };
        let begin = {
            let mut next = self.next.lock().await;
            let begin = (*next).max(Instant::now());
            *next = begin + time_for(rows, per_second);
            begin
        };
        tokio::time::sleep_until(begin.into()).await;
    }
}

fn time_for(rows: usize, per_second: u32) -> Duration {
    Duration::from_secs_f64(rows as f64 / f64::from(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn copying_keeps_to_its_limit() {
        assert_eq!(time_for(50, 100), Duration::from_millis(500));
        let throttle = Throttle::new(Some(1000));
        let began = Instant::now();
        for _page in 0..4 {
            throttle.wait_for(20).await;
        }
        // The last portion is not waited for.
        assert!(began.elapsed() >= Duration::from_millis(60));
        Throttle::new(None).wait_for(usize::MAX).await;
    }
}
