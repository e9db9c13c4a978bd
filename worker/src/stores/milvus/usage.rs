//! How much the collections hold, for quotas.

use milvus::v2::prelude as sdk;
use sdk::ConsistencyLevel;

use super::{Vectors, code};
use crate::runtime::failure::{Failure, Reason};

impl Vectors {
    /// Number of rows of a collection. Deleted rows do not count, except in a collection that is not
    /// loaded: there Milvus' own statistics count, which have them until it compacts. `None`: the
    /// collection does not exist.
    pub(crate) async fn count_rows(&self, collection: &str) -> Result<Option<u64>, Failure> {
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .output_fields(["count(*)"])
            // Some seconds do not matter, and nobody waits for the latest write.
            .consistency_level(ConsistencyLevel::Bounded)
            .build()?;
        let answer = match self.client.query(request).await {
            Ok(answer) => answer,
            Err(sdk::Error::Server(error)) if code::is_not_loaded(&error) => {
                return self.stored_rows(collection).await;
            }
            Err(error) => return self.none_if_gone(collection, error.into()).await,
        };
        let mut rows = answer.results().rows()?;
        let count = rows.next().and_then(|row| row.get_i64("count(*)").ok());
        Ok(Some(number(count)))
    }

    async fn stored_rows(&self, collection: &str) -> Result<Option<u64>, Failure> {
        let request = sdk::GetCollectionStatsRequest::builder()
            .collection_name(collection)
            .build()?;
        match self.client.get_collection_stats(request).await {
            Ok(answer) => Ok(Some(number(answer.row_count()))),
            Err(error) => self.none_if_gone(collection, error.into()).await,
        }
    }

    /// A collection that a rebuild swaps is not gone, and does not count as a further one.
    async fn none_if_gone(
        &self,
        collection: &str,
        failure: Failure,
    ) -> Result<Option<u64>, Failure> {
        match self.unless_moving::<u64>(collection, Err(failure)).await {
            Err(failure) if failure.reason == Reason::CollectionGone => Ok(None),
            answer => answer.map(Some),
        }
    }
}

fn number(count: Option<i64>) -> u64 {
    count
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or(0)
}
