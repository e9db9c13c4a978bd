//! The progress that the Job that rebuilds collections reports to the operator, as JSON.

use serde::{Deserialize, Serialize};

/// Where `layra-worker reindex` serves its [`ReindexProgress`], on
/// [`WORKER_HTTP_PORT`](crate::WORKER_HTTP_PORT).
pub const REINDEX_PATH: &str = "/reindex";

/// Entries of [`ReindexProgress::entries`].
pub const MOST_REINDEX_ENTRIES: usize = 20;

/// The rebuild of a pipeline's collections. Numbers are those of this run of the command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReindexProgress {
    /// The pipeline's collections.
    pub collections: u64,
    /// Those whose index differs from the object's, including those that are being rebuilt.
    pub drifted: u64,
    /// Those that are being rebuilt.
    pub rebuilding: u64,
    /// Those that were rebuilt and serve with the new index.
    pub done: u64,
    /// Those whose rebuild failed and is not being tried again.
    pub failed: u64,
    /// At most [`MOST_REINDEX_ENTRIES`] collections: those being rebuilt, those that failed, then
    /// the latest that are done.
    pub entries: Vec<ReindexEntry>,
    /// Estimated seconds until all are done. Absent: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// What it does or why it waits, for people.
    pub message: String,
}

/// The rebuild of one collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReindexEntry {
    /// Name of the collection.
    pub name: String,
    /// How far it is.
    pub phase: ReindexPhase,
    /// Vectors in the new index.
    pub copied: u64,
    /// Vectors of the collection.
    pub total: u64,
    /// What it waits for or why it failed, for people. Empty: nothing to say.
    pub message: String,
}

/// How far the rebuild of a collection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReindexPhase {
    /// The copy is filled.
    Copying,
    /// The index is built.
    Indexing,
    /// What was written and deleted meanwhile is brought into the copy, and the copy is checked.
    Verifying,
    /// The copy takes the collection's place.
    Swapping,
    /// The collection serves with the new index.
    Done,
    /// The rebuild failed; the collection serves with its old index.
    Failed,
    /// A phase of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ReindexPhase {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "Copying",
            Self::Indexing => "Indexing",
            Self::Verifying => "Verifying",
            Self::Swapping => "Swapping",
            Self::Done => "Done",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    /// Whether the collection is being rebuilt.
    #[must_use]
    pub fn is_going_on(self) -> bool {
        !matches!(self, Self::Done | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_reports_is_read() {
        let progress: ReindexProgress = serde_json::from_str(
            r#"{"collections": 3, "etaSeconds": 5, "later": 1,
                "entries": [{"name": "a", "phase": "Thinking"}, {"name": "b", "phase": "Copying"}]}"#,
        )
        .unwrap();
        assert_eq!((progress.collections, progress.eta_seconds), (3, Some(5)));
        let phases: Vec<_> = progress.entries.iter().map(|entry| entry.phase).collect();
        assert_eq!(phases, [ReindexPhase::Unknown, ReindexPhase::Copying]);
        assert_eq!(
            serde_json::to_value(ReindexPhase::Copying).unwrap(),
            ReindexPhase::Copying.as_str()
        );
    }
}
