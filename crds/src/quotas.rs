//! Quotas of the vector store, and how much of them is used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Vectors of one page that LAYRA reads. It ignores the others.
pub const LAYRA_PAGE_VECTORS: u64 = 1000;

/// The most that a pipeline may hold in Milvus. What its collections hold counts, whoever wrote it.
/// Documents that were begun are finished, so that a quota can be exceeded by those in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotasSpec {
    /// Collections, which is one for each knowledge base. At the limit, documents of knowledge bases
    /// without a collection wait. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub collections: Option<u32>,

    /// Vectors in all collections. At the limit, no worker starts a further document. Absent: no
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub vectors: Option<u64>,

    /// Bytes of the vectors in all collections: their number, times their dimensions, times 4. Their
    /// index and ids come on top. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_000_u64))]
    pub bytes: Option<u64>,

    /// The most that each single knowledge base may hold. At the limit, its documents wait and those
    /// of others go on.
    #[serde(default, skip_serializing_if = "KnowledgeBaseQuotas::is_unlimited")]
    pub per_knowledge_base: KnowledgeBaseQuotas,
}

/// The most that a knowledge base may hold in Milvus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KnowledgeBaseQuotas {
    /// Vectors in its collection. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_u64))]
    pub vectors: Option<u64>,

    /// Bytes of the vectors in its collection: their number, times their dimensions, times 4.
    /// Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000_000_u64))]
    pub bytes: Option<u64>,
}

impl KnowledgeBaseQuotas {
    fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum QuotaKind {
    /// Collections of the pipeline.
    Collections,
    /// Vectors of the pipeline or a knowledge base.
    Vectors,
    /// Bytes of these vectors.
    Bytes,
    /// Bytes of the document in which LAYRA lists the files of a knowledge base: MongoDB limits it to
    /// 16 MB.
    Files,
    /// Vectors of a page: LAYRA reads [`LAYRA_PAGE_VECTORS`].
    PageVectors,
    /// A kind that a later version counts.
    #[serde(other)]
    Unknown,
}

impl QuotaKind {
    /// Its name in metrics and sentences.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collections => "collections",
            Self::Vectors => "vectors",
            Self::Bytes => "bytes",
            Self::Files => "bytes of the list of files",
            Self::PageVectors => "vectors of a page",
            Self::Unknown => "unknown",
        }
    }
}

/// How much of a quota is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUse {
    /// What it counts.
    pub kind: QuotaKind,
    /// The knowledge base, if it is the quota of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knowledge_base: Option<String>,
    /// How much there is.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

impl QuotaUse {
    /// The limit is reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.used >= self.limit
    }

    /// Four fifths of the limit are reached.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.percent() >= 80
    }

    /// The used part, rounded down.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let percent = u128::from(self.used) * 100 / u128::from(self.limit.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(used: u64, limit: u64) -> QuotaUse {
        QuotaUse {
            kind: QuotaKind::Vectors,
            knowledge_base: None,
            used,
            limit,
        }
    }

    #[test]
    fn a_quota_is_near_from_four_fifths_on_and_reached_at_its_limit() {
        for (count, near, reached) in [
            (79, false, false),
            (80, true, false),
            (99, true, false),
            (100, true, true),
            (400, true, true),
        ] {
            let used = used(count, 100);
            assert_eq!((used.is_near(), used.is_reached()), (near, reached));
        }
        assert_eq!(used(u64::MAX, u64::MAX).percent(), 100);
    }

    #[test]
    fn a_kind_of_a_later_version_is_readable() {
        let later = r#"{"kind": "graphs", "used": 1, "limit": 2}"#;
        let read: QuotaUse = serde_json::from_str(later).unwrap();
        assert_eq!(read.kind, QuotaKind::Unknown);
    }
}
