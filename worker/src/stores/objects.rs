//! The object store: downloads originals and uploads page images, addressed by bucket and key only.
//!
//! It never follows a URL.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use layra_crds::ObjectStoreSpec;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secrets;
use crate::stores::presign::Presigner;

/// Concurrent requests for one batch of pages.
const CONCURRENCY: usize = 8;
/// Objects up to this size are written in one request.
const SINGLE_PUT_BYTES: u64 = 16 << 20;

/// A client of the object store, for one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    client: Arc<AmazonS3>,
    bucket: String,
    presigner: Presigner,
}

impl Objects {
    /// Creates a client for the pipeline's bucket. It does not connect yet.
    pub(crate) fn new(spec: &ObjectStoreSpec, secrets: &Secrets) -> Result<Self, Failure> {
        Self::of_bucket(spec, secrets, &spec.bucket)
    }

    /// Creates a client for another bucket of the same store.
    pub(crate) fn of_bucket(
        spec: &ObjectStoreSpec,
        secrets: &Secrets,
        bucket: &str,
    ) -> Result<Self, Failure> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&spec.region)
            .with_access_key_id(secrets.access_key.reveal())
            .with_secret_access_key(secrets.secret_key.reveal())
            .with_allow_http(true)
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(true)
                    .with_connect_timeout(Duration::from_secs(5))
                    // The server has stopped answering without closing the connection.
                    .with_read_timeout(Duration::from_secs(30))
                    .with_timeout(Duration::from_mins(5)),
            )
            // `Retry` retries, and reports it.
            .with_retry(RetryConfig {
                max_retries: 1,
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &spec.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let client = builder
            .build()
            .map_err(|error| Failure::fatal(Stage::Objects, Reason::InvalidObjectStore, error))?;
        Ok(Self {
            client: Arc::new(client),
            bucket: bucket.to_owned(),
            presigner: Presigner::new(spec, secrets, bucket),
        })
    }

    /// Fails if the bucket does not respond.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        self.client
            .list_with_delimiter(Some(&Path::from("layra-worker-check")))
            .await
            .map_err(|error| self.failure(Stage::Objects, &error))?;
        Ok(())
    }

    /// Downloads an object of at most `limit_bytes` into a local file. Returns its size.
    pub(crate) async fn download(
        &self,
        stage: Stage,
        key: &str,
        limit_bytes: u64,
        to: &std::path::Path,
    ) -> Result<u64, Failure> {
        let path = parse_key(stage, key)?;
        let object = self
            .client
            .get(&path)
            .await
            .map_err(|error| self.failure(stage, &error))?;
        let size = object.meta.size;
        if size > limit_bytes {
            let message =
                format!("object {key} has {size} bytes, more than the limit of {limit_bytes}");
            return Err(Failure::permanent(stage, Reason::ObjectTooLarge, message));
        }
        let unwritable = |error: std::io::Error| {
            let message = format!("{}: {error}", to.display());
            Failure::transient(stage, Reason::CacheUnwritable, message)
        };
        let mut file = tokio::fs::File::create(to).await.map_err(unwritable)?;
        let mut body = object.into_stream();
        while let Some(chunk) = body
            .try_next()
            .await
            .map_err(|error| self.failure(stage, &error))?
        {
            file.write_all(&chunk).await.map_err(unwritable)?;
        }
        file.flush().await.map_err(unwritable)?;
        Ok(size)
    }

    /// Streams an object from byte `from`. Returns the position of the first byte, the size of the
    /// object and the stream. With `version`, an entity tag, it fails for other versions.
    pub(crate) async fn read_from(
        &self,
        stage: Stage,
        key: &str,
        from: u64,
        version: Option<&str>,
    ) -> Result<(u64, u64, BoxStream<'static, Result<Bytes, Failure>>), Failure> {
        let path = parse_key(stage, key)?;
        let options = GetOptions {
            range: (from > 0).then_some(GetRange::Offset(from)),
            if_match: version.map(ToOwned::to_owned),
            ..GetOptions::default()
        };
        let object = self
            .client
            .get_opts(&path, options)
            .await
            .map_err(|error| self.failure(stage, &error))?;
        let (first, size) = (object.range.start, object.meta.size);
        let store = self.clone();
        let body = object
            .into_stream()
            .map_err(move |error| store.failure(stage, &error));
        Ok((first, size, body.boxed()))
    }

    /// Writes objects concurrently. Existing objects are replaced.
    pub(crate) async fn put_all(
        &self,
        objects: Vec<(String, Bytes)>,
        content_type: &'static str,
    ) -> Result<(), Failure> {
        futures::stream::iter(objects)
            .map(|(key, bytes)| async move { self.put(&key, bytes, content_type).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// Writes an object. An existing object is replaced.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &'static str,
    ) -> Result<(), Failure> {
        let path = parse_key(Stage::Objects, key)?;
        self.client
            .put_opts(
                &path,
                PutPayload::from_bytes(bytes),
                put_options(content_type),
            )
            .await
            .map_err(|error| self.failure(Stage::Objects, &error))?;
        Ok(())
    }

    /// Uploads a local file, in parts if it is large.
    pub(crate) async fn upload(
        &self,
        key: &str,
        file: &std::path::Path,
        content_type: &'static str,
    ) -> Result<(), Failure> {
        let unreadable = |error: std::io::Error| {
            Failure::permanent(
                Stage::Objects,
                Reason::FileUnreadable,
                format!("{}: {error}", file.display()),
            )
        };
        let size = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        if size <= SINGLE_PUT_BYTES {
            let bytes = tokio::fs::read(file).await.map_err(unreadable)?;
            return self.put(key, bytes.into(), content_type).await;
        }
        let path = parse_key(Stage::Objects, key)?;
        let failure = |error: object_store::Error| self.failure(Stage::Objects, &error);
        let upload = self
            .client
            .put_multipart_opts(&path, put_options(content_type).attributes.into())
            .await
            .map_err(failure)?;
        let mut parts = WriteMultipart::new(upload);
        let mut file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        loop {
            let mut chunk = Vec::with_capacity(1 << 20);
            (&mut file)
                .take(1 << 20)
                .read_to_end(&mut chunk)
                .await
                .map_err(unreadable)?;
            if chunk.is_empty() {
                break;
            }
            parts
                .wait_for_capacity(CONCURRENCY)
                .await
                .map_err(failure)?;
            parts.put(chunk.into());
        }
        parts.finish().await.map_err(failure)?;
        Ok(())
    }

    /// Deletes objects. Keys without an object are ignored.
    pub(crate) async fn delete_all(&self, keys: Vec<String>) -> Result<(), Failure> {
        futures::stream::iter(keys)
            .map(|key| async move {
                let path = parse_key(Stage::Objects, &key)?;
                match self.client.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(self.failure(Stage::Objects, &error)),
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// Lists the objects directly below a prefix.
    pub(crate) async fn list(
        &self,
        stage: Stage,
        prefix: &str,
    ) -> Result<Vec<ObjectMeta>, Failure> {
        let listing = self
            .client
            .list_with_delimiter(Some(&parse_key(stage, prefix)?))
            .await
            .map_err(|error| self.failure(stage, &error))?;
        Ok(listing.objects)
    }

    /// A link to an object, for browsers.
    pub(crate) fn link(&self, key: &str) -> String {
        self.presigner.link(key, jiff::Timestamp::now())
    }

    fn failure(&self, stage: Stage, error: &object_store::Error) -> Failure {
        use object_store::Error;
        let bucket = &self.bucket;
        match error {
            Error::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
                Failure::fatal(
                    stage,
                    Reason::BucketNotFound,
                    format!("bucket {bucket} does not exist"),
                )
            }
            Error::NotFound { path, .. } => Failure::permanent(
                stage,
                Reason::ObjectNotFound,
                format!("bucket {bucket} has no object {path}"),
            ),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Failure::fatal(stage, Reason::ObjectStoreForbidden, error)
            }
            Error::InvalidPath { .. } => Failure::permanent(stage, Reason::InvalidTask, error),
            _ => Failure::transient(stage, Reason::ObjectStoreUnavailable, chain(error)),
        }
    }
}

fn parse_key(stage: Stage, key: &str) -> Result<Path, Failure> {
    Path::parse(key).map_err(|error| Failure::permanent(stage, Reason::InvalidTask, error))
}

fn put_options(content_type: &'static str) -> PutOptions {
    let attributes = Attributes::from_iter([(Attribute::ContentType, content_type)]);
    PutOptions {
        attributes,
        ..PutOptions::default()
    }
}

/// The text of an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
