//! Reads whole collections in pages, and describes them, for commands about the life of collections.

use milvus::v2::prelude as sdk;
use sdk::{ConsistencyLevel, DataType, FieldData};

use super::read::unexpected_answer;
use super::{INSERT_BYTES, Vectors, code};
use crate::runtime::failure::Failure;

/// Rows of ids in one answer: below gRPC's 4 MiB for ids of up to 500 bytes.
const IDS_AT_ONCE: usize = 8_000;
/// Bytes of rows with their vectors in one answer: half of gRPC's 4 MiB.
const ROW_BYTES_AT_ONCE: usize = 2 << 20;
/// What a row has besides its vector: two ids and two numbers, at twice their usual length.
const OTHER_BYTES: usize = 512;

/// A row of a collection, with all its fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) pk: i64,
    pub(crate) image_id: String,
    /// `page_number`, from 0.
    pub(crate) page: i64,
    pub(crate) file_id: String,
    pub(crate) vector: Vec<f32>,
}

/// What Milvus says about a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    /// Whether it has LAYRA's fields, and no others.
    pub(crate) has_layras_schema: bool,
    /// Width of its vectors.
    pub(crate) dimensions: usize,
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
        let vector = fields.iter().find(|field| field.get_name() == "vector");
        let dimensions = vector.map_or(0, sdk::FieldSchema::get_dimension);
        // Whether there may be further fields without a schema differs: nobody writes any.
        let kinds: Vec<(&str, DataType)> = fields
            .iter()
            .filter(|field| !field.is_dynamic())
            .map(|field| (field.get_name(), field.get_data_type()))
            .collect();
        Ok(Some(Description {
            // Milvus' clock: milliseconds, and 18 bits of a counter.
            created_at: i64::try_from(description.get_created_time() >> 18).unwrap_or(i64::MAX),
            has_layras_schema: are_layras(kinds) && fields.iter().any(sdk::FieldSchema::is_auto_id),
            dimensions: usize::try_from(dimensions).unwrap_or(usize::MAX),
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

    /// Releases a collection from the memory of Milvus. The next write or search loads it.
    pub(crate) async fn release(&self, collection: &str) -> Result<(), Failure> {
        let request = sdk::ReleaseCollectionRequest::builder()
            .collection_name(collection)
            .build()?;
        Ok(self.client.release_collection(request).await?)
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

    /// The first rows whose keys are above `after`, in the order of the keys. `dimensions` is the
    /// width of their vectors. Empty: there are no more.
    pub(crate) async fn rows_after(
        &self,
        collection: &str,
        after: i64,
        dimensions: usize,
    ) -> Result<Vec<Row>, Failure> {
        let fields = &["pk", "vector", "image_id", "page_number", "file_id"];
        let count = rows_at_once(dimensions);
        let answer = self.page(collection, after, fields, count).await?;
        let vectors = match answer.get_output_field("vector") {
            Some(FieldData::FloatVector { values, .. }) => Some(values),
            _ => None,
        };
        let (Some(pks), Some(vectors), Some(images), Some(pages), Some(files)) = (
            int64(&answer, "pk"),
            vectors,
            text(&answer, "image_id"),
            int64(&answer, "page_number"),
            text(&answer, "file_id"),
        ) else {
            return no_rows(&answer);
        };
        let columns = pks.into_iter().zip(vectors).zip(images).zip(pages);
        let mut rows: Vec<Row> = columns
            .zip(files)
            .map(|((((pk, vector), image_id), page), file_id)| Row {
                pk,
                image_id,
                page,
                file_id,
                vector: vector.clone(),
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.pk);
        Ok(rows)
    }

    /// Inserts rows of any files. They get new keys.
    pub(crate) async fn insert_rows(&self, collection: &str, rows: &[Row]) -> Result<(), Failure> {
        let dimensions = rows.first().map_or(0, |row| row.vector.len());
        let at_once = (INSERT_BYTES / (dimensions * size_of::<f32>() + OTHER_BYTES)).max(1);
        for chunk in rows.chunks(at_once) {
            let text = |name: &str, of: fn(&Row) -> &String| FieldData::VarChar {
                name: name.into(),
                values: chunk.iter().map(|row| of(row).clone()).collect(),
            };
            let columns = vec![
                FieldData::FloatVector {
                    name: "vector".into(),
                    values: chunk.iter().map(|row| row.vector.clone()).collect(),
                },
                text("image_id", |row| &row.image_id),
                FieldData::Int64 {
                    name: "page_number".into(),
                    values: chunk.iter().map(|row| row.page).collect(),
                },
                text("file_id", |row| &row.file_id),
            ];
            let request = sdk::InsertRequest::builder()
                .collection_name(collection)
                .columns(columns)
                .build()?;
            self.client.insert(request).await?;
        }
        Ok(())
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
        FieldData::FloatVector { values, .. } => values.is_empty(),
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

/// Rows of this width that fit into one answer.
fn rows_at_once(dimensions: usize) -> usize {
    let row_bytes = dimensions
        .saturating_mul(size_of::<f32>())
        .saturating_add(OTHER_BYTES);
    (ROW_BYTES_AT_ONCE / row_bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_one_request_fit_into_an_answer_whatever_their_width() {
        for dimensions in [1, 128, 384, 4096, 32_768] {
            let rows = rows_at_once(dimensions);
            assert!(rows >= 1);
            assert!(rows * (dimensions * 4 + OTHER_BYTES) <= ROW_BYTES_AT_ONCE);
        }
        assert!(rows_at_once(128) > 1_000);
        assert_eq!(rows_at_once(usize::MAX), 1);
    }

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
