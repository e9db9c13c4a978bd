//! The operator's access to Milvus: finds the collections of a pipeline whose index differs from the
//! spec. It only reads; it never creates, changes, loads or drops anything.

mod check;
mod clients;
mod watch;

use layra_crds::{DriftedCollection, FoundIndex};
use milvus::v2::prelude::{
    ClientV2, DescribeIndexRequest, Error, GetCollectionStatsRequest, IndexDesc,
};

pub(crate) use check::CollectionSizes;
pub(crate) use clients::MilvusClients;
pub(crate) use watch::{IndexWatch, Pace};

/// The vector field of a collection.
const VECTOR_FIELD: &str = "vector";
/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexReport {
    /// Number of the pipeline's collections.
    pub(crate) collections: usize,
    /// Number of those that were checked so far.
    pub(crate) checked: usize,
    /// Number of those whose index differs from the spec.
    pub(crate) drifted: usize,
    /// Number of those that are mended at once: without vectors, or without an index. Not counted
    /// while drift is only reported.
    pub(crate) urgent: usize,
    /// The first of these by name.
    pub(crate) examples: Vec<DriftedCollection>,
}

/// Why a check has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MilvusError {
    /// No answer, or an unexpected one.
    #[error("{0}")]
    Unreachable(String),
    /// The token was rejected.
    #[error("{0}")]
    Unauthenticated(String),
}

/// What Milvus says about the index of a collection's vector field.
enum Described {
    Index(FoundIndex),
    NoIndex,
    /// The collection was dropped since it was listed.
    Dropped,
}

async fn describe_index(client: &ClientV2, collection: &str) -> Result<Described, MilvusError> {
    let request = DescribeIndexRequest::builder()
        .collection_name(collection)
        .field_name(VECTOR_FIELD)
        .build()
        .map_err(|error| from_client(&error))?;
    match client.describe_index(request).await {
        Ok(response) => Ok(response
            .indexes()
            .iter()
            .find(|index| index.get_field_name() == VECTOR_FIELD)
            .map_or(Described::NoIndex, |index| {
                Described::Index(found_index(index))
            })),
        Err(error) if is_index_missing(&error) => Ok(Described::NoIndex),
        Err(error) if is_collection_missing(&error) => Ok(Described::Dropped),
        Err(error) => Err(from_client(&error)),
    }
}

/// The number of vectors in a collection, `None` if it does not exist. Those of the last seconds may
/// not be counted yet: the Job that rebuilds collections counts again.
async fn vectors(client: &ClientV2, collection: &str) -> Result<Option<u64>, MilvusError> {
    let request = GetCollectionStatsRequest::builder()
        .collection_name(collection)
        .build()
        .map_err(|error| from_client(&error))?;
    match client.get_collection_stats(request).await {
        Ok(answer) => Ok(answer.row_count().and_then(|rows| u64::try_from(rows).ok())),
        Err(error) if is_collection_missing(&error) => Ok(None),
        Err(error) => Err(from_client(&error)),
    }
}

fn found_index(index: &IndexDesc) -> FoundIndex {
    let index_type = format!("{:?}", index.get_index_type());
    let metric = format!("{:?}", index.get_metric_type());
    FoundIndex::new(&index_type, &metric, index.get_extra_params())
}

/// Code 700 since Milvus 2.3, or the older code.
fn is_index_missing(error: &Error) -> bool {
    matches!(error, Error::Server(server) if server.code() == 700 || server.legacy_code() == 25)
}

/// Code 100 since Milvus 2.3, or the older code.
fn is_collection_missing(error: &Error) -> bool {
    matches!(error, Error::Server(server) if server.code() == 100 || server.legacy_code() == 4)
}

fn from_client(error: &Error) -> MilvusError {
    let text = error.to_string();
    if text.contains("auth check failure") || text.contains("Unauthenticated") {
        MilvusError::Unauthenticated(text)
    } else {
        MilvusError::Unreachable(text)
    }
}
