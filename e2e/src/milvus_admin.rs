//! Creates collections as LAYRA's API does, for tests that need one before a worker creates it.

use std::collections::HashMap;

use anyhow::{Context, Result};
use milvus::v2 as sdk;
use milvus::v2::ClientV2;
use milvus::v2::prelude::{
    CreateCollectionRequest, CreateIndexRequest, DescribeIndexRequest, DropCollectionRequest,
    FlushRequest, IndexParam, IndexType, LoadCollectionRequest, MetricType,
};

/// Creates and loads a collection with LAYRA's schema and index (HNSW, M 16, efConstruction 500).
pub async fn create_like_layra(client: &ClientV2, name: &str, dimensions: u32) -> Result<()> {
    create_unloaded(client, name, dimensions).await?;
    client
        .load_collection(
            LoadCollectionRequest::builder()
                .collection_name(name)
                .build()?,
        )
        .await?;
    Ok(())
}

/// The same, and does not load it.
pub async fn create_unloaded(client: &ClientV2, name: &str, dimensions: u32) -> Result<()> {
    let schema = sdk::CollectionSchema::new()
        .add_field(
            sdk::FieldSchema::new()
                .name("pk")
                .data_type(sdk::DataType::Int64)
                .primary_key(true)
                .auto_id(true),
        )
        .add_field(
            sdk::FieldSchema::new()
                .name("vector")
                .data_type(sdk::DataType::FloatVector)
                .dimension(dimensions),
        )
        .add_field(text("image_id"))
        .add_field(
            sdk::FieldSchema::new()
                .name("page_number")
                .data_type(sdk::DataType::Int64),
        )
        .add_field(text("file_id"));
    client
        .create_collection(
            CreateCollectionRequest::builder()
                .collection_name(name)
                .schema(schema)
                .build()?,
        )
        .await?;
    create_index(client, name, 16).await
}

/// Creates an HNSW index with efConstruction 500.
pub async fn create_index(client: &ClientV2, name: &str, m: u32) -> Result<()> {
    let index = IndexParam::new()
        .field_name("vector")
        .index_name("vector_index")
        .index_type(IndexType::Hnsw)
        .metric_type(MetricType::Ip)
        .extra_params(HashMap::from([
            ("M".into(), m.to_string()),
            ("efConstruction".into(), "500".into()),
        ]));
    client
        .create_index(
            CreateIndexRequest::builder()
                .collection_name(name)
                .index_params(vec![index])
                .build()?,
        )
        .await?;
    Ok(())
}

/// `M` of a collection's index.
pub async fn index_m(client: &ClientV2, name: &str) -> Result<String> {
    let request = DescribeIndexRequest::builder()
        .collection_name(name)
        .field_name("vector")
        .build()?;
    let answer = client.describe_index(request).await?;
    let index = answer.indexes().first().context("an index")?;
    let m = index.get_extra_params().get("M");
    Ok(m.cloned().unwrap_or_default())
}

/// Drops a collection and its vectors.
pub async fn drop(client: &ClientV2, name: &str) -> Result<()> {
    client
        .drop_collection(
            DropCollectionRequest::builder()
                .collection_name(name)
                .build()?,
        )
        .await?;
    Ok(())
}

/// Makes the latest rows part of Milvus's statistics.
pub async fn flush(client: &ClientV2, name: &str) -> Result<()> {
    client
        .flush(FlushRequest::builder().collection_names([name]).build()?)
        .await?;
    Ok(())
}

fn text(name: &str) -> sdk::FieldSchema {
    sdk::FieldSchema::new()
        .name(name)
        .data_type(sdk::DataType::VarChar)
        .max_length(65_535)
}
