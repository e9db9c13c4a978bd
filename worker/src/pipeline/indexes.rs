//! Looks for indexes that MongoDB lacks, in the background: a build takes minutes, and queries work
//! without.

use std::time::Duration;

use super::Pipeline;
use crate::runtime::failure::Failure;
use crate::stores::mongo::indexes::Needed;

/// How often a worker looks.
const INTERVAL: Duration = Duration::from_mins(10);

impl Pipeline {
    /// Reports missing indexes, and creates them if `manage` is true, until the worker ends.
    pub(crate) async fn watch_indexes(&self, manage: bool) {
        loop {
            if let Err(error) = self.check_indexes(manage).await {
                tracing::warn!(%error, "indexes not checked, will retry");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn check_indexes(&self, manage: bool) -> Result<(), Failure> {
        let documents = &self.stores.documents;
        let mut missing = documents.missing_indexes().await?;
        if manage && !missing.is_empty() {
            for needed in missing {
                tracing::info!(index = %needed, "creating index");
                if let Err(error) = documents.create_index(needed).await {
                    tracing::warn!(index = %needed, %error, "index not created");
                }
            }
            missing = documents.missing_indexes().await?;
        }
        self.report_missing(&missing);
        Ok(())
    }

    fn report_missing(&self, missing: &[&Needed]) {
        for needed in missing {
            tracing::warn!(index = %needed, "index is missing");
        }
        let count = i64::try_from(missing.len()).unwrap_or(i64::MAX);
        self.metrics.missing_indexes.set(count);
        let missing = missing.iter().map(ToString::to_string).collect();
        self.retry.health().indexes_missing(missing);
    }
}
