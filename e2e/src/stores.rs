//! Clients of the test-bed's stores. Tests and the demo read the stores themselves, never through
//! the worker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use layra_testbed::artifacts::MINILM;
use layra_testbed::{Endpoints, Testbed};
use milvus::v2::ClientV2;
use milvus::v2::prelude::{ConnectConfig, RetryConfig};
use object_store::aws::AmazonS3;
use object_store::{ObjectStoreExt, PutPayload};

use crate::clients::{bucket, create_bucket};

/// LAYRA's bucket of originals and page images.
pub const BUCKET: &str = "minio-file";
/// The bucket that serves models.
pub const MODELS: &str = "models";
/// LAYRA's database of documents.
pub const DATABASE: &str = "mongodb";

/// One client for each store.
#[derive(Clone)]
pub struct Stores {
    /// Addresses of the servers.
    pub endpoints: Endpoints,
    /// Vectors.
    pub milvus: ClientV2,
    /// Documents and knowledge bases.
    pub mongodb: mongodb::Database,
    /// Originals and page images.
    pub objects: Arc<AmazonS3>,
    /// LAYRA's progress display.
    pub redis: redis::aio::ConnectionManager,
}

impl Stores {
    /// Creates the buckets and uploads the model, where they are missing, and connects.
    pub async fn prepare(testbed: &Testbed) -> Result<Self> {
        create_bucket(&testbed.endpoints().s3, BUCKET).await?;
        create_bucket(&testbed.endpoints().s3, MODELS).await?;
        let models = bucket(&testbed.endpoints().s3, MODELS)?;
        for entry in std::fs::read_dir(MINILM.path(testbed.settings()))? {
            let file = entry?.path();
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let key = object_store::path::Path::from(format!("minilm/{name}"));
            let size = file.metadata()?.len();
            if file.is_file()
                && models
                    .head(&key)
                    .await
                    .map_or(true, |head| head.size != size)
            {
                models
                    .put(&key, PutPayload::from(std::fs::read(&file)?))
                    .await?;
            }
        }
        Self::connect(testbed.endpoints()).await
    }

    /// Connects to every store.
    pub async fn connect(endpoints: &Endpoints) -> Result<Self> {
        let retry = RetryConfig::new().max_attempts(5);
        let milvus = ClientV2::new(
            &ConnectConfig::new()
                .uri(&endpoints.milvus)
                .rpc_timeout(Duration::from_mins(1))
                .retry(retry),
        )
        .await
        .context("connecting to Milvus")?;
        let mongodb = mongodb::Client::with_uri_str(&endpoints.mongodb_uri)
            .await
            .context("connecting to MongoDB")?
            .database(DATABASE);
        let redis = redis::Client::open(endpoints.redis_uri.as_str())?
            .get_connection_manager()
            .await
            .context("connecting to Redis")?;
        Ok(Self {
            endpoints: endpoints.clone(),
            milvus,
            mongodb,
            objects: Arc::new(bucket(&endpoints.s3, BUCKET)?),
            redis,
        })
    }
}
