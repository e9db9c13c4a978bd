//! What a person wants to know about collections: their rows and indexes. Reads only.

use layra_crds::FoundIndex;

use super::{Vectors, code, sdk};
use crate::runtime::failure::Failure;

/// A collection as Milvus describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// Rows in segments that were written; Milvus counts the latest ones later.
    pub(crate) rows: u64,
    /// Whether its index is the wanted one.
    pub(crate) has_index_as_wanted: bool,
}

impl Vectors {
    /// The version of the server.
    pub(crate) async fn server_version(&self) -> Result<String, Failure> {
        let request = sdk::GetServerVersionRequest::builder().build()?;
        let answer = self.client.server_version(request).await?;
        Ok(answer.version().to_owned())
    }

    /// Describes a collection; `None` if it was dropped.
    pub(crate) async fn inspect(&self, collection: &str) -> Result<Option<Inspected>, Failure> {
        let request = sdk::GetCollectionStatsRequest::builder()
            .collection_name(collection)
            .build()?;
        let rows = match self.client.get_collection_stats(request).await {
            Ok(answer) => answer.row_count().unwrap_or(0),
            Err(sdk::Error::Server(error)) if code::is_collection_not_found(&error) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(collection)
            .field_name("vector")
            .build()?;
        let has_index_as_wanted = match self.client.describe_index(request).await {
            Ok(answer) => {
                let found = answer.indexes().first().map(found_index);
                self.index.difference(found.as_ref()).is_none()
            }
            Err(sdk::Error::Server(error)) if code::is_index_not_found(&error) => false,
            Err(sdk::Error::Server(error)) if code::is_collection_not_found(&error) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Inspected {
            rows: u64::try_from(rows).unwrap_or(0),
            has_index_as_wanted,
        }))
    }
}

/// For the comparison with the object's index.
pub(super) fn found_index(index: &sdk::IndexDesc) -> FoundIndex {
    let index_type = format!("{:?}", index.get_index_type());
    let metric = format!("{:?}", index.get_metric_type());
    FoundIndex::new(&index_type, &metric, index.get_extra_params())
}
