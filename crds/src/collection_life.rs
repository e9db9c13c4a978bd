//! The life of collections: who reads them, and where unused ones go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where archives of collections are written: on the object store of the documents, with its
/// credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSpec {
    /// Bucket. It must exist.
    #[schemars(length(min = 1, max = 63))]
    pub bucket: String,

    /// Prefix of all keys, without a slash at its ends. Default: `archive`.
    #[serde(default = "default_prefix")]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$')")
        .message("stores.milvus.archive.prefix must be letters, digits, `.`, `_` and `-`, with `/` only between them"))]
    pub prefix: String,

    /// S3 storage class of the archives, for example `STANDARD_IA` or `GLACIER_IR`. Its objects must
    /// be readable at once. Absent: the bucket's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!(self in ['GLACIER', 'DEEP_ARCHIVE'])")
        .message("stores.milvus.archive.storageClass: objects of this class cannot be read at once, and an archive is verified by reading it. Use GLACIER_IR, STANDARD_IA or ONEZONE_IA, and move old archives by a rule of the bucket"))]
    pub storage_class: Option<String>,
}

/// What happens to collections that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Days without a search or a write after which a collection is unused. What is not known counts
    /// as use. Default: 90.
    #[serde(default = "default_unused_days")]
    #[schemars(range(min = 1, max = 3650))]
    pub unused_for_days: u32,

    /// Days between the notice and the action. Default: 7.
    #[serde(default = "default_notice_days")]
    #[schemars(range(min = 0, max = 365))]
    pub notice_days: u32,

    /// `Release`: the collection leaves Milvus' memory; the next write or search loads it.
    /// `Archive`: as `layra-worker archive`. `Delete`: the knowledge base is deleted with all its
    /// documents, as by `layra-worker delete`. With `readers: Layra`, `Archive` and `Delete` only
    /// act on collections whose knowledge base is gone, or marked as deleted, in MongoDB.
    pub action: RetentionAction,

    /// Report what would happen, and do nothing. Default: `false`.
    #[serde(default)]
    pub dry_run: bool,
}

/// What happens to an unused collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetentionAction {
    /// Release it from Milvus' memory.
    Release,
    /// Archive it.
    Archive,
    /// Delete its knowledge base.
    Delete,
}

fn default_unused_days() -> u32 {
    90
}

fn default_notice_days() -> u32 {
    7
}

fn default_prefix() -> String {
    "archive".to_owned()
}
