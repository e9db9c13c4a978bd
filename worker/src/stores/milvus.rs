//! LAYRA's collections in Milvus: one per knowledge base, one row per vector.
//!
//! Missing collections and indexes are created. A collection is dropped only with its knowledge
//! base. Nothing is flushed: the server limits flushes, and rows are searchable without. Page
//! numbers are 0-based here.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use layra_crds::{IndexType, MetricType, MilvusSpec, ResolvedIndex, VectorType};
use milvus::v2::prelude as sdk;
use sdk::{ClientV2, ConnectConfig, ConsistencyLevel, DataType, FieldData, FieldSchema};
use tokio::sync::Mutex;

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secret;
use crate::stores::rebuilds::Rebuilds;

mod admin;
mod code;
mod copy;
mod inspect;
mod models;
mod moving;
mod pages;
mod paging;
mod places;
mod read;
mod scan;
mod scratch;
mod usage;
mod vector_type;

pub(crate) use admin::{Described, Loading};
pub(crate) use copy::{Choice, Pages, Row};
pub(crate) use inspect::Inspected;
pub(crate) use read::{Hit, SearchLimits};
pub(crate) use scratch::{is_scratch, scratch_name};
pub(crate) use vector_type::rounded;

/// Longest wait for the answer to one request.
pub(crate) const LONGEST_REQUEST: Duration = Duration::from_mins(1);
/// Name of the vector index, as LAYRA names it.
const INDEX_NAME: &str = "vector_index";
/// Longest value of LAYRA's text columns, in bytes.
pub(crate) const TEXT_LENGTH: u32 = 65_535;
/// Bytes of vectors per insert. The server accepts 64 MiB by default.
const INSERT_BYTES: usize = 4 << 20;

/// The collections of one pipeline.
pub(crate) struct Vectors {
    client: ClientV2,
    index: ResolvedIndex,
    dimensions: usize,
    /// Number format of the vectors in collections that are created.
    vector_type: VectorType,
    /// That of the collections that exist, as far as it is known.
    found_types: Arc<StdMutex<HashMap<String, VectorType>>>,
    /// How recent the writes are that a search and the reading of a page see.
    reads: ConsistencyLevel,
    /// Held while a collection is created, so that two documents do not both create it.
    creation: Mutex<()>,
    /// Tells a collection that does not exist from one that is being swapped.
    rebuilds: Option<Rebuilds>,
    /// Keeps vectors of different models apart.
    models: Option<models::Models>,
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors")
            .field("dimensions", &self.dimensions)
            .finish_non_exhaustive()
    }
}

/// The vectors of one page.
#[derive(Clone, Debug)]
pub(crate) struct PageVectors {
    /// `image_id`
    pub(crate) image_id: String,
    /// `page_number`, from 0.
    pub(crate) page: u32,
    /// One row per vector.
    pub(crate) vectors: Vec<Vec<f32>>,
}

impl Vectors {
    /// Connects to Milvus. `authorities` is a file with the certificates to trust instead of those
    /// of the image; `dimensions` is the width of the model's vectors.
    pub(crate) async fn connect(
        spec: &MilvusSpec,
        token: Option<&Secret>,
        authorities: Option<&Path>,
        dimensions: usize,
    ) -> Result<Self, Failure> {
        let mut config = ConnectConfig::new()
            .uri(&spec.uri)
            .connect_timeout(Duration::from_secs(5))
            .rpc_timeout(LONGEST_REQUEST)
            .retry(sdk::RetryConfig::new().max_attempts(1))
            .telemetry(sdk::TelemetryConfig::new().enabled(false));
        if let Some(token) = token {
            config = config.token(token.reveal());
        }
        if let Some(file) = authorities {
            config = config.ca_certificate(file.to_string_lossy());
        }
        let client = ClientV2::new(&config).await?;
        Ok(Self {
            client,
            index: spec.index.resolved(),
            dimensions,
            vector_type: spec.vector_type,
            found_types: Arc::default(),
            reads: ConsistencyLevel::Strong,
            creation: Mutex::new(()),
            rebuilds: None,
            models: None,
        })
    }

    /// Fails if the server does not respond, or is too old for the settings.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        let request = sdk::ListCollectionsRequest::builder().build()?;
        self.client.list_collections(request).await?;
        self.check_server().await
    }

    /// Creates the collection with its index, unless they exist, and loads it.
    pub(crate) async fn ensure_collection(&self, collection: &str) -> Result<(), Failure> {
        let _guard = self.creation.lock().await;
        if !self.has_collection(collection).await? {
            tracing::info!(
                collection,
                dimensions = self.dimensions,
                "creating collection"
            );
            self.create_collection(collection).await?;
        }
        let prepared = self.prepare_collection(collection).await;
        self.unless_moving(collection, prepared).await
    }

    async fn prepare_collection(&self, collection: &str) -> Result<(), Failure> {
        let id = self.check_vectors(collection, models::Use::Write).await?;
        self.enter_model(collection, id).await?;
        // A worker may have died between these two steps.
        if !self.has_index(collection).await? {
            self.create_index(collection).await?;
        }
        self.load(collection).await
    }

    /// Loads a collection into the memory of Milvus, unless it is there.
    pub(crate) async fn load(&self, collection: &str) -> Result<(), Failure> {
        let request = sdk::LoadCollectionRequest::builder()
            .collection_name(collection)
            .timeout_ms(60_000)
            .build()?;
        Ok(self.client.load_collection(request).await?)
    }

    /// Inserts the vectors of some pages of a file. Returns the number of rows.
    pub(crate) async fn insert(
        &self,
        collection: &str,
        file_id: &str,
        pages: &[PageVectors],
    ) -> Result<u64, Failure> {
        let vector_type = self.type_of(collection).await?;
        let row_bytes = self.dimensions * vector_type.bytes() + file_id.len() + 64;
        let rows_at_once = (INSERT_BYTES / row_bytes).max(1);
        let rows: Vec<(&PageVectors, &Vec<f32>)> = pages
            .iter()
            .flat_map(|page| page.vectors.iter().map(move |vector| (page, vector)))
            .collect();
        for chunk in rows.chunks(rows_at_once) {
            self.check_insert(collection).await?;
            let columns = vec![
                vector_type::column(
                    vector_type,
                    chunk.iter().map(|(_, vector)| vector.as_slice()),
                ),
                FieldData::VarChar {
                    name: "image_id".into(),
                    values: chunk
                        .iter()
                        .map(|(page, _)| page.image_id.clone())
                        .collect(),
                },
                FieldData::Int64 {
                    name: "page_number".into(),
                    values: chunk.iter().map(|(page, _)| i64::from(page.page)).collect(),
                },
                FieldData::VarChar {
                    name: "file_id".into(),
                    values: vec![file_id.to_owned(); chunk.len()],
                },
            ];
            let request = sdk::InsertRequest::builder()
                .collection_name(collection)
                .columns(columns)
                .build()?;
            let inserted = self.client.insert(request).await;
            self.unless_moving(collection, inserted.map_err(Failure::from))
                .await?;
        }
        Ok(rows.len() as u64)
    }

    /// Deletes the rows of a file.
    pub(crate) async fn delete_file(&self, collection: &str, file_id: &str) -> Result<(), Failure> {
        self.delete(collection, &format!("file_id in [{}]", quote(file_id)))
            .await
    }

    /// Deletes the rows of a page range of a file. Pages are counted from 0.
    pub(crate) async fn delete_range(
        &self,
        collection: &str,
        file_id: &str,
        pages: Range<u32>,
    ) -> Result<(), Failure> {
        self.delete(collection, &range_filter(file_id, &pages))
            .await
    }

    /// Drops a collection, if it exists.
    pub(crate) async fn drop_collection(&self, collection: &str) -> Result<(), Failure> {
        self.forget_type(collection);
        if !self.has_collection(collection).await? {
            return Ok(());
        }
        let id = self.id_to_forget(collection).await?;
        let request = sdk::DropCollectionRequest::builder()
            .collection_name(collection)
            .build()?;
        self.client.drop_collection(request).await?;
        self.forget_model(id).await
    }

    /// Deletes the rows of some pages.
    pub(crate) async fn delete_pages(
        &self,
        collection: &str,
        image_ids: impl Iterator<Item = &str>,
    ) -> Result<(), Failure> {
        let list: Vec<String> = image_ids.map(quote).collect();
        self.delete(collection, &format!("image_id in [{}]", list.join(", ")))
            .await
    }

    async fn delete(&self, collection: &str, filter: &str) -> Result<(), Failure> {
        let request = sdk::DeleteRequest::builder()
            .collection_name(collection)
            .filter(filter)
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let mut deleted = self.client.delete(request.clone()).await;
        if self.load_if_released(collection, &deleted).await? {
            deleted = self.client.delete(request).await;
        }
        let deleted = self.unless_moving(collection, deleted.map_err(Failure::from));
        deleted.await.map(drop)
    }

    async fn create_collection(&self, collection: &str) -> Result<(), sdk::Error> {
        let text = |name: &str| {
            FieldSchema::new()
                .name(name)
                .data_type(DataType::VarChar)
                .max_length(TEXT_LENGTH)
        };
        let dimensions = u32::try_from(self.dimensions).unwrap_or(u32::MAX);
        let schema = sdk::CollectionSchema::new()
            // As LAYRA's. The client's default is with it.
            .enable_dynamic_field(false)
            .add_field(
                FieldSchema::new()
                    .name("pk")
                    .data_type(DataType::Int64)
                    .primary_key(true)
                    .auto_id(true),
            )
            .add_field(
                FieldSchema::new()
                    .name("vector")
                    .data_type(vector_type::in_milvus(self.vector_type))
                    .dimension(dimensions),
            )
            .add_field(text("image_id"))
            .add_field(
                FieldSchema::new()
                    .name("page_number")
                    .data_type(DataType::Int64),
            )
            .add_field(text("file_id"));
        let request = sdk::CreateCollectionRequest::builder()
            .collection_name(collection)
            .schema(schema)
            .consistency_level(ConsistencyLevel::Bounded)
            .build()?;
        self.client.create_collection(request).await
    }

    async fn create_index(&self, collection: &str) -> Result<(), sdk::Error> {
        let kind = match self.index.index_type() {
            IndexType::Hnsw => sdk::IndexType::Hnsw,
            IndexType::Flat => sdk::IndexType::Flat,
            IndexType::IvfFlat => sdk::IndexType::IvfFlat,
        };
        let parameters: HashMap<_, _> = self
            .index
            .parameters()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .collect();
        let index = sdk::IndexParam::new()
            .field_name("vector")
            .index_name(INDEX_NAME)
            .index_type(kind)
            .metric_type(metric(self.index.metric))
            .extra_params(parameters);
        let request = sdk::CreateIndexRequest::builder()
            .collection_name(collection)
            .index_param(index)
            .sync(false)
            .build()?;
        self.client.create_index(request).await
    }

    async fn has_index(&self, collection: &str) -> Result<bool, Failure> {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(collection)
            .field_name("vector")
            .build()?;
        match self.client.describe_index(request).await {
            Ok(answer) => Ok(!answer.indexes().is_empty()),
            Err(sdk::Error::Server(error)) if code::is_index_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Fails if a vector has a value that is not a finite number. Milvus would refuse it, with all others
/// of the request.
pub(crate) fn check_finite(pages: &[PageVectors]) -> Result<(), Failure> {
    let is_finite =
        |page: &&PageVectors| page.vectors.iter().flatten().all(|value| value.is_finite());
    let Some(page) = pages.iter().find(|page| !is_finite(page)) else {
        return Ok(());
    };
    let message = format!(
        "the model computed a value for page {} that is not a finite number",
        page.page + 1
    );
    Err(Failure::permanent(
        Stage::Embed,
        Reason::VectorsNotFinite,
        message,
    ))
}

fn metric(metric: MetricType) -> sdk::MetricType {
    match metric {
        MetricType::Ip => sdk::MetricType::Ip,
        MetricType::Cosine => sdk::MetricType::Cosine,
    }
}

/// The filter for a page range of a file.
fn range_filter(file_id: &str, pages: &Range<u32>) -> String {
    format!(
        "file_id in [{}] and page_number >= {} and page_number < {}",
        quote(file_id),
        pages.start,
        pages.end
    )
}

/// The filter for rows whose `field` is one of these texts.
fn one_of(field: &str, texts: &[String]) -> String {
    let list: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("{field} in [{}]", list.join(", "))
}

/// A string literal of Milvus' filter language.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl From<sdk::Error> for Failure {
    fn from(error: sdk::Error) -> Self {
        classify(&error)
    }
}

/// Finds the class and the reason of a client's error. An error that neither the document nor the
/// configuration causes counts as the server's.
fn classify(error: &sdk::Error) -> Failure {
    match error {
        sdk::Error::RetryExhausted { source, .. } => classify(source),
        sdk::Error::Server(server) if code::is_collection_not_found(server) => {
            let message =
                "the collection of the knowledge base was dropped while the document was processed";
            Failure::permanent(Stage::Milvus, Reason::CollectionGone, message)
        }
        sdk::Error::Server(server) if code::is_forbidden(server) => {
            Failure::fatal(Stage::Milvus, Reason::MilvusForbidden, error)
        }
        sdk::Error::Server(server) if code::is_throttled(server) => {
            Failure::transient(Stage::Milvus, Reason::MilvusThrottled, error)
        }
        sdk::Error::Server(server) if code::is_invalid_request(server) => {
            Failure::refused(Stage::Milvus, Reason::MilvusRefused, error)
        }
        // 3 is INVALID_ARGUMENT.
        sdk::Error::Grpc(status) if status.code() as i32 == 3 => {
            Failure::refused(Stage::Milvus, Reason::MilvusRefused, status.message())
        }
        // 7 is PERMISSION_DENIED, 16 UNAUTHENTICATED.
        sdk::Error::Grpc(status) if matches!(status.code() as i32, 7 | 16) => {
            Failure::fatal(Stage::Milvus, Reason::MilvusForbidden, status.message())
        }
        sdk::Error::Validation(_) | sdk::Error::Conversion(_) => {
            Failure::permanent(Stage::Milvus, Reason::InvalidVectors, error)
        }
        _ => Failure::transient(Stage::Milvus, Reason::MilvusUnavailable, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_that_is_not_finite_is_refused_before_it_is_sent() {
        let page = |page, value| PageVectors {
            image_id: "i".into(),
            page,
            vectors: vec![vec![0.0, 1.0], vec![0.5, value]],
        };
        assert_eq!(check_finite(&[page(0, 0.25), page(1, -1.0)]), Ok(()));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let failure = check_finite(&[page(0, 0.25), page(6, value)]).unwrap_err();
            assert_eq!(failure.reason, Reason::VectorsNotFinite);
            assert!(failure.rejects_document());
            assert!(failure.message.contains("page 7"), "{failure}");
        }
    }

    #[test]
    fn quotes_in_names_are_escaped() {
        assert_eq!(quote("a_b-c"), "'a_b-c'");
        assert_eq!(
            quote("a'] or pk > 0 or file_id in ['"),
            r"'a\'] or pk > 0 or file_id in [\''"
        );
        assert_eq!(quote(r"a\"), r"'a\\'");
    }
}
