//! The object store: downloads originals and uploads page images, addressed by bucket and key only.
//!
//! It never follows a URL. A key is used exactly as it is, or refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use layra_crds::ObjectStoreSpec;
use mongodb::bson::DateTime;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutOptions, PutPayload, WriteMultipart,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::document::ids;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::settings::Secrets;
use crate::stores::presign::Presigner;

mod answer;
mod archive;
mod client;
mod listing;
#[cfg(test)]
mod tests;

use answer::{Answer, answer, chain};
use client::client;

/// Concurrent requests for one batch of pages.
const CONCURRENCY: usize = 8;
/// Objects up to this size are written in one request.
const SINGLE_PUT_BYTES: u64 = 16 << 20;

/// Longest request, its body included. Bodies are at most [`SINGLE_PUT_BYTES`] long.
const LONGEST_REQUEST: Duration = Duration::from_mins(5);
/// A prefix below which nothing is. Listing it shows whether the bucket answers.
const CHECKED_PREFIX: &str = "layra-worker-check";

/// A client of the object store, for one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    client: Arc<AmazonS3>,
    /// A download may take as long as the server sends something.
    downloads: Arc<AmazonS3>,
    bucket: String,
    presigner: Presigner,
    /// The user of whose objects alone any are deleted.
    deletes_only_of: Option<&'static str>,
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
        Ok(Self {
            client: client(spec, secrets, bucket, Some(LONGEST_REQUEST))?,
            downloads: client(spec, secrets, bucket, None)?,
            bucket: bucket.to_owned(),
            presigner: Presigner::new(spec, secrets, bucket),
            deletes_only_of: None,
        })
    }

    /// A client that deletes no object but those that workers have written for this user, whoever
    /// asks: all others belong to somebody else.
    pub(crate) fn deleting_only_own(self, username: &'static str) -> Self {
        Self {
            deletes_only_of: Some(username),
            ..self
        }
    }

    /// Fails if the bucket does not respond. Only here, when the worker starts, is a missing bucket
    /// or a refused key fatal: later, others may be at work.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        let answer = self.list_nothing().await;
        answer.map_err(|error| match self.classify(Stage::Objects, &error) {
            failure if is_setting(failure.reason) => Failure {
                class: Class::Fatal,
                ..failure
            },
            failure => failure,
        })
    }

    async fn list_nothing(&self) -> object_store::Result<()> {
        let nothing = Path::from(CHECKED_PREFIX);
        self.client.list_with_delimiter(Some(&nothing)).await?;
        Ok(())
    }

    /// Downloads an object of at most `limit_bytes` into a local file. Returns its size. After a
    /// failure, a call with the same `partial` continues where this one ended.
    pub(crate) async fn download(
        &self,
        stage: Stage,
        key: &str,
        limit_bytes: u64,
        to: &std::path::Path,
        partial: &mut Partial,
    ) -> Result<u64, Failure> {
        loop {
            let before = partial.bytes;
            let failure = match self
                .continue_download(stage, key, limit_bytes, to, partial)
                .await
            {
                Err(failure) if failure.class == Class::Transient => failure,
                finished => return finished,
            };
            if partial.bytes <= before {
                return Err(failure);
            }
            let (bytes, error) = (partial.bytes, &failure.message);
            tracing::info!(key, bytes, error, "download interrupted, continuing");
        }
    }

    async fn continue_download(
        &self,
        stage: Stage,
        key: &str,
        limit_bytes: u64,
        to: &std::path::Path,
        partial: &mut Partial,
    ) -> Result<u64, Failure> {
        let path = parse_key(stage, key)?;
        let from = partial.bytes;
        let options = GetOptions {
            range: (from > 0).then_some(GetRange::Offset(from)),
            if_match: partial.version.clone().filter(|_| from > 0),
            ..GetOptions::default()
        };
        let changed = || {
            let message = format!("object {key} changed during the download");
            Failure::transient(stage, Reason::ObjectStoreUnavailable, message)
        };
        let object = match self.downloads.get_opts(&path, options).await {
            Ok(object) => object,
            Err(
                object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. },
            ) if partial.expected.is_some() => {
                return Err(self.other_version(stage, key, partial).await);
            }
            Err(object_store::Error::Precondition { .. }) => {
                *partial = Partial::default();
                return Err(changed());
            }
            Err(error) => return Err(self.failure(stage, &error).await),
        };
        let version = version_of(&object.meta);
        if partial.expected.as_ref().is_some_and(|it| *it != version) {
            return Err(self.other_version(stage, key, partial).await);
        }
        if from > 0 && object.meta.e_tag != partial.version {
            *partial = Partial::default();
            return Err(changed());
        }
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
        let mut file = open_at(to, from).await.map_err(unwritable)?;
        // Without a version nobody could tell that the rest belongs to the same object.
        partial.version.clone_from(&object.meta.e_tag);
        let can_continue = partial.version.is_some();
        let mut received = from;
        let mut body = object.into_stream();
        let ended = loop {
            match body.try_next().await {
                Ok(Some(chunk)) => {
                    file.write_all(&chunk).await.map_err(unwritable)?;
                    received += u64::try_from(chunk.len()).unwrap_or(0);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(self.classify(stage, &error)),
            }
        };
        file.flush().await.map_err(unwritable)?;
        partial.bytes = if can_continue { received } else { 0 };
        ended?;
        if received != size {
            let message = format!("object {key}: received {received} of {size} bytes");
            return Err(Failure::transient(
                stage,
                Reason::ObjectStoreUnavailable,
                message,
            ));
        }
        Ok(size)
    }

    /// Why the version of an object that is wanted was not sent: it is not in the bucket any more,
    /// or it is back.
    async fn other_version(&self, stage: Stage, key: &str, partial: &Partial) -> Failure {
        match self.version(key).await {
            Ok(now) if now == partial.expected => {
                let message = format!("object {key} is another one in each answer");
                Failure::transient(stage, Reason::ObjectStoreUnavailable, message)
            }
            Ok(_) => Failure::deleted(stage, format!("object {key} was overwritten or removed")),
            Err(failure) => failure,
        }
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
        let object = match self.downloads.get_opts(&path, options).await {
            Ok(object) => object,
            Err(error) => return Err(self.failure(stage, &error).await),
        };
        let (first, size) = (object.range.start, object.meta.size);
        let store = self.clone();
        let body = object
            .into_stream()
            .map_err(move |error| store.classify(stage, &error));
        Ok((first, size, body.boxed()))
    }

    /// Whether there is an object of this key.
    pub(crate) async fn exists(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.written_at(key).await?.is_some())
    }

    /// When the object of this key was written, by the server's clock. `None`: there is no such
    /// object.
    pub(crate) async fn written_at(&self, key: &str) -> Result<Option<DateTime>, Failure> {
        let path = parse_key(Stage::Objects, key)?;
        match self.client.head(&path).await {
            Ok(object) => {
                let written = object.last_modified.timestamp_millis();
                Ok(Some(DateTime::from_millis(written)))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
    }

    /// The version of the content that a key has now: its entity tag. `None`: there is no object.
    pub(crate) async fn version(&self, key: &str) -> Result<Option<String>, Failure> {
        let path = parse_key(Stage::Objects, key)?;
        match self.client.head(&path).await {
            Ok(object) => Ok(Some(version_of(&object))),
            Err(object_store::Error::NotFound { .. }) => {
                // A bucket that is gone has lost no object for good.
                let answer = self.list_nothing().await;
                answer.map_err(|error| self.classify(Stage::Objects, &error))?;
                Ok(None)
            }
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
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
        let payload = PutPayload::from_bytes(bytes);
        let put = self
            .client
            .put_opts(&path, payload, put_options(content_type));
        match put.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
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
        let failure = |error: object_store::Error| self.classify(Stage::Objects, &error);
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

    /// Deletes objects. Keys without an object are ignored, also those that no object can have.
    pub(crate) async fn delete_all(&self, mut keys: Vec<String>) -> Result<(), Failure> {
        if let Some(username) = self.deletes_only_of {
            keys.retain(|key| ids::is_own_key(username, key));
        }
        futures::stream::iter(keys)
            .map(|key| async move { self.delete(&key).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn delete(&self, key: &str) -> Result<(), Failure> {
        let Ok(path) = parse_key(Stage::Objects, key) else {
            return Ok(());
        };
        match self.client.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) if answer(&error).is_some_and(|answer| answer.is_impossible_key()) => Ok(()),
            Err(error) => Err(self.failure(Stage::Objects, &error).await),
        }
    }

    /// Lists the objects directly below a prefix.
    pub(crate) async fn list(
        &self,
        stage: Stage,
        prefix: &str,
    ) -> Result<Vec<ObjectMeta>, Failure> {
        let prefix = Path::parse(prefix)
            .map_err(|error| Failure::permanent(stage, Reason::InvalidTask, error))?;
        match self.client.list_with_delimiter(Some(&prefix)).await {
            Ok(listing) => Ok(listing.objects),
            Err(error) => Err(self.failure(stage, &error).await),
        }
    }

    /// A link to an object, for browsers.
    pub(crate) fn link(&self, key: &str) -> String {
        self.presigner.link(key, jiff::Timestamp::now())
    }

    /// The failure of a request. If access is denied, the bucket is asked whether it denies this
    /// request only, for example because of a policy for a prefix or an archived object.
    async fn failure(&self, stage: Stage, error: &object_store::Error) -> Failure {
        let failure = self.classify(stage, error);
        let denied = failure.reason == Reason::ObjectStoreForbidden;
        if denied && failure.class == Class::Transient && self.list_nothing().await.is_ok() {
            return Failure::refused(stage, Reason::ObjectStoreRefused, failure.message);
        }
        failure
    }

    fn classify(&self, stage: Stage, error: &object_store::Error) -> Failure {
        use object_store::Error;
        let bucket = &self.bucket;
        // The model is fetched when the worker starts.
        let setting = |reason, message: String| match stage {
            Stage::Model => Failure::fatal(stage, reason, message),
            _ => Failure::transient(stage, reason, message),
        };
        let answer = answer(error);
        let is_bucket_missing = |answer: &Answer| answer.code == "NoSuchBucket";
        match error {
            _ if answer.as_ref().is_some_and(is_bucket_missing) => setting(
                Reason::BucketNotFound,
                format!("bucket {bucket} does not exist"),
            ),
            Error::NotFound { path, .. } => Failure::permanent(
                stage,
                Reason::ObjectNotFound,
                format!("bucket {bucket} has no object {path}"),
            ),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                setting(Reason::ObjectStoreForbidden, chain(error))
            }
            Error::InvalidPath { .. } => Failure::permanent(stage, Reason::InvalidTask, error),
            _ => match answer {
                Some(answer) if answer.is_forbidden() => {
                    setting(Reason::ObjectStoreForbidden, chain(error))
                }
                // No wait makes such a key possible.
                Some(answer) if answer.is_impossible_key() => {
                    Failure::permanent(stage, Reason::ObjectStoreRefused, chain(error))
                }
                Some(answer) if answer.is_refusal() => {
                    Failure::refused(stage, Reason::ObjectStoreRefused, chain(error))
                }
                _ => Failure::transient(stage, Reason::ObjectStoreUnavailable, chain(error)),
            },
        }
    }
}

/// How much of an object a local file holds.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    bytes: u64,
    /// The entity tag of the object that the bytes are from.
    version: Option<String>,
    /// The only version of the object that is wanted.
    expected: Option<String>,
}

impl Partial {
    /// Nothing yet of this version of an object. Another version is a failure of the class
    /// [`Class::Deleted`].
    pub(crate) fn of_version(version: &str) -> Self {
        Self {
            expected: Some(version.to_owned()),
            ..Self::default()
        }
    }
}

/// The version of an object's content. Every S3 server has entity tags, but the client does not
/// require them.
fn version_of(object: &ObjectMeta) -> String {
    object.e_tag.clone().unwrap_or_else(|| {
        let written = object.last_modified.timestamp_millis();
        format!("{}-{written}", object.size)
    })
}

/// Opens a file to write from a position. What follows the position is removed.
async fn open_at(path: &std::path::Path, position: u64) -> std::io::Result<tokio::fs::File> {
    let mut options = tokio::fs::File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .await?;
    file.set_len(position).await?;
    file.seek(std::io::SeekFrom::Start(position)).await?;
    Ok(file)
}

/// The client would drop a slash at the beginning or end, and so address another object.
fn parse_key(stage: Stage, key: &str) -> Result<Path, Failure> {
    let path =
        Path::parse(key).map_err(|error| Failure::permanent(stage, Reason::InvalidTask, error))?;
    if path.as_ref() == key {
        return Ok(path);
    }
    let message = format!("object key `{key}` begins or ends with a slash");
    Err(Failure::permanent(stage, Reason::InvalidTask, message))
}

fn put_options(content_type: &'static str) -> PutOptions {
    let attributes = Attributes::from_iter([(Attribute::ContentType, content_type)]);
    PutOptions {
        attributes,
        ..PutOptions::default()
    }
}

/// Whether only a change of the worker's settings or of the bucket helps.
fn is_setting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BucketNotFound | Reason::ObjectStoreForbidden
    )
}
