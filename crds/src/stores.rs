//! The databases that receive the results.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArchiveSpec, CaSecretRef, IndexSpec, OnIndexDrift, OnModelChange, QuotasSpec, Readers,
    RebuildSpec, RetentionSpec, TokenSecretRef, UriSecretRef, VectorType, is_rebuild_collection,
};

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
    validation = Rule::new("self.onIndexDrift != 'RebuildInPlace' || has(self.rebuild.window)")
        .message("stores.milvus.onIndexDrift: RebuildInPlace needs stores.milvus.rebuild.window: nothing finds a collection's pages while it is rebuilt. Add a window, or use RebuildBeside"),
    validation = Rule::new("self.vectorType == 'Float32' || self.readers == 'Own'")
        .message("stores.milvus.vectorType: LAYRA reads Float32 only. Use Float32, or set stores.milvus.readers: Own if LAYRA does not search these collections"),
    validation = Rule::new("self.vectorType != 'Int8' || (self.index.type == 'HNSW' && self.index.metric == 'COSINE')")
        .message("stores.milvus.vectorType: Int8 scales each vector by itself, and Milvus indexes it with HNSW only. Set stores.milvus.index.type: HNSW and metric: COSINE"),
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

    /// The vector index of the collections. New ones get it; `onIndexDrift` says what happens to
    /// existing ones with another index.
    #[serde(default)]
    pub index: IndexSpec,

    /// What happens to collections whose index differs from `index`. `Report`: they are listed in
    /// `status.driftedCollections`. `RebuildBeside`: a copy with the new index is filled beside each
    /// collection and takes its place; it needs the collection's memory and disk twice.
    /// `RebuildInPlace`: each collection is released, gets the new index and is loaded again;
    /// nothing finds its pages meanwhile. Ingestion goes on in all cases. Default: `Report`.
    #[serde(default)]
    pub on_index_drift: OnIndexDrift,

    /// What happens to collections whose vectors are of another model than `embedding`. `Refuse`: their
    /// documents wait and searches are refused, until `layra-worker reembed` has embedded them again or
    /// the model is set back; `status.otherModelCollections` lists them. `ReembedBeside`: a Job with the
    /// resources of a worker does that at once; it needs the collection's memory and disk twice.
    /// Default: `Refuse`.
    #[serde(default)]
    pub on_model_change: OnModelChange,

    /// When and how fast collections are rebuilt.
    #[serde(default)]
    pub rebuild: RebuildSpec,

    /// Who searches the collections. `Layra`: LAYRA, perhaps beside others; settings that it cannot
    /// read are refused, and a collection that a knowledge base has stays loaded. `Own`: only other
    /// programs, for example `layra-worker search`. Default: `Layra`.
    #[serde(default)]
    pub readers: Readers,

    /// Number format of the vectors in collections that the workers create; existing collections
    /// keep theirs. `Float16` and `BFloat16` (Milvus 2.4) take half the bytes of `Float32`, `Int8`
    /// (Milvus 2.6, with `metric: COSINE`) a quarter. With vectors of `minilm` none of them lost one
    /// of the ten best pages; `layra-worker tune` computes what they cost with yours. All but
    /// `Float32` need `readers: Own`. Default: `Float32`.
    #[serde(default)]
    pub vector_type: VectorType,

    /// The most that the pipeline may hold in Milvus. At 80 % a condition says so; at the limit
    /// documents wait, and go on by themselves when there is room. Absent: no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<QuotasSpec>,
}

impl MilvusSpec {
    /// The collection of a knowledge base.
    #[must_use]
    pub fn collection_of(&self, knowledge_base: &str) -> String {
        self.collection
            .replace(COLLECTION_PLACEHOLDER, &knowledge_base.replace('-', "_"))
    }

    /// The part of a collection's name that stands for its knowledge base.
    #[must_use]
    pub fn knowledge_base_part<'a>(&self, name: &'a str) -> &'a str {
        let parts = self.collection.split_once(COLLECTION_PLACEHOLDER);
        let (prefix, suffix) = parts.unwrap_or_default();
        let name = name.strip_prefix(prefix).unwrap_or(name);
        name.strip_suffix(suffix).unwrap_or(name)
    }

    /// Whether a collection's name has the form of this pipeline's collections.
    #[must_use]
    pub fn owns_collection(&self, name: &str) -> bool {
        let Some((prefix, suffix)) = self.collection.split_once(COLLECTION_PLACEHOLDER) else {
            return false;
        };
        !is_rebuild_collection(name)
            && name.len() > prefix.len() + suffix.len()
            && name.starts_with(prefix)
            && name.ends_with(suffix)
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

    /// Creates the indexes that workers and LAYRA need and that do not exist. Otherwise missing ones
    /// are only reported. MongoDB builds an index without blocking reads and writes, but the build
    /// costs I/O and memory. Unique ids of files and knowledge bases, and the indexes of the ledger,
    /// are created in any case: documents are stored once because of them. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub manage_indexes: bool,
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

fn default_collection() -> String {
    format!("colqwen{COLLECTION_PLACEHOLDER}")
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
            archive: None,
            retention: None,
            collection: collection.into(),
            index: IndexSpec::default(),
            on_index_drift: OnIndexDrift::default(),
            on_model_change: OnModelChange::default(),
            rebuild: RebuildSpec::default(),
            readers: Readers::default(),
            vector_type: VectorType::default(),
            quotas: None,
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
        assert_eq!(spec.knowledge_base_part("a_kb_1_v"), "kb_1");
        let rebuild = crate::rebuild_collection(&"0".repeat(32), "new");
        assert!(!milvus("l{knowledge_db_id}").owns_collection(&rebuild));
    }
}
