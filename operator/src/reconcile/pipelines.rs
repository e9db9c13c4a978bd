//! The pipelines of all watched namespaces, from their watch caches.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use kube::runtime::reflector::{self, Store, store::Writer};
use layra_crds::IngestionPipeline;

/// How long the pipelines of one namespace wait for the first list of another, at the start: its
/// watch may be refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// The watch caches of all namespaces.
#[derive(Default)]
pub(crate) struct Pipelines(Mutex<Vec<Store<IngestionPipeline>>>);

/// The two ends of the watch cache of one namespace.
pub(crate) type PipelineCache = (Store<IngestionPipeline>, Writer<IngestionPipeline>);

impl Pipelines {
    /// The cache of one more namespace.
    pub(crate) fn add(&self) -> PipelineCache {
        let (store, writer) = reflector::store();
        self.lock().push(store.clone());
        (store, writer)
    }

    /// Waits until every cache has its first list. One that does not get it in time is left out.
    pub(super) async fn wait_until_listed(&self) {
        let stores = self.lock().clone();
        let listed = stores.iter().map(Store::wait_until_ready);
        let all = futures::future::join_all(listed);
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!(
                "the pipelines of a watched namespace are not listed yet, so conflicts with them are not found"
            );
        }
    }

    /// Whether every cache has its first list.
    pub(super) fn are_listed(&self) -> bool {
        let stores = self.lock();
        let is_listed = |store: &Store<_>| {
            let listed = store.wait_until_ready().now_or_never();
            listed.is_some_and(|listed| listed.is_ok())
        };
        stores.iter().all(is_listed)
    }

    /// The pipelines of all namespaces that fulfil the predicate.
    pub(super) fn filter(
        &self,
        predicate: impl Fn(&IngestionPipeline) -> bool,
    ) -> Vec<Arc<IngestionPipeline>> {
        let stores = self.lock();
        let found = stores
            .iter()
            .flat_map(|store| store.state_filter(&predicate));
        found.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Store<IngestionPipeline>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;

    use super::*;

    #[test]
    fn pipelines_are_listed_when_every_namespace_is() {
        let pipelines = Pipelines::default();
        let mut writers = [pipelines.add().1, pipelines.add().1];
        for writer in &mut writers {
            assert!(!pipelines.are_listed());
            writer.apply_watcher_event(&Event::Init);
            writer.apply_watcher_event(&Event::InitDone);
        }
        assert!(pipelines.are_listed());
    }
}
