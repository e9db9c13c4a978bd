//! The databases that receive the results.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ArchiveSpec, CaSecretRef, Readers, RetentionSpec, TokenSecretRef, UriSecretRef};

/// Replaced by the task's `knowledge_db_id`, with `_` in place of `-`.
pub const COLLECTION_PLACEHOLDER: &str = "{knowledge_db_id}";

/// The databases that receive the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoresSpec {
    /// The Milvus that stores the vectors.
    pub milvus: MilvusSpec,

    /// The MongoDB that stores documents and their pages.
    pub mongodb: MongodbSpec,

    /// The Redis that LAYRA's progress display reads. Absent: no progress is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSpec>,
}

/// The Milvus that stores the vectors, in one collection for each knowledge base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.caSecretRef) || self.uri.startsWith('https://')")
        .message("stores.milvus.caSecretRef is for an https:// uri. Remove it, or use https:// in uri"),
    validation = Rule::new("!has(self.retention) || self.retention.action != 'Archive' || has(self.archive)")
        .message("stores.milvus.retention.action: Archive needs stores.milvus.archive"),
    validation = Rule::new("!has(self.retention) || self.retention.action != 'Release' || self.readers == 'Own'")
        .message("stores.milvus.retention.action: Release needs stores.milvus.readers: Own. LAYRA does not load a collection before it searches")
)]
pub struct MilvusSpec {
    /// `http(s)://host:port` of Milvus.
    #[schemars(regex(pattern = r"^https?://.+$"))]
    pub uri: String,

    /// The Secret and key that hold the token: `user:password` or an API key. Absent: no
    /// authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<TokenSecretRef>,

    /// The Secret and key that hold the certificates of a private authority, in PEM format, for an
    /// `https://` uri. Absent: only the authorities in the image are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// Which programs search the collections: `Layra` or `Own`. It decides what may happen to a
    /// collection that a knowledge base has. Default: `Layra`.
    #[serde(default)]
    pub readers: Readers,

    /// Where `layra-worker archive` writes collections before it drops them. Absent: nothing can be
    /// archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSpec>,

    /// What happens to collections that nobody uses, with a daily `layra-worker retain`. Absent:
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,

    /// Name of a knowledge base's collection. `{knowledge_db_id}` stands for the id in the task,
    /// with `-` replaced by `_`. Default: `colqwen{knowledge_db_id}`, as in LAYRA.
    #[serde(default = "default_collection")]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*[{]knowledge_db_id[}][A-Za-z0-9_]*$')")
        .message("stores.milvus.collection must be letters, digits and `_` around one {knowledge_db_id}, and begin with a letter or `_`"))]
    pub collection: String,

    /// The vector index of collections that the workers create. Existing collections keep theirs; a
    /// different one is reported in `status.driftedCollections`.
    #[serde(default)]
    pub index: IndexSpec,
}

impl MilvusSpec {
    /// The collection of a knowledge base.
    #[must_use]
    pub fn collection_of(&self, knowledge_base: &str) -> String {
        self.collection
            .replace(COLLECTION_PLACEHOLDER, &knowledge_base.replace('-', "_"))
    }

    /// Whether a collection's name has the form of this pipeline's collections.
    #[must_use]
    pub fn owns_collection(&self, name: &str) -> bool {
        let Some((prefix, suffix)) = self.collection.split_once(COLLECTION_PLACEHOLDER) else {
            return false;
        };
        name.len() > prefix.len() + suffix.len()
            && name.starts_with(prefix)
            && name.ends_with(suffix)
    }
}

/// A vector index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IndexSpec {
    /// Type of index: `HNSW` or `FLAT`. Default: `HNSW`.
    #[serde(default, rename = "type")]
    pub index_type: IndexType,

    /// Similarity metric: `IP` or `COSINE`. Default: `IP`, the inner product, which late
    /// interaction needs.
    #[serde(default)]
    pub metric: MetricType,

    /// HNSW: edges of a node in the graph. More edges give better recall, a slower build and more
    /// memory. Default: 32.
    #[serde(default = "default_m")]
    #[schemars(range(min = 4, max = 64))]
    pub m: u32,

    /// HNSW: candidates examined for each edge while the graph is built. Default: 500.
    #[serde(default = "default_ef_construction")]
    #[schemars(range(min = 8, max = 4096))]
    pub ef_construction: u32,
}

/// Type of a vector index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexType {
    /// A navigable graph: fast and approximate.
    #[default]
    #[serde(rename = "HNSW")]
    Hnsw,
    /// No index: every vector is compared. Exact, but slow above a few hundred thousand vectors.
    #[serde(rename = "FLAT")]
    Flat,
}

impl IndexType {
    /// Its name in Milvus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hnsw => "HNSW",
            Self::Flat => "FLAT",
        }
    }
}

/// Similarity metric of two vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MetricType {
    /// Inner product.
    #[default]
    #[serde(rename = "IP")]
    Ip,
    /// Cosine.
    #[serde(rename = "COSINE")]
    Cosine,
}

impl MetricType {
    /// Its name in Milvus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "IP",
            Self::Cosine => "COSINE",
        }
    }
}

/// The MongoDB that stores documents and their pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MongodbSpec {
    /// The Secret and key that hold the connection string.
    pub uri_secret_ref: UriSecretRef,

    /// The Secret and key that hold the certificates of a private authority, in PEM format. It turns
    /// on TLS. Absent: the connection string alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// Name of the database. Default: `mongodb`, as in LAYRA.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
}

/// The Redis that LAYRA's progress display reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisSpec {
    /// The Secret and key that hold the URL, for example `redis://:password@host:6379/1`. LAYRA
    /// keeps task progress in database 1. `rediss://` is with TLS.
    pub uri_secret_ref: UriSecretRef,

    /// The Secret and key that hold the certificates of a private authority, in PEM format, for a
    /// `rediss://` URL. Absent: only the authorities in the image are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

impl Default for IndexSpec {
    fn default() -> Self {
        Self {
            index_type: IndexType::default(),
            metric: MetricType::default(),
            m: default_m(),
            ef_construction: default_ef_construction(),
        }
    }
}

fn default_collection() -> String {
    format!("colqwen{COLLECTION_PLACEHOLDER}")
}

fn default_m() -> u32 {
    32
}

fn default_ef_construction() -> u32 {
    500
}

fn default_database() -> String {
    "mongodb".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milvus(collection: &str) -> MilvusSpec {
        MilvusSpec {
            uri: "http://milvus:19530".into(),
            token_secret_ref: None,
            ca_secret_ref: None,
            readers: Readers::default(),
            archive: None,
            retention: None,
            collection: collection.into(),
            index: IndexSpec::default(),
        }
    }

    #[test]
    fn names_collections_as_layra_does() {
        let spec = milvus(&default_collection());
        assert_eq!(
            spec.collection_of("roger_26eba553-dbee-474c-987f-6bd8c0ed6e1a"),
            "colqwenroger_26eba553_dbee_474c_987f_6bd8c0ed6e1a"
        );
    }

    #[test]
    fn owns_what_it_names() {
        let spec = milvus("a_{knowledge_db_id}_v");
        assert!(spec.owns_collection(&spec.collection_of("kb-1")));
        assert!(!spec.owns_collection("a_v"), "the placeholder is empty");
        assert!(!spec.owns_collection("b_kb_1_v"));
    }
}
