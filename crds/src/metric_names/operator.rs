//! Metrics of the operator.

/// Tasks and page ranges that are not processed yet, of one pipeline. A lower bound while some
/// partitions cannot be read. Absent while unknown.
pub const CONSUMER_LAG: &str = "kafka_consumer_lag";

/// Records that Kafka deleted before they were processed, of one pipeline. An upper bound.
pub const LOST_RECORDS: &str = "layra_operator_lost_records_total";

/// Reconciles that finished, successful or not.
pub const RECONCILES: &str = "layra_operator_reconciles_total";
/// Reconciles that failed, by pipeline and [`REASON_LABEL`].
pub const RECONCILE_ERRORS: &str = "layra_operator_reconcile_errors_total";
/// Histogram of the duration of a reconcile.
pub const RECONCILE_DURATION: &str = "layra_operator_reconcile_duration_seconds";
/// Objects that were applied, by [`KIND_LABEL`]. Constant in a steady state.
pub const APPLIED_OBJECTS: &str = "layra_operator_applied_objects_total";
/// 1 in the process that holds the lease.
pub const LEADER: &str = "layra_operator_leader";
/// Tasks of the asynchronous runtime that have not ended.
pub const ASYNC_TASKS: &str = "layra_operator_async_tasks";

/// Desired worker replicas, set by the autoscaler or the user.
pub const DESIRED_REPLICAS: &str = "layra_operator_desired_replicas";
/// Worker replicas that are ready.
pub const READY_REPLICAS: &str = "layra_operator_ready_replicas";
/// Workers that have a node and are not ready yet.
pub const STARTING_WORKERS: &str = "layra_operator_starting_workers";
/// Pending workers: no node has room for them.
pub const WAITING_WORKERS: &str = "layra_operator_waiting_workers";
/// Conditions of the pipeline, by [`CONDITION_LABEL`]: 1 true, 0 false, -1 unknown.
pub const PIPELINE_CONDITION: &str = "layra_operator_pipeline_condition";
/// 1 for each [`REASON_LABEL`] that a condition of the pipeline has now.
pub const PIPELINE_REASON: &str = "layra_operator_pipeline_reason";

/// Vectors in each of the largest collections of a pipeline, by [`COLLECTION_LABEL`].
pub const COLLECTION_ENTITIES: &str = "milvus_collection_entities";
/// Vectors in all collections of a pipeline.
pub const ENTITIES: &str = "milvus_entities";

/// Collections whose index differs from the spec.
pub const DRIFTED_COLLECTIONS: &str = "layra_operator_drifted_collections";
/// Collections that are being rebuilt with the index of the spec.
pub const REBUILDING_COLLECTIONS: &str = "layra_operator_rebuilding_collections";

/// Estimated pages in the backlog.
pub const BACKLOG_PAGES: &str = "layra_operator_backlog_pages";
/// Page ranges in the backlog.
pub const BACKLOG_RANGES: &str = "layra_operator_backlog_ranges";
/// Lower bound of the age of the oldest message in the backlog.
pub const BACKLOG_OLDEST_SECONDS: &str = "layra_operator_backlog_oldest_seconds";
/// Seconds until the oldest message in the backlog misses the drain target; negative when it has.
pub const DEADLINE_SECONDS: &str = "layra_operator_deadline_seconds";
/// Pages that arrive per second.
pub const ARRIVING_PAGES_PER_SECOND: &str = "layra_operator_arriving_pages_per_second";
/// Partitions with a backlog.
pub const PARTITIONS_WITH_WORK: &str = "layra_operator_partitions_with_work";
/// Partitions with a backlog and no progress.
pub const STUCK_PARTITIONS: &str = "layra_operator_stuck_partitions";

/// Pages per second of one busy worker.
pub const WORKER_PAGES_PER_SECOND: &str = "layra_operator_worker_pages_per_second";
/// Pages per document.
pub const DOCUMENT_PAGES: &str = "layra_operator_document_pages";
/// Seconds from scheduling to readiness of a worker.
pub const WORKER_STARTUP_SECONDS: &str = "layra_operator_worker_startup_seconds";
/// Seconds until a worker is placed on a node.
pub const WORKER_PROVISIONING_SECONDS: &str = "layra_operator_worker_provisioning_seconds";
/// Seconds that the longest recent document or page range took.
pub const WORKER_LONGEST_WORK_SECONDS: &str = "layra_operator_worker_longest_work_seconds";

/// Terms of the last scaling decision in workers, by [`TERM_LABEL`].
pub const SCALING_TERM_WORKERS: &str = "layra_operator_scaling_term_workers";
/// 1 for each limit that applied to the last scaling decision, by [`LIMIT_LABEL`].
pub const SCALING_LIMITED: &str = "layra_operator_scaling_limited";

/// Label: namespace of the pipeline.
pub const NAMESPACE_LABEL: &str = "namespace";
/// Label: name of the pipeline.
pub const PIPELINE_LABEL: &str = "pipeline";
/// Label: type of a condition, for example `Ready`.
pub const CONDITION_LABEL: &str = "condition";
/// Label: name of a collection in Milvus.
pub const COLLECTION_LABEL: &str = "collection";
/// Label: what failed in a reconcile, or the reason of a condition.
pub const REASON_LABEL: &str = "reason";
/// Label: kind of an object, for example `Deployment`.
pub const KIND_LABEL: &str = "kind";
/// Label: term of a scaling decision, for example `for_backlog`.
pub const TERM_LABEL: &str = "term";
/// Label: limit of a scaling decision, for example `MaxReplicas`.
pub const LIMIT_LABEL: &str = "limit";
