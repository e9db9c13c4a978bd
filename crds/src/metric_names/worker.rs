//! Metrics of a worker. The names without the prefix `ingestion_` are those of the operators'
//! guide.

/// Documents processed, by [`STATUS`].
pub const FILES: &str = "ingestion_files_total";
/// Label of [`FILES`].
pub const STATUS: &str = "status";
/// Value of [`STATUS`]: every page is searchable.
pub const STATUS_SUCCESS: &str = "success";
/// Value of [`STATUS`]: the document has a dead letter.
pub const STATUS_FAILED: &str = "failed";
/// Value of [`STATUS`]: the ledger had the document already, and it was started again.
pub const STATUS_RETRIED: &str = "retried";

/// Seconds from a task's arrival to its last vector.
pub const INGESTION_DURATION: &str = "ingestion_duration_seconds";
/// Seconds to fetch one original from the object store.
pub const FETCH_DURATION: &str = "ingestion_fetch_duration_seconds";
/// Seconds to render one page.
pub const CONVERSION_DURATION: &str = "conversion_duration_seconds";
/// Seconds to embed one batch of pages.
pub const EMBEDDING_DURATION: &str = "embedding_duration_seconds";
/// Tokens of one embedded batch.
pub const EMBEDDING_BATCH_TOKENS: &str = "ingestion_embedding_batch_tokens";
/// Pages of one embedded batch.
pub const EMBEDDING_BATCH_PAGES: &str = "ingestion_embedding_batch_pages";
/// Batches that did not fit into the device's memory.
pub const EMBEDDING_OUT_OF_MEMORY: &str = "ingestion_embedding_out_of_memory_total";
/// Bytes of the GPU's memory in use, by all processes; 0 on a CPU.
pub const GPU_MEMORY_USAGE: &str = "gpu_memory_usage_bytes";
/// Bytes of the GPU's whole memory; 0 on a CPU.
pub const GPU_MEMORY_TOTAL: &str = "gpu_memory_total_bytes";
/// Seconds to write one batch to a store, by [`STORE`].
pub const STORE_DURATION: &str = "ingestion_store_duration_seconds";
/// Label of [`STORE_DURATION`]: `objects`, `mongodb` or `milvus`.
pub const STORE: &str = "store";

/// Pages that became searchable.
pub const PAGES: &str = "ingestion_pages_total";
/// Pages that were skipped because they cannot be rendered or embedded, by [`REASON`].
pub const PAGES_SKIPPED: &str = "ingestion_pages_skipped_total";
/// Stored pages on which something is missing, by [`WARNING`]: `Blank`, `NoText`, `MissingGlyphs`.
pub const PAGE_WARNINGS: &str = "ingestion_page_warnings_total";
/// Documents on which something is missing, by [`WARNING`]: `XfaForm`, `FirstFrameOnly`.
pub const DOCUMENT_WARNINGS: &str = "ingestion_document_warnings_total";
/// Label of [`PAGE_WARNINGS`] and [`DOCUMENT_WARNINGS`].
pub const WARNING: &str = "warning";
/// Stored pages with letters that were not drawn, by their [`SCRIPT`].
pub const MISSING_GLYPHS: &str = "ingestion_pages_missing_glyphs_total";
/// Label of [`MISSING_GLYPHS`].
pub const SCRIPT: &str = "script";
/// Dots per inch of one rendered page.
pub const PAGE_DPI: &str = "ingestion_page_dpi";
/// Documents whose first page was rendered, by [`FORMAT`].
pub const DOCUMENTS_OPENED: &str = "ingestion_documents_opened_total";
/// Label of [`DOCUMENTS_OPENED`]: `pdf`, `docx`, `png` and so on.
pub const FORMAT: &str = "format";
/// Renderers that ended before their document was done, by [`REASON`].
pub const RENDERERS_LOST: &str = "ingestion_renderers_lost_total";
/// Vectors written to Milvus.
pub const VECTORS: &str = "ingestion_vectors_total";
/// Attempts that failed because a server was unavailable, by [`STAGE`].
pub const RETRIES: &str = "ingestion_retries_total";
/// Label of [`RETRIES`].
pub const STAGE: &str = "stage";
/// Documents or page ranges repeated because a store did not hold them exactly once.
pub const REPEATS: &str = "ingestion_repeats_total";
/// Documents split into page ranges.
pub const SPLITS: &str = "ingestion_splits_total";
/// Page ranges of split documents that were stored.
pub const RANGES: &str = "ingestion_ranges_total";
/// Pages of the stored page ranges.
pub const RANGE_PAGES: &str = "ingestion_range_pages_total";
/// Bytes of pages that are rendered and not yet stored.
pub const PAGES_IN_FLIGHT: &str = "ingestion_pages_in_flight_bytes";

/// Files and knowledge bases deleted by message, by [`KIND`].
pub const DELETIONS: &str = "ingestion_deletions_total";
/// Label of [`DELETIONS`].
pub const KIND: &str = "kind";
/// Value of [`KIND`].
pub const KIND_FILE: &str = "file";
/// Value of [`KIND`].
pub const KIND_KNOWLEDGE_BASE: &str = "knowledge_base";
/// Dead letters sent, by [`REASON`].
pub const DEAD_LETTERS: &str = "ingestion_dead_letters_total";
/// Label of [`DEAD_LETTERS`] and [`PAGES_SKIPPED`].
pub const REASON: &str = "reason";
/// Foreign messages, by [`ACTION`].
pub const FOREIGN_MESSAGES: &str = "ingestion_foreign_messages_total";
/// Label of [`FOREIGN_MESSAGES`].
pub const ACTION: &str = "action";
/// Value of [`ACTION`]: the message was ignored.
pub const ACTION_SKIP: &str = "skip";
/// Value of [`ACTION`]: the message was copied to another topic.
pub const ACTION_FORWARD: &str = "forward";

/// Changes that the notifications of a bucket named, by [`RESULT`].
pub const BUCKET_CHANGES: &str = "ingestion_bucket_changes_total";
/// Label of [`BUCKET_CHANGES`].
pub const RESULT: &str = "result";
/// Value of [`RESULT`]: the bucket holds the object. It is ingested, unless it is stored already.
pub const RESULT_PRESENT: &str = "present";
/// Value of [`RESULT`]: the bucket does not hold the object any more.
pub const RESULT_GONE: &str = "gone";
/// Value of [`RESULT`]: ignored, because the object's key does not fit the template.
pub const RESULT_OUTSIDE_TEMPLATE: &str = "outside_template";
/// Value of [`RESULT`]: ignored, because a worker has written the object.
pub const RESULT_OWN_OBJECT: &str = "own_object";
/// Value of [`RESULT`]: ignored, because the object is in another bucket.
pub const RESULT_OTHER_BUCKET: &str = "other_bucket";

/// Documents and page ranges in progress.
pub const DOCUMENTS_IN_FLIGHT: &str = "ingestion_documents_in_flight";
/// Messages that were read and wait for their turn.
pub const READ_AHEAD: &str = "ingestion_messages_read_ahead";
/// Seconds in which at least one document was in progress, without those in which every one waited
/// for a server.
pub const BUSY_SECONDS: &str = "ingestion_busy_seconds_total";
/// Seconds of work of the longest recent document or page range. Waits for servers, for the turn of
/// a document and for memory that others use are not work. Halves every six hours without work as
/// long.
pub const LONGEST_WORK: &str = "ingestion_longest_work_seconds";
/// Documents of the pipeline, in the ledger that all workers share, whose recheck is due or will be
/// within 15 minutes.
pub const OPEN_RECHECKS: &str = "ingestion_open_rechecks";
/// 1 for each partition assigned to the worker, by [`TOPIC`] and [`PARTITION`].
pub const PARTITION_ASSIGNED: &str = "ingestion_partition_assigned";
/// Label of [`PARTITION_ASSIGNED`].
pub const TOPIC: &str = "topic";
/// Label of [`PARTITION_ASSIGNED`].
pub const PARTITION: &str = "partition";
/// Number of partitions assigned to the worker.
pub const PARTITIONS_ASSIGNED: &str = "ingestion_partitions_assigned";
/// Rebalances of the consumer group.
pub const REBALANCES: &str = "ingestion_rebalances_total";
/// Used part of a quota, or of a limit of LAYRA, by [`QUOTA`]: 1 is the limit. Of knowledge bases, the
/// fullest that the worker knows.
pub const QUOTA_USED: &str = "ingestion_quota_used_ratio";
/// Label of [`QUOTA_USED`]: `collections`, `vectors`, `bytes`, `knowledge_base_vectors`,
/// `knowledge_base_bytes`, `knowledge_base_files` or `page_vectors`.
pub const QUOTA: &str = "quota";
/// Documents of the pipeline that wait until their knowledge base has room.
pub const WITHOUT_ROOM: &str = "ingestion_documents_without_room";
/// Pages with more vectors than LAYRA reads.
pub const PAGES_CUT: &str = "ingestion_pages_cut_total";
/// Indexes of MongoDB that workers or LAYRA need and that do not exist.
pub const MISSING_INDEXES: &str = "ingestion_missing_indexes";
/// 1 if the model reads images, 0 if it reads text only.
pub const MODEL_READS_IMAGES: &str = "ingestion_model_reads_images";

/// Tasks of the asynchronous runtime that have not ended.
pub const ASYNC_TASKS: &str = "ingestion_async_tasks";
/// CPU time in seconds, by [`PROCESS`].
pub const CPU_SECONDS: &str = "ingestion_cpu_seconds_total";
/// Resident memory in bytes, by [`PROCESS`]. Memory that renderers share counts in each.
pub const MEMORY: &str = "ingestion_memory_bytes";
/// Label of [`CPU_SECONDS`] and [`MEMORY`].
pub const PROCESS: &str = "process";
/// Value of [`PROCESS`]: the worker itself.
pub const PROCESS_WORKER: &str = "worker";
/// Value of [`PROCESS`]: its renderers together, LibreOffice included.
pub const PROCESS_RENDERERS: &str = "renderers";
/// Bytes that the worker and its renderers have read from or written to disks, by [`DIRECTION`]. A
/// renderer's count from its end on.
pub const DISK_BYTES: &str = "ingestion_disk_bytes_total";
/// Label of [`DISK_BYTES`].
pub const DIRECTION: &str = "direction";
/// Value of [`DIRECTION`].
pub const DIRECTION_READ: &str = "read";
/// Value of [`DIRECTION`].
pub const DIRECTION_WRITE: &str = "write";
