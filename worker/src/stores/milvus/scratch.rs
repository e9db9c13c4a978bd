//! Temporary collections for measurements: a copy of some vectors with an index of its own.
//!
//! Unlike collections of documents they are flushed, because only flushed rows are indexed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use layra_crds::{IndexKind, MilvusSpec, ResolvedIndex, VectorType};
use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, IndexStateCode, SegmentState};
use tokio::sync::Mutex;

use super::{INDEX_NAME, Vectors, classify};
use crate::runtime::failure::{Failure, Reason, Stage};

/// Beginnings of the names of temporary collections. No template matches both.
const PREFIXES: [&str; 2] = ["layra_tune_", "_layra_tune_"];
/// How often the server is asked whether an index is built or loaded.
const POLL: Duration = Duration::from_millis(200);
/// Longest wait for rows to be flushed.
const FLUSH_MS: i64 = 60_000;
/// Longest wait for an indexed collection to be loaded.
const LOAD_MS: i64 = 60_000;

/// A name for a temporary collection that is not one of the pipeline's documents.
pub(crate) fn scratch_name(spec: &MilvusSpec, rest: &str) -> String {
    let names = PREFIXES.map(|prefix| format!("{prefix}{rest}"));
    let [first, second] = names;
    if spec.owns_collection(&first) {
        second
    } else {
        first
    }
}

/// Whether a collection was named by [`scratch_name`].
pub(crate) fn is_scratch(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

impl Vectors {
    /// The same server, for collections with vectors of this width and format, and an HNSW index. It
    /// does not read the latest writes.
    pub(crate) fn with_hnsw(
        &self,
        (dimensions, vector_type): (usize, VectorType),
        m: u32,
        ef_construction: u32,
    ) -> Self {
        Self {
            client: self.client.clone(),
            index: ResolvedIndex {
                kind: IndexKind::Hnsw { m, ef_construction },
                metric: self.index.metric,
            },
            dimensions,
            vector_type,
            found_types: Arc::clone(&self.found_types),
            // Nothing is written there any more. With Strong each request would wait for the
            // server's clock, up to 0.2 s.
            reads: ConsistencyLevel::Eventually,
            creation: Mutex::new(()),
            rebuilds: None,
            models: None,
        }
    }

    /// Creates a collection without an index. It cannot be searched yet.
    pub(crate) async fn create_scratch(&self, collection: &str) -> Result<(), Failure> {
        self.note_type(collection, self.vector_type);
        Ok(self.create_collection(collection).await?)
    }

    /// Flushes the rows. Milvus limits how often.
    pub(crate) async fn flush_scratch(&self, collection: &str) -> Result<(), Failure> {
        let request = sdk::FlushRequest::builder()
            .collection_names([collection])
            .wait_flushed_ms(FLUSH_MS)
            .build()?;
        self.client.flush(request).await?;
        Ok(())
    }

    /// Indexes flushed rows, and loads them once the index is built. Returns how long the server
    /// took to build it.
    pub(crate) async fn index_scratch(
        &self,
        collection: &str,
        rows: u64,
    ) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.create_index(collection)
            .await
            .map_err(|error| refused(&error))?;
        while !self.is_indexed(collection, rows).await? {
            tokio::time::sleep(POLL).await;
        }
        let took = started.elapsed();
        let request = sdk::LoadCollectionRequest::builder()
            .collection_name(collection)
            .timeout_ms(LOAD_MS)
            .build()?;
        self.client.load_collection(request).await?;
        while !self.searches_use_the_index(collection, rows).await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(took)
    }

    async fn is_indexed(&self, collection: &str, rows: u64) -> Result<bool, Failure> {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(collection)
            .field_name("vector")
            .build()?;
        let answer = self.client.describe_index(request).await?;
        let Some(index) = answer.indexes().first() else {
            return Ok(false);
        };
        if index.get_state() == IndexStateCode::Failed {
            let message = format!("building the index: {}", index.get_failure_reason());
            return Err(Failure::fatal(
                Stage::Milvus,
                Reason::MilvusRefused,
                message,
            ));
        }
        let indexed = u64::try_from(index.get_indexed_rows()).unwrap_or_default();
        Ok(index.get_state() == IndexStateCode::Finished && indexed >= rows)
    }

    /// Rows that are not in a segment with the index would all be compared, which finds everything.
    async fn searches_use_the_index(&self, collection: &str, rows: u64) -> Result<bool, Failure> {
        let request = sdk::ListQuerySegmentsRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = self.client.list_query_segments(request).await?;
        let indexed = answer.segments().iter().filter(|segment| {
            segment.get_state() == SegmentState::Sealed && segment.get_index_name() == INDEX_NAME
        });
        let indexed: i64 = indexed.map(sdk::QuerySegmentInfo::get_row_count).sum();
        Ok(u64::try_from(indexed).unwrap_or_default() >= rows)
    }
}

/// The failure to create an index. A server that does not build one with these values says so with
/// various codes.
fn refused(error: &sdk::Error) -> Failure {
    let failure = classify(error);
    if matches!(error, sdk::Error::Server(_)) && failure.reason == Reason::MilvusUnavailable {
        return Failure::fatal(Stage::Milvus, Reason::MilvusRefused, error);
    }
    failure
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_template_matches_a_temporary_collection(
            prefix in "[A-Za-z_][A-Za-z0-9_]{0,12}|_?l|_?layra_tune_", suffix in "[A-Za-z0-9_]{0,3}",
        ) {
            let spec: MilvusSpec = serde_json::from_value(serde_json::json!({
                "uri": "http://milvus:19530",
                "collection": format!("{prefix}{{knowledge_db_id}}{suffix}"),
            })).unwrap();
            let name = scratch_name(&spec, "0a1b2c3d_32_500");
            prop_assert!(!spec.owns_collection(&name), "{}", name);
            prop_assert!(is_scratch(&name));
        }
    }
}
