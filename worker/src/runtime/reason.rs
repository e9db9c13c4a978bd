//! The reasons of failures: words that stay the same, for headers, metrics, logs and alerts.

use std::fmt;

/// Declares [`Reason`]. The name of a variant is its word.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $variant:ident,)+) => {
        /// Why a step failed. `docs/failures.md` lists every word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Reason {
            /// All reasons.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word used in message headers, metrics, logs and the ledger.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }
        }
    };
}

reasons! {
    // The message.
    /// The message is not JSON.
    NotJson,
    /// A field of the task is missing or has a value that cannot be used.
    InvalidTask,
    /// The headers of a page range are missing or present twice, or no such range exists.
    InvalidRange,
    /// The message failed in a way that was not recorded, or in one that this worker does not know.
    Unknown,

    // The original.
    /// The bucket has no object of this key.
    ObjectNotFound,
    /// The original is larger than the worker accepts.
    ObjectTooLarge,
    /// The original changed after the document was split.
    OriginalChanged,
    /// A local file cannot be read. Only the command `ingest` reads local files.
    FileUnreadable,

    // Rendering. These words are the renderer's own.
    /// A password is needed to open the document.
    Encrypted,
    /// The content does not conform to its format, beyond repair.
    Damaged,
    /// The document has no bytes or no pages.
    Empty,
    /// The document has more pages than the pipeline accepts.
    TooManyPages,
    /// An image has too many pixels, or an archive unpacks to too many bytes.
    TooLarge,
    /// The format is not supported.
    Unsupported,
    /// A page cannot be read.
    DamagedPage,
    /// A page that does not exist was requested.
    NoSuchPage,
    /// Opening the document or rendering a page took too long.
    TimedOut,
    /// The renderer crashed.
    Crashed,
    /// The document needs more memory than the renderer's limit, or a page more than the device has.
    OutOfMemory,
    /// The renderer's answer was not valid.
    GarbledAnswer,
    /// Something outside the worker killed the renderer, for example the kernel's OOM killer.
    RendererKilled,
    /// The time limit passed, but the renderer hardly computed.
    RendererStalled,
    /// No renderer can be started.
    RendererUnavailable,
    /// The node cannot confine the processes that open documents.
    SandboxUnavailable,
    /// The PDFium library does not exist.
    PdfiumNotFound,
    /// The renderer cannot read the local copy of the original.
    Io,

    // The pages of a document together.
    /// More than half of the pages cannot be rendered or embedded.
    TooManyBadPages,
    /// Rendering the document takes more CPU time than the pipeline accepts.
    TooMuchCpuTime,
    /// The document has more vectors than the pipeline accepts.
    TooManyVectors,

    // Embedding.
    /// The model cannot embed a page.
    EmbeddingFailed,
    /// A computation failed on the GPU, which then needs another process.
    DeviceFailed,
    /// The embedding thread exited.
    EmbedderDied,
    /// A thread cannot be started.
    NoThread,

    // Stores.
    /// The object store did not respond, or responded with an error.
    ObjectStoreUnavailable,
    /// The object store refuses the credentials.
    ObjectStoreForbidden,
    /// The object store answers, and refuses a request of this document.
    ObjectStoreRefused,
    /// The settings of the object store are not valid.
    InvalidObjectStore,
    /// The bucket does not exist.
    BucketNotFound,
    /// MongoDB did not respond, or responded with an error.
    MongodbUnavailable,
    /// MongoDB refuses the credentials or the operation.
    MongodbForbidden,
    /// MongoDB answers, and refuses a request of this document.
    MongodbRefused,
    /// The connection string of MongoDB is not valid.
    InvalidMongodbUri,
    /// A document is larger than MongoDB accepts.
    DocumentTooLarge,
    /// A document cannot be encoded for MongoDB.
    DocumentNotStorable,
    /// The knowledge base does not exist.
    KnowledgeBaseNotFound,
    /// The knowledge base's list of files is as long as MongoDB accepts.
    KnowledgeBaseFull,
    /// Milvus did not respond, or responded with an error.
    MilvusUnavailable,
    /// Milvus limits the rate of requests.
    MilvusThrottled,
    /// Milvus refuses the token or the operation.
    MilvusForbidden,
    /// Milvus answers, and refuses a request of this document.
    MilvusRefused,
    /// Milvus is too old for the number format of the vectors.
    MilvusTooOld,
    /// The knowledge base is archived, so its collection is gone.
    KnowledgeBaseArchived,
    /// The collection was dropped while the document was in progress.
    CollectionGone,
    /// A rebuild puts a new collection in the place of this one.
    CollectionMoving,
    /// The collection cannot be rebuilt.
    RebuildFailed,
    /// The collection has vectors of another width than the model's.
    DimensionMismatch,
    /// The collection has vectors of another model than this worker's: the document waits.
    ModelMismatch,
    /// Milvus' client refuses the vectors.
    InvalidVectors,
    /// The model computed a vector with a value that is not a finite number.
    VectorsNotFinite,
    /// Milvus does not hold every vector of a page range exactly once.
    RowsNotOnce,
    /// A quota is reached: the document waits. Only the command `ingest` reports it.
    QuotaReached,
    /// The connection string of Redis is not valid.
    InvalidRedisUri,

    // Kafka.
    /// Kafka did not respond, or responded with an error.
    KafkaUnavailable,
    /// A message is larger than Kafka accepts.
    MessageTooLarge,
    /// The topic for foreign messages does not exist.
    TopicNotFound,
    /// Kafka refuses writes to a topic.
    KafkaForbidden,
    /// Kafka refuses the consumer.
    KafkaRefused,
    /// Kafka's client refuses a setting.
    InvalidKafkaConfig,

    // The model's files.
    /// The address of the model is not valid.
    InvalidModelUri,
    /// A file of the model does not exist.
    ModelNotFound,
    /// The hub refuses access to the model.
    ModelForbidden,
    /// The hub did not respond, or responded with an error.
    HubUnavailable,
    /// A file of the model has another checksum than its source states.
    ModelCorrupted,
    /// The download of a file of the model ended early.
    ModelIncomplete,
    /// The cache does not hold the model.
    ModelNotFetched,
    /// The model cannot be loaded.
    ModelUnusable,
    /// A key of a Secret is missing.
    SecretMissing,
    /// The HTTP client cannot be created.
    HttpClient,

    // The worker.
    /// The cache directory cannot be created or locked.
    CacheUnusable,
    /// A file cannot be written to the cache directory.
    CacheUnwritable,
    /// The HTTP server cannot listen, or ended.
    HttpServer,
    /// The thread that polls Kafka exited unexpectedly.
    PollLoopDied,
    /// The task that processed a message exited unexpectedly.
    WorkerDied,
    /// Several workers died while they processed the same pages.
    WorkersDied,
    /// A worker with a newer configuration is processing the document.
    NewerConfiguration,
    /// A worker removes what the stores hold of the document: wait.
    BeingRemoved,
    /// The document failed before: the message holds the stage and the reason.
    Rejected,
    /// Another worker has taken over the document.
    Superseded,
    /// The file was deleted while it was processed.
    FileDeleted,
    /// The work was cancelled.
    Stopped,
}

impl Reason {
    /// The reason with this word. [`Reason::Unknown`] for a word of another version.
    pub(crate) fn from_word(word: &str) -> Self {
        let known = Self::ALL.iter().find(|reason| reason.as_str() == word);
        known.copied().unwrap_or(Self::Unknown)
    }

    /// Whether a renderer was lost without an answer. Only repetition on the same page tells
    /// whether the document is the cause.
    pub(crate) fn is_lost_renderer(self) -> bool {
        matches!(self, Self::RendererKilled | Self::RendererStalled)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_another_version_is_unknown() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), *reason);
        }
        assert_eq!(Reason::from_word("OfAnotherVersion"), Reason::Unknown);
    }

    #[test]
    fn the_book_lists_every_reason_once() {
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failures.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        for reason in Reason::ALL {
            let cell = format!("| `{reason}` |");
            let rows = guide.lines().filter(|line| line.starts_with(&cell));
            assert_eq!(rows.count(), 1, "{reason} in docs/failures.md");
        }
    }
}
