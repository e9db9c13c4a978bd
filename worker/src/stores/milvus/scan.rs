//! Reads whole collections in pages, and describes them, for commands about the life of collections.

use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, DataType, FieldData};

use super::read::unexpected_answer;
use super::{Vectors, code};
use crate::runtime::failure::Failure;

/// Rows of ids in one answer: below gRPC's 4 MiB for ids of up to 500 bytes.
const IDS_AT_ONCE: usize = 8_000;
/// What Milvus says about a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    /// Whether it has LAYRA's fields, and no others.
    pub(crate) has_layras_schema: bool,
}

impl Vectors {
    /// The names of all collections, also of other applications.
    pub(crate) async fn collections(&self) -> Result<Vec<String>, Failure> {
        let request = sdk::ListCollectionsRequest::builder().build()?;
        let answer = self.client.list_collections(request).await?;
        Ok(answer.collection_names().to_vec())
    }

    /// Describes a collection. `None`: it does not exist.
    pub(crate) async fn describe(&self, collection: &str) -> Result<Option<Description>, Failure> {
        let request = sdk::DescribeCollectionRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = match self.client.describe_collection(request).await {
            Ok(answer) => answer,
            Err(sdk::Error::Server(error)) if code::is_collection_not_found(&error) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let description = answer.description();
        let fields = description.get_schema().get_fields();
        let kinds: Vec<(&str, DataType)> = fields
            .iter()
            .map(|field| (field.get_name(), field.get_data_type()))
            .collect();
        Ok(Some(Description {
            // Milvus' clock: milliseconds, and 18 bits of a counter.
            created_at: i64::try_from(description.get_created_time() >> 18).unwrap_or(i64::MAX),
            has_layras_schema: are_layras(kinds)
                && fields.iter().any(sdk::FieldSchema::is_auto_id)
                && !description.is_dynamic_field_enabled(),
        }))
    }

    /// Whether the collection is in the memory of Milvus, as counts and searches need it.
    pub(crate) async fn is_loaded(&self, collection: &str) -> Result<bool, Failure> {
        let request = sdk::GetLoadStateRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = self.client.get_load_state(request).await?;
        Ok(answer.state() == sdk::LoadState::Loaded)
    }

    /// Number of rows of a collection.
    pub(crate) async fn count_all(&self, collection: &str) -> Result<u64, Failure> {
        self.count(collection, "pk >= 0".to_owned()).await
    }

    /// The keys and files of the first rows whose keys are above `after`, in the order of the keys.
    /// Empty: there are no more.
    pub(crate) async fn file_ids_after(
        &self,
        collection: &str,
        after: i64,
    ) -> Result<Vec<(i64, String)>, Failure> {
        let fields = &["pk", "file_id"];
        let answer = self.page(collection, after, fields, IDS_AT_ONCE).await?;
        let (pks, files) = (int64(&answer, "pk"), text(&answer, "file_id"));
        let (Some(pks), Some(files)) = (pks, files) else {
            return no_rows(&answer);
        };
        let mut rows: Vec<(i64, String)> = pks.into_iter().zip(files).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    /// Milvus answers with the rows of the smallest keys.
    async fn page(
        &self,
        collection: &str,
        after: i64,
        fields: &[&str],
        count: usize,
    ) -> Result<sdk::QueryResults, Failure> {
        let request = sdk::QueryRequest::builder()
            .collection_name(collection)
            .filter(format!("pk > {after}"))
            .output_fields(fields.iter().copied())
            .limit(i64::try_from(count).unwrap_or(i64::MAX))
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        Ok(self.client.query(request).await?.results().clone())
    }
}

fn int64(answer: &sdk::QueryResults, name: &str) -> Option<Vec<i64>> {
    match answer.get_output_field(name) {
        Some(FieldData::Int64 { values, .. }) => Some(values.clone()),
        _ => None,
    }
}

fn text(answer: &sdk::QueryResults, name: &str) -> Option<Vec<String>> {
    match answer.get_output_field(name) {
        Some(FieldData::VarChar { values, .. }) => Some(values.clone()),
        _ => None,
    }
}

/// An answer without rows may lack its columns.
fn no_rows<T>(answer: &sdk::QueryResults) -> Result<Vec<T>, Failure> {
    let columns = answer.get_output_fields();
    let is_empty = columns.iter().all(|column| match column {
        FieldData::Int64 { values, .. } => values.is_empty(),
        FieldData::VarChar { values, .. } => values.is_empty(),
        _ => false,
    });
    if is_empty {
        Ok(Vec::new())
    } else {
        Err(unexpected_answer())
    }
}

/// Whether these are the fields of LAYRA's collections.
fn are_layras(mut fields: Vec<(&str, DataType)>) -> bool {
    fields.sort_unstable_by_key(|(name, _)| *name);
    fields
        == [
            ("file_id", DataType::VarChar),
            ("image_id", DataType::VarChar),
            ("page_number", DataType::Int64),
            ("pk", DataType::Int64),
            ("vector", DataType::FloatVector),
        ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_with_another_field_is_another_applications() {
        let mut fields = vec![
            ("pk", DataType::Int64),
            ("vector", DataType::FloatVector),
            ("image_id", DataType::VarChar),
            ("page_number", DataType::Int64),
            ("file_id", DataType::VarChar),
        ];
        assert!(are_layras(fields.clone()));
        let mut other = fields.clone();
        other[1].1 = DataType::BinaryVector;
        assert!(!are_layras(other));
        fields.push(("colour", DataType::VarChar));
        assert!(!are_layras(fields));
    }
}
