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
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Certificate, ClientOptions, GetOptions, GetRange, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutOptions, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::document::ids;
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::settings::Secrets;
use crate::stores::presign::Presigner;

mod archive;
mod listing;

/// Concurrent requests for one batch of pages.
const CONCURRENCY: usize = 8;
/// Objects up to this size are written in one request.
const SINGLE_PUT_BYTES: u64 = 16 << 20;

/// Longest request, its body included. Bodies are at most [`SINGLE_PUT_BYTES`] long.
const LONGEST_REQUEST: Duration = Duration::from_mins(5);
/// The server has stopped answering without closing the connection.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
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

/// What the server answered to a request that failed.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// S3's word for the error. Empty if there is none.
    code: String,
}

impl Answer {
    fn is_forbidden(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// Whether no object can have this key.
    fn is_impossible_key(&self) -> bool {
        matches!(
            self.code.as_str(),
            "KeyTooLongError" | "KeyTooLong" | "XMinioInvalidObjectName" | "InvalidObjectName"
        )
    }

    /// Whether the server refuses this request, rather than being slow, busy or set up wrongly.
    fn is_refusal(&self) -> bool {
        let is_servers = matches!(self.status, 408 | 409 | 412 | 425 | 429)
            || matches!(
                self.code.as_str(),
                "RequestTimeout"
                    | "IncompleteBody"
                    | "BadDigest"
                    | "SlowDown"
                    | "InternalError"
                    | "ServiceUnavailable"
                    | "OperationAborted"
                    | "ExpiredToken"
                    | "InvalidToken"
                    | "TokenRefreshRequired"
                    | "RequestTimeTooSkewed"
                    | "AuthorizationHeaderMalformed"
            );
        (400..500).contains(&self.status) && !is_servers
    }
}

/// The server's answer. The client does not publish the type that holds it, so its text is read. A
/// test with a real request notices if that changes.
fn answer(error: &object_store::Error) -> Option<Answer> {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
            let code = rest.split_once("<Code>").map(|(_, rest)| rest);
            let code = code.and_then(|rest| rest.split_once("</Code>"));
            return Some(Answer {
                status: rest.get(..3)?.parse().ok()?,
                code: code.map_or(String::new(), |(code, _)| code.to_owned()),
            });
        }
        // One key of a request that deletes several.
        if text.starts_with("DeleteObjects request failed for key ") {
            let code = text.rsplit_once("(code: ")?.1.trim_end_matches(')');
            return Some(Answer {
                status: if code == "AccessDenied" { 403 } else { 400 },
                code: code.to_owned(),
            });
        }
        next = cause.source();
    }
    None
}

/// Whether only a change of the worker's settings or of the bucket helps.
fn is_setting(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BucketNotFound | Reason::ObjectStoreForbidden
    )
}

fn client(
    spec: &ObjectStoreSpec,
    secrets: &Secrets,
    bucket: &str,
    longest: Option<Duration>,
) -> Result<Arc<AmazonS3>, Failure> {
    let mut options = client_options(longest);
    if let Some(file) = &secrets.authorities.object_store {
        options = trusting(options, file)?;
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&spec.region)
        .with_access_key_id(secrets.access_key.reveal())
        .with_secret_access_key(secrets.secret_key.reveal())
        .with_allow_http(true)
        .with_client_options(options)
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
    Ok(Arc::new(client))
}

fn client_options(longest: Option<Duration>) -> ClientOptions {
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(Duration::from_secs(5))
        .with_read_timeout(LONGEST_SILENCE);
    match longest {
        Some(longest) => options.with_timeout(longest),
        None => options.with_timeout_disabled(),
    }
}

/// Trusts the certificates in this file, too.
fn trusting(options: ClientOptions, file: &std::path::Path) -> Result<ClientOptions, Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        let message = format!("{} has no certificates: {error}", file.display());
        Failure::fatal(Stage::Objects, Reason::InvalidObjectStore, message)
    };
    let bundle = std::fs::read(file).map_err(|error| invalid(&error))?;
    let certificates = Certificate::from_pem_bundle(&bundle).map_err(|error| invalid(&error))?;
    if certificates.is_empty() {
        return Err(invalid(&"there is no PEM block"));
    }
    Ok(certificates
        .into_iter()
        .fold(options, ClientOptions::with_root_certificate))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use object_store::ClientConfigKey;
    use tokio::io::AsyncBufReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::runtime::failure::Cause;
    use crate::runtime::settings::{Authorities, Secret};

    /// A request that the server received.
    #[derive(Clone, Debug)]
    struct Received {
        /// Method and target.
        line: String,
        headers: Vec<String>,
    }

    impl Received {
        fn header(&self, name: &str) -> Option<&str> {
            let named = |line: &&String| line.to_ascii_lowercase().starts_with(name);
            let line = self.headers.iter().find(named)?;
            Some(line.split_once(':')?.1.trim())
        }

        /// First byte of the requested range.
        fn from(&self) -> usize {
            let range = self
                .header("range:")
                .and_then(|range| range.strip_prefix("bytes="));
            let first = range.and_then(|range| range.split('-').next()?.parse().ok());
            first.unwrap_or(0)
        }
    }

    type Respond = dyn Fn(&Received, usize) -> Vec<u8> + Send + Sync;

    /// An HTTP server that answers each request on a connection of its own, byte for byte as
    /// `respond` says. It gets the request and the number of requests before.
    async fn server(respond: Box<Respond>) -> (Objects, Arc<Mutex<Vec<Received>>>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (request, mut stream) = receive(stream).await;
                let number = received.lock().unwrap().len();
                received.lock().unwrap().push(request.clone());
                let answer = respond(&request, number);
                // Slower than one packet, so that the client sees what came before a cut.
                for part in answer.chunks(4096) {
                    let _ = stream.write_all(part).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let _ = stream.shutdown().await;
            }
        });
        let reference = serde_json::json!({"name": "s", "key": "k"});
        let spec: ObjectStoreSpec = serde_json::from_value(serde_json::json!({
            "endpoint": format!("http://{address}"), "bucket": "b",
            "accessKeySecretRef": reference, "secretKeySecretRef": reference,
        }))
        .unwrap();
        let secrets = Secrets {
            kafka: layra_crds::KafkaSecurity::plaintext(),
            access_key: Secret::new("a"),
            secret_key: Secret::new("s"),
            milvus_token: None,
            mongodb_uri: Secret::new(""),
            redis_uri: None,
            authorities: Authorities::default(),
            model_token: None,
        };
        let objects = Objects::new(&spec, &secrets).unwrap();
        (objects, log)
    }

    async fn receive(stream: TcpStream) -> (Received, TcpStream) {
        let mut stream = tokio::io::BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = stream.read_line(&mut line).await.unwrap_or(0);
            if read == 0 || line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let mut lines = lines.into_iter();
        let line = lines.next().unwrap_or_default();
        let request = Received {
            line,
            headers: lines.collect(),
        };
        let length = request
            .header("content-length:")
            .and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        let _ = stream.read_exact(&mut body).await;
        (request, stream.into_inner())
    }

    /// An answer with the object's bytes from `from` on, cut after `sent` of them.
    fn part(content: &[u8], from: usize, sent: usize, version: &str) -> Vec<u8> {
        let (total, rest) = (content.len(), &content[from..]);
        let status = if from > 0 {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
        let range = if from > 0 { range } else { String::new() };
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{range}\
             ETag: \"{version}\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n",
            rest.len()
        );
        [head.as_bytes(), &rest[..sent.min(rest.len())]].concat()
    }

    fn error(status: &str, code: &str) -> Vec<u8> {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    fn empty_list() -> Vec<u8> {
        let body = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>\
                    </ListBucketResult>";
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_download_that_is_cut_again_and_again_continues_where_it_broke() {
        let content = pattern(1_000_000);
        let sent = content.clone();
        let respond = move |request: &Received, _| part(&sent, request.from(), 150_000, "v1");
        let (objects, log) = server(Box::new(respond)).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut partial = Partial::default();
        let size = objects
            .download(Stage::Fetch, "k.pdf", 1 << 30, file.path(), &mut partial)
            .await
            .unwrap();
        assert_eq!(size, 1_000_000);
        assert_eq!(std::fs::read(file.path()).unwrap(), content);
        let froms: Vec<usize> = log.lock().unwrap().iter().map(Received::from).collect();
        assert!(froms.len() >= 6 && froms.is_sorted(), "{froms:?}");
        assert_eq!(froms.iter().filter(|from| **from == 0).count(), 1);
    }

    #[tokio::test]
    async fn an_attempt_after_an_outage_continues_the_download() {
        let content = pattern(300_000);
        let sent = content.clone();
        let respond = move |request: &Received, number| match number {
            0 => part(&sent, 0, 100_000, "v1"),
            1..=6 => error("503 Service Unavailable", "SlowDown"),
            _ => part(&sent, request.from(), usize::MAX, "v1"),
        };
        let (objects, log) = server(Box::new(respond)).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut partial = Partial::default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let downloaded = objects
                .download(Stage::Fetch, "k.pdf", 1 << 30, file.path(), &mut partial)
                .await;
            match downloaded {
                Ok(_) => break,
                Err(failure) => assert_eq!(failure.cause, Cause::Server, "{failure}"),
            }
            assert!(attempts < 10);
        }
        assert!(attempts > 1);
        assert_eq!(std::fs::read(file.path()).unwrap(), content);
        let log = log.lock().unwrap();
        assert_eq!(log.last().unwrap().from(), 100_000);
        assert_eq!(log.last().unwrap().header("if-match:"), Some("\"v1\""));
    }

    #[tokio::test]
    async fn an_object_that_changes_during_the_download_is_never_mixed() {
        let (old, new) = (vec![1; 200_000], vec![2; 200_000]);
        let current = new.clone();
        let respond = move |request: &Received, number| match (number, request.from()) {
            (0, _) => part(&old, 0, 100_000, "v1"),
            (_, 0) => part(&current, 0, usize::MAX, "v2"),
            // It does not know `If-Match`.
            (_, from) => part(&current, from, usize::MAX, "v2"),
        };
        let (objects, _) = server(Box::new(respond)).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut partial = Partial::default();
        let mut download = async || {
            let (objects, path) = (&objects, file.path());
            objects
                .download(Stage::Fetch, "k.pdf", 1 << 30, path, &mut partial)
                .await
        };
        if let Err(failure) = download().await {
            assert_eq!(failure.class, Class::Transient);
            download().await.unwrap();
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), new);
    }

    #[tokio::test]
    async fn only_the_version_that_is_wanted_is_downloaded() {
        let content = pattern(1_000);
        let sent = content.clone();
        let respond = move |request: &Received, _| match request.line.as_str() {
            line if line.contains("gone.pdf") => error("404 Not Found", "NoSuchKey"),
            line if line.contains("list-type") => empty_list(),
            _ => part(&sent, request.from(), usize::MAX, "v2"),
        };
        let (objects, _) = server(Box::new(respond)).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let download = async |key: &str, version: &str| {
            let mut partial = Partial::of_version(version);
            let (objects, path) = (&objects, file.path());
            objects
                .download(Stage::Fetch, key, 1 << 30, path, &mut partial)
                .await
        };
        assert_eq!(download("k.pdf", "\"v2\"").await, Ok(1_000));
        for (key, version) in [("k.pdf", "\"v1\""), ("gone.pdf", "\"v2\"")] {
            let failure = download(key, version).await.unwrap_err();
            assert_eq!(failure.class, Class::Deleted, "{failure}");
        }
    }

    #[tokio::test]
    async fn a_key_has_the_version_of_its_entity_tag_or_none() {
        for (lists, class) in [(true, None), (false, Some(Class::Transient))] {
            let respond = move |request: &Received, _| match request.line.as_str() {
                line if line.contains("gone.pdf") => error("404 Not Found", "NoSuchKey"),
                line if line.contains("list-type") && lists => empty_list(),
                line if line.contains("list-type") => error("404 Not Found", "NoSuchBucket"),
                _ => part(&[], 0, 0, "v1"),
            };
            let (objects, _) = server(Box::new(respond)).await;
            let present = objects.version("k.pdf").await.unwrap();
            assert_eq!(present.as_deref(), Some("\"v1\""));
            match objects.version("gone.pdf").await {
                Ok(gone) => assert_eq!((gone, class), (None, None)),
                Err(failure) => assert_eq!(Some(failure.class), class, "a bucket that is gone"),
            }
        }
    }

    #[tokio::test]
    async fn objects_of_somebody_else_are_not_deleted() {
        let respond = |_: &Received, _| {
            let body = "<DeleteResult></DeleteResult>";
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        let (objects, log) = server(Box::new(respond)).await;
        let requests = || log.lock().unwrap().len();
        let own = "s3_a_0123456789abcdef01234567.png".to_owned();
        let theirs = vec!["a.pdf".to_owned(), format!("contracts/{own}")];
        let restricted = objects.clone().deleting_only_own("s3");
        restricted.delete_all(theirs.clone()).await.unwrap();
        assert_eq!(requests(), 0);
        restricted.delete_all(vec![own]).await.unwrap();
        assert_eq!(requests(), 1);
        objects.delete_all(theirs).await.unwrap();
        assert_eq!(requests(), 3);
    }

    #[test]
    fn only_downloads_have_no_total_time_limit() {
        let limit = |longest| client_options(longest).get_config_value(&ClientConfigKey::Timeout);
        assert_eq!(limit(None), None);
        assert!(limit(Some(LONGEST_REQUEST)).is_some());
        let silence = client_options(None).get_config_value(&ClientConfigKey::ReadTimeout);
        assert!(silence.is_some());
    }

    async fn put_answered_with(status: &'static str, code: &'static str, lists: bool) -> Failure {
        let respond = move |request: &Received, _| {
            if request.line.starts_with("GET") && lists {
                empty_list()
            } else {
                error(status, code)
            }
        };
        let (objects, _) = server(Box::new(respond)).await;
        let put = objects.put("k.png", Bytes::from_static(b"x"), "image/png");
        put.await.unwrap_err()
    }

    #[tokio::test]
    async fn a_refused_key_is_distinguished_from_a_server_in_trouble() {
        for code in ["XMinioInvalidObjectName", "KeyTooLongError"] {
            let failure = put_answered_with("400 Bad Request", code, true).await;
            assert_eq!(failure.class, Class::Permanent, "{failure}");
            assert_eq!(failure.reason, Reason::ObjectStoreRefused);
        }
        let (request, server) = (
            (Cause::Request, Reason::ObjectStoreRefused),
            (Cause::Server, Reason::ObjectStoreUnavailable),
        );
        for (status, code, expected) in [
            ("400 Bad Request", "InvalidArgument", request),
            ("403 Forbidden", "InvalidObjectState", request),
            ("400 Bad Request", "RequestTimeout", server),
            ("503 Service Unavailable", "SlowDown", server),
            ("429 Too Many Requests", "x", server),
        ] {
            let failure = put_answered_with(status, code, true).await;
            assert_eq!(failure.class, Class::Transient, "{code}");
            assert_eq!((failure.cause, failure.reason), expected, "{failure}");
            assert!(failure.message.contains(code), "its words: {failure}");
        }
    }

    #[tokio::test]
    async fn a_refused_access_key_is_fatal_only_at_the_start() {
        let failure = put_answered_with("403 Forbidden", "InvalidAccessKeyId", false).await;
        assert_eq!(
            (failure.class, failure.cause),
            (Class::Transient, Cause::Server)
        );
        assert_eq!(failure.reason, Reason::ObjectStoreForbidden);
        for (status, code, reason) in [
            (
                "403 Forbidden",
                "InvalidAccessKeyId",
                Reason::ObjectStoreForbidden,
            ),
            ("404 Not Found", "NoSuchBucket", Reason::BucketNotFound),
        ] {
            let respond = move |_: &Received, _| error(status, code);
            let (objects, _) = server(Box::new(respond)).await;
            let failure = objects.check().await.unwrap_err();
            assert_eq!((failure.class, failure.reason), (Class::Fatal, reason));
            let put = objects.put("k.png", Bytes::from_static(b"x"), "image/png");
            assert_eq!(put.await.unwrap_err().class, Class::Transient);
        }
    }

    #[tokio::test]
    async fn a_key_that_no_object_can_have_is_deleted_already() {
        let deleted = "<DeleteResult><Error><Key>k</Key><Code>KeyTooLongError</Code>\
                       <Message>m</Message></Error></DeleteResult>";
        let respond = move |_: &Received, _| {
            let length = deleted.len();
            format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{deleted}"
            )
            .into_bytes()
        };
        let (objects, _) = server(Box::new(respond)).await;
        let keys = ["k", "a//b", "a/../b", "/k", "k/"].map(str::to_owned);
        objects.delete_all(keys.to_vec()).await.unwrap();
    }

    #[test]
    fn a_key_is_exact_or_refused() {
        for key in ["a", "a/b.pdf", "Übersicht 1.pdf", "a b/c%20d"] {
            assert_eq!(parse_key(Stage::Fetch, key).unwrap().as_ref(), key);
        }
        for key in ["", "/", "/a", "a/", "a//b", "./a", "a/../b", "a/."] {
            let failure = parse_key(Stage::Fetch, key).map(|path| path.to_string());
            assert!(failure.is_err() || key.is_empty(), "{key}: {failure:?}");
        }
    }
}
