//! Types of the conditions in a pipeline's status, which are also values of the metrics' label
//! `condition`.

/// Everything is in order: workers can run, and results can be stored.
pub const READY: &str = "Ready";
/// All topics exist as the spec describes them.
pub const TOPIC_READY: &str = "TopicReady";
/// Milvus responds.
pub const VECTOR_STORE_READY: &str = "VectorStoreReady";
/// Workers are ready, or none are needed.
pub const WORKERS_AVAILABLE: &str = "WorkersAvailable";
/// The number of workers follows the backlog or the user.
pub const SCALING: &str = "Scaling";
/// Questions are answered. Present only with `spec.query`.
pub const QUERY_READY: &str = "QueryReady";
/// Present only while true: the operator is still working towards the spec (kstatus: in progress).
pub const RECONCILING: &str = "Reconciling";
/// Present only while true: the spec cannot be reached without an edit (kstatus: failed).
pub const STALLED: &str = "Stalled";

/// The conditions that every status has.
pub const PERMANENT: [&str; 5] = [
    READY,
    TOPIC_READY,
    VECTOR_STORE_READY,
    WORKERS_AVAILABLE,
    SCALING,
];
/// The conditions that a status has only while they are true, as kstatus expects.
pub const TRANSIENT: [&str; 2] = [RECONCILING, STALLED];
