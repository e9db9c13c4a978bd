//! Looks for collections of another model, in the background: the operator reads MongoDB through the
//! workers, and decides what becomes of them.

use std::time::Duration;

use super::Pipeline;

/// How often a worker looks.
const INTERVAL: Duration = Duration::from_secs(15);

impl Pipeline {
    /// Reports collections whose vectors are of another model, until the worker ends.
    pub(crate) async fn watch_models(&self) {
        let health = self.retry.health();
        loop {
            let found = self.stores.vectors.of_other_models(&self.stores.milvus);
            match found.await {
                Ok(found) => health.found_other_models(found),
                Err(error) => {
                    tracing::warn!(%error, "models of collections not read, will retry");
                    // What was found before may be over.
                    health.found_other_models(None);
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
