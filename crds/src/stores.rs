//! Where the results go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SecretRef;

/// Replaced by the task's `knowledge_db_id`, with `-` turned into `_`.
pub const COLLECTION_PLACEHOLDER: &str = "{knowledge_db_id}";

/// Where the results go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoresSpec {
    /// Vectors.
    pub milvus: MilvusSpec,

    /// Documents and their pages.
    pub mongodb: MongodbSpec,

    /// LAYRA's progress display. Absent: no progress is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSpec>,
}

/// The Milvus that holds the vectors, one collection for each knowledge base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MilvusSpec {
    /// `http(s)://host:port` of Milvus.
    #[schemars(regex(pattern = r"^https?://.+$"))]
    pub uri: String,

    /// Secret with the key `token` (`user:password` or an API key). Absent: no authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// Name of a knowledge base's collection; `{knowledge_db_id}` is replaced by the task's id
    /// with `-` turned into `_`. Default: `colqwen{knowledge_db_id}`, LAYRA's own.
    #[serde(default = "default_collection")]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*[{]knowledge_db_id[}][A-Za-z0-9_]*$')")
        .message("stores.milvus.collection must be letters, digits and `_` around one {knowledge_db_id}, and begin with a letter or `_`"))]
    pub collection: String,

    /// The index of collections that the workers create. Existing collections with another index
    /// are reported in the status.
    #[serde(default)]
    pub index: IndexSpec,

    /// How the worker's own `search` command asks.
    #[serde(default)]
    pub search: SearchSpec,
}

impl MilvusSpec {
    /// The collection of a knowledge base.
    #[must_use]
    pub fn collection_of(&self, knowledge_base: &str) -> String {
        self.collection
            .replace(COLLECTION_PLACEHOLDER, &knowledge_base.replace('-', "_"))
    }

    /// Whether a collection's name has the form that this pipeline gives.
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
    /// Kind of index. Default: `HNSW`.
    #[serde(default, rename = "type")]
    pub index_type: IndexType,

    /// Similarity of two vectors. Default: `IP`, the inner product, which late interaction needs.
    #[serde(default)]
    pub metric: MetricType,

    /// HNSW: edges of a node. More: better recall, slower build, more memory. Default: 32.
    #[serde(default = "default_m")]
    #[schemars(range(min = 4, max = 64))]
    pub m: u32,

    /// HNSW: candidates looked at for each edge while building. Default: 500.
    #[serde(default = "default_ef_construction")]
    #[schemars(range(min = 8, max = 4096))]
    pub ef_construction: u32,
}

/// Kind of a vector index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexType {
    /// A navigable graph: fast, approximate.
    #[default]
    #[serde(rename = "HNSW")]
    Hnsw,
    /// No index, every vector is compared: exact, slow for more than a few hundred thousand.
    #[serde(rename = "FLAT")]
    Flat,
}

impl IndexType {
    /// The name that Milvus gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hnsw => "HNSW",
            Self::Flat => "FLAT",
        }
    }
}

/// Similarity of two vectors.
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
    /// The name that Milvus gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "IP",
            Self::Cosine => "COSINE",
        }
    }
}

/// How the worker's own `search` command asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchSpec {
    /// HNSW: candidates looked at; at least `candidates`. Default: 100.
    #[serde(default = "default_ef")]
    #[schemars(range(min = 1, max = 32768))]
    pub ef: u32,

    /// Nearest vectors taken from Milvus for each vector of the question; their pages are then
    /// scored exactly. Default: 50.
    #[serde(default = "default_candidates")]
    #[schemars(range(min = 1, max = 16384))]
    pub candidates: u32,
}

/// The MongoDB that holds documents and their pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MongodbSpec {
    /// Secret with the key `uri`, a connection string.
    pub secret_ref: SecretRef,

    /// Name of the database. Default: `mongodb`, LAYRA's own.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
}

/// The Redis that LAYRA's progress display reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisSpec {
    /// Secret with the key `uri`, for example `redis://:password@host:6379/1`. LAYRA keeps task
    /// progress in database 1.
    pub secret_ref: SecretRef,
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

impl Default for SearchSpec {
    fn default() -> Self {
        Self {
            ef: default_ef(),
            candidates: default_candidates(),
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

fn default_ef() -> u32 {
    100
}

fn default_candidates() -> u32 {
    50
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
            secret_ref: None,
            collection: collection.into(),
            index: IndexSpec::default(),
            search: SearchSpec::default(),
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
        assert!(
            !spec.owns_collection("a_v"),
            "nothing stands for the placeholder"
        );
        assert!(!spec.owns_collection("b_kb_1_v"));
    }
}
