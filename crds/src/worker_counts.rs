//! The counts that a worker reports to the operator, as JSON next to its metrics.

use serde::{Deserialize, Serialize};

use crate::{DriftedCollection, QuotaUse};

/// The port of a worker's HTTP server: `/metrics`, `/healthz`, `/readyz` and
/// [`WORKER_COUNTS_PATH`].
pub const WORKER_HTTP_PORT: u16 = 9090;

/// Where a worker serves its [`WorkerCounts`].
pub const WORKER_COUNTS_PATH: &str = "/counts";

/// In [`WorkerCounts::waiting_for`]: the worker starts no document, because a quota of the pipeline
/// is reached.
pub const WAITS_FOR_QUOTA: &str = "quota";

/// In [`WorkerCounts::retry_reasons`]: a collection is of another model than the worker's, or is being
/// embedded again.
pub const MODEL_MISMATCH: &str = "ModelMismatch";

/// Collections that are named of all that a report counts.
pub const MOST_NAMED: usize = 20;

/// What a worker has processed since it started, and what it has in progress.
///
/// Counters start at 0 with the process; the operator takes differences of two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerCounts {
    /// Pages that became searchable.
    pub pages: u64,
    /// Documents that were completed or failed for good. Retries do not count.
    pub documents: u64,
    /// Page ranges of split documents that were stored.
    pub ranges: u64,
    /// Pages of those ranges.
    pub range_pages: u64,
    /// Seconds in which at least one document was in progress, without those in which every one
    /// waited for a server.
    pub busy_seconds: f64,
    /// Seconds of work of the longest recent document or page range, without its waits for servers
    /// and for other documents.
    pub longest_work_seconds: f64,
    /// Stored pages of one colour, without text.
    pub blank_pages: u64,
    /// Stored pages on which something is drawn, without text.
    pub pages_without_text: u64,
    /// Stored pages with letters that were not drawn, because there is no font for their script.
    pub pages_with_missing_glyphs: u64,
    /// Documents and page ranges in progress.
    pub documents_in_flight: u32,
    /// Partitions that the consumer group has assigned to the worker.
    pub partitions: Vec<AssignedPartition>,
    /// Messages that were processed before others of their partition that were sent earlier. Their
    /// offsets are not committed yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processed_ahead: Vec<ProcessedAhead>,
    /// The servers that all documents in progress wait for, by their names in `/readyz`, or
    /// [`WAITS_FOR_QUOTA`]. Empty if at least one document makes progress, or none is in progress.
    pub waiting_for: Vec<String>,
    /// Ledger entries of the pipeline whose recheck is due, or will be within 15 minutes. Absent
    /// until they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_rechecks: Option<u64>,
    /// Seconds from the start of the process until it was ready for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_seconds: Option<f64>,
    /// The stages that are retrying, each with its latest failure, for people. A worker that starts
    /// waits for its servers, too.
    pub retrying: Vec<String>,
    /// The reason of each entry of `retrying`, for example [`MODEL_MISMATCH`]. Empty in the counts of
    /// earlier versions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retry_reasons: Vec<String>,
    /// No document is started, because a quota of the pipeline is reached. Those that were begun may
    /// make progress.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held_by_quota: bool,
    /// The quotas, and limits of LAYRA, of which at least 80 % are used, the fullest first. Absent
    /// until they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Vec<QuotaUse>>,
    /// Documents of the pipeline that wait until their knowledge base has room.
    pub without_room: u64,
    /// Indexes of MongoDB that do not exist, each with the query that needs it, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_indexes: Vec<String>,
    /// The pipeline's collections whose vectors are of another model than the worker's. Absent until
    /// they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_models: Option<OtherModels>,
}

/// Collections whose vectors are of another model than a worker's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtherModels {
    /// The checksum of the worker's model, as in `status.model`.
    pub checksum: String,
    /// Its `embedding.poolFactor`.
    pub pool_factor: u32,
    /// Their number.
    pub collections: u64,
    /// The first [`MOST_NAMED`] by name.
    pub first: Vec<DriftedCollection>,
}

/// A partition that the consumer group has assigned to a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedPartition {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition, from 0.
    pub partition: i32,
}

/// Messages of a partition that were processed, and whose offsets cannot be committed before others
/// are processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessedAhead {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition, from 0.
    pub partition: i32,
    /// Their number.
    pub messages: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_another_version_are_read_as_far_as_they_are_known() {
        let counts: WorkerCounts = serde_json::from_str(r#"{"pages": 3, "later": true}"#).unwrap();
        assert_eq!(counts.pages, 3);
        assert_eq!(counts.documents_in_flight, 0);
        assert!(counts.waiting_for.is_empty());
        assert_eq!((counts.open_rechecks, counts.startup_seconds), (None, None));
        assert_eq!((counts.retry_reasons.len(), counts.other_models), (0, None));
    }

    #[test]
    fn field_names_are_camel_case() {
        let counts = WorkerCounts {
            partitions: vec![AssignedPartition {
                topic: "tasks".into(),
                partition: 2,
            }],
            waiting_for: vec!["mongodb".into()],
            open_rechecks: Some(2),
            startup_seconds: Some(1.5),
            ..WorkerCounts::default()
        };
        let json = serde_json::to_value(&counts).unwrap();
        assert_eq!(json["busySeconds"], 0.0);
        assert_eq!(json["partitions"][0]["partition"], 2);
        assert_eq!(json["waitingFor"][0], "mongodb");
        assert_eq!(json["openRechecks"], 2);
        assert_eq!(json["startupSeconds"], 1.5);
        assert_eq!(
            serde_json::from_value::<WorkerCounts>(json).unwrap(),
            counts
        );
    }
}
