//! The pipelines of all watched namespaces, from their watch caches.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
