//! Names, descriptions, indexes and loaded state of collections.

use layra_crds::FoundIndex;
use milvus::v2::prelude as sdk;
use sdk::{DataType, IndexStateCode, LoadState};

use super::{Vectors, code, inspect};
use crate::runtime::failure::Failure;

/// A collection as Milvus describes it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// The same under every name.
    pub(crate) id: i64,
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) dynamic: bool,
    /// Whether it has LAYRA's fields, and no others.
    pub(crate) has_layras_schema: bool,
    /// What keeps it from being copied, for people. `None`: nothing.
    pub(crate) obstacle: Option<String>,
    schema: sdk::CollectionSchema,
    shards: i64,
    consistency: sdk::ConsistencyLevel,
    pub(crate) dimensions: usize,
}

/// The index of a collection's vectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexState {
    /// For the comparison with the object's.
    pub(crate) found: FoundIndex,
    /// Rows that it covers, or will cover: those that are sealed.
    pub(crate) rows: u64,
    /// Whether it covers them.
    pub(crate) is_built: bool,
    /// Why building failed.
    pub(crate) failure: Option<String>,
}

/// Whether a collection is in Milvus' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loading {
    Not,
    Loads,
    Loaded,
}

impl Vectors {
    /// The names of all collections, also of other applications.
    pub(crate) async fn collection_names(&self) -> Result<Vec<String>, Failure> {
        let all = self.collection_ids().await?;
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    /// The same, each with Milvus' id.
    pub(super) async fn collection_ids(&self) -> Result<Vec<(String, i64)>, Failure> {
        let request = sdk::ListCollectionsRequest::builder().build()?;
        let answer = self.client.list_collections(request).await?;
        let all = answer.collections().iter();
        Ok(all
            .map(|it| (it.get_name().to_owned(), it.get_id()))
            .collect())
    }

    /// `None`: the collection does not exist.
    pub(crate) async fn describe(&self, name: &str) -> Result<Option<Described>, Failure> {
        let request = sdk::DescribeCollectionRequest::builder()
            .collection_name(name)
            .build()?;
        let answer = match self.client.describe_collection(request).await {
            Err(sdk::Error::Server(error)) if code::is_collection_not_found(&error) => {
                return Ok(None);
            }
            answer => answer?,
        };
        let found = answer.description();
        let schema = found.get_schema().clone();
        let dimensions = schema.get_fields().iter();
        let dimensions = dimensions
            .filter(|field| field.get_name() == "vector")
            .map(sdk::FieldSchema::get_dimension)
            .next();
        Ok(Some(Described {
            id: found.get_collection_id(),
            // Milvus' clock: milliseconds, and 18 bits of a counter.
            created_at: i64::try_from(found.get_created_time() >> 18).unwrap_or(i64::MAX),
            has_layras_schema: schema_obstacle(&schema).is_none(),
            dynamic: schema.is_dynamic_field_enabled(),
            obstacle: obstacle(found),
            shards: found.get_num_shards(),
            consistency: found.get_consistency_level(),
            dimensions: dimensions.unwrap_or_default() as usize,
            schema,
        }))
    }

    /// Creates a collection for the vectors of this model, without an index.
    pub(crate) async fn create_for_model(&self, name: &str) -> Result<(), Failure> {
        Ok(self.create_collection(name).await?)
    }

    /// Creates a collection with the schema of another one, without an index.
    pub(crate) async fn create_like(&self, name: &str, model: &Described) -> Result<(), Failure> {
        let request = sdk::CreateCollectionRequest::builder()
            .collection_name(name)
            .schema(model.schema.clone())
            .num_shards(i32::try_from(model.shards).unwrap_or(1).max(1))
            .consistency_level(model.consistency)
            .build()?;
        Ok(self.client.create_collection(request).await?)
    }

    /// Creates the object's index, unless the collection has one.
    pub(crate) async fn ensure_index(&self, name: &str) -> Result<(), Failure> {
        if !self.has_index(name).await? {
            self.create_index(name).await?;
        }
        Ok(())
    }

    /// Drops the index of the vectors. The collection must be released.
    pub(crate) async fn drop_index(&self, name: &str) -> Result<(), Failure> {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(name)
            .field_name("vector")
            .build()?;
        let found = match self.client.describe_index(request).await {
            Err(sdk::Error::Server(error)) if code::is_index_not_found(&error) => return Ok(()),
            found => found?,
        };
        for index in found.indexes() {
            let request = sdk::DropIndexRequest::builder()
                .collection_name(name)
                .field_name("vector")
                .index_name(index.get_index_name())
                .build()?;
            self.client.drop_index(request).await?;
        }
        Ok(())
    }

    /// The index of the vectors. `None`: there is none.
    pub(crate) async fn index_state(&self, name: &str) -> Result<Option<IndexState>, Failure> {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(name)
            .field_name("vector")
            .build()?;
        let answer = match self.client.describe_index(request).await {
            Err(sdk::Error::Server(error)) if code::is_index_not_found(&error) => return Ok(None),
            answer => answer?,
        };
        Ok(answer.indexes().first().map(index_state))
    }

    /// Loads a collection and does not wait for it.
    pub(crate) async fn begin_load(&self, name: &str) -> Result<(), Failure> {
        let request = sdk::LoadCollectionRequest::builder()
            .collection_name(name)
            .sync(false)
            .build()?;
        Ok(self.client.load_collection(request).await?)
    }

    pub(crate) async fn is_loaded(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.load_state(name).await? == Loading::Loaded)
    }

    pub(crate) async fn load_state(&self, name: &str) -> Result<Loading, Failure> {
        let request = sdk::GetLoadStateRequest::builder()
            .collection_name(name)
            .build()?;
        let answer = self.client.get_load_state(request).await?;
        Ok(match answer.state() {
            LoadState::Loaded => Loading::Loaded,
            LoadState::Loading => Loading::Loads,
            _ => Loading::Not,
        })
    }

    pub(crate) async fn release(&self, name: &str) -> Result<(), Failure> {
        let request = sdk::ReleaseCollectionRequest::builder()
            .collection_name(name)
            .build()?;
        Ok(self.client.release_collection(request).await?)
    }

    /// Seals what was inserted so far, so that it is indexed. The server limits how often.
    pub(crate) async fn flush(&self, name: &str) -> Result<(), Failure> {
        let request = sdk::FlushRequest::builder()
            .collection_names([name])
            .build()?;
        self.client.flush(request).await?;
        Ok(())
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let request = sdk::RenameCollectionRequest::builder()
            .collection_name(from)
            .new_collection_name(to)
            .build()?;
        Ok(self.client.rename_collection(request).await?)
    }

    /// The number of rows as Milvus estimates it without reading them: deleted ones may count, and
    /// the latest may not.
    pub(crate) async fn estimated_rows(&self, name: &str) -> Result<u64, Failure> {
        let request = sdk::GetCollectionStatsRequest::builder()
            .collection_name(name)
            .build()?;
        let answer = self.client.get_collection_stats(request).await?;
        Ok(u64::try_from(answer.row_count().unwrap_or_default()).unwrap_or_default())
    }

    /// The number of all rows, including the latest. The collection must be loaded.
    pub(crate) async fn count_all(&self, name: &str) -> Result<u64, Failure> {
        self.count(name, "pk > 0".to_owned()).await
    }
}

fn index_state(index: &sdk::IndexDesc) -> IndexState {
    let failure = index.get_state() == IndexStateCode::Failed;
    IndexState {
        found: inspect::found_index(index),
        rows: u64::try_from(index.get_total_rows()).unwrap_or_default(),
        is_built: index.get_state() == IndexStateCode::Finished && index.get_pending_rows() == 0,
        failure: failure.then(|| index.get_failure_reason().to_owned()),
    }
}

/// Why a collection cannot be copied.
fn obstacle(found: &sdk::CollectionDesc) -> Option<String> {
    if let Some(obstacle) = schema_obstacle(found.get_schema()) {
        return Some(obstacle);
    }
    if found.get_num_partitions() > 1 {
        return Some(format!("it has {} partitions", found.get_num_partitions()));
    }
    let aliases = found.get_aliases();
    (!aliases.is_empty()).then(|| format!("it has the alias {}", aliases.join(", ")))
}

/// How a schema differs from that of LAYRA's collections. Whether there may be further fields
/// without a schema differs: nobody writes any.
fn schema_obstacle(schema: &sdk::CollectionSchema) -> Option<String> {
    let expected = [
        ("pk", DataType::Int64),
        ("vector", DataType::FloatVector),
        ("image_id", DataType::VarChar),
        ("page_number", DataType::Int64),
        ("file_id", DataType::VarChar),
    ];
    let fields = schema.get_fields().iter();
    let fields: Vec<&sdk::FieldSchema> = fields.filter(|field| !field.is_dynamic()).collect();
    let has = |(name, kind): &(&str, DataType)| {
        let field = fields.iter().find(|field| field.get_name() == *name);
        field.is_some_and(|field| field.get_data_type() == *kind)
    };
    if fields.len() != expected.len() || !expected.iter().all(has) {
        let names: Vec<&str> = fields.iter().map(|field| field.get_name()).collect();
        return Some(format!(
            "its fields are {}, those of LAYRA are pk, vector, image_id, page_number, file_id",
            names.join(", ")
        ));
    }
    let is_automatic = |field: &&sdk::FieldSchema| field.get_name() == "pk" && field.is_auto_id();
    (!fields.iter().any(is_automatic)).then(|| "its primary keys are not automatic".to_owned())
}

#[cfg(test)]
mod tests {
    use sdk::FieldSchema;

    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> sdk::CollectionSchema {
        fields
            .iter()
            .fold(sdk::CollectionSchema::new(), |schema, (name, kind)| {
                let field = FieldSchema::new().name(*name).data_type(*kind);
                schema.add_field(field.auto_id(*name == "pk"))
            })
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
        assert_eq!(schema_obstacle(&schema(&fields)), None);
        let mut other = fields.clone();
        other[1].1 = DataType::BinaryVector;
        assert!(schema_obstacle(&schema(&other)).is_some());
        fields.push(("colour", DataType::VarChar));
        assert!(
            schema_obstacle(&schema(&fields))
                .unwrap()
                .contains("colour")
        );
    }
}
