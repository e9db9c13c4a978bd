//! The model that turns a page into vectors.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SecretRef;

/// The model that turns a page into vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.model.family != 'minilm' || !(has(self.precision) || has(self.maxVisualTokens) || (has(self.poolFactor) && self.poolFactor != 1))")
        .message("embedding.precision, embedding.maxVisualTokens and embedding.poolFactor belong to the families that see pages (colqwen2, colqwen2_5, colqwen3): minilm reads text. Remove them or choose another family")
)]
pub struct EmbeddingSpec {
    /// Which model, and where its files are.
    pub model: ModelSpec,

    /// Pages that are embedded together. For the families that see pages this times
    /// `maxVisualTokens` is the most tokens of a batch; pages of different documents share one.
    /// Default: 8.
    #[serde(default = "default_batch_pages")]
    #[schemars(range(min = 1, max = 256))]
    pub batch_pages: u32,

    /// How a model that sees pages keeps its weights and computes. Default: `bf16` with
    /// `worker.gpu`, else `f32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,

    /// Most visual tokens of a page; a page is scaled down to that. More see smaller print, and
    /// cost time and index in proportion. Default: as the checkpoint says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_384))]
    pub max_visual_tokens: Option<u32>,

    /// Merges similar vectors of a page, so that this fraction of them is stored: 3 stores a
    /// third. Default: 1, all are stored.
    #[serde(default = "default_pool_factor")]
    #[schemars(range(min = 1, max = 64))]
    pub pool_factor: u32,
}

/// Which model, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.adapterUri) || self.family != 'minilm'")
        .message("embedding.model.adapterUri is for the families colqwen2, colqwen2_5 and colqwen3. Remove it or choose one of them"),
    validation = Rule::new("!has(self.secretRef) || self.uri.startsWith('hf://') || (has(self.adapterUri) && self.adapterUri.startsWith('hf://'))")
        .message("embedding.model.secretRef holds the token for hf:// addresses, and neither uri nor adapterUri is one. Remove it")
)]
pub struct ModelSpec {
    /// The model's architecture. The checkpoint must be of it, and states the width of the
    /// vectors.
    pub family: ModelFamily,

    /// The checkpoint as published: `config.json`, `tokenizer.json`, the processor's settings and
    /// the weights (`model.safetensors`, or shards with their index).
    /// `s3://bucket/prefix` (read with the credentials of `documents.objectStore`, from its
    /// endpoint; a file `SHA256SUMS` beside the others is verified),
    /// `hf://organisation/name@revision` (the Hugging Face hub; without `@revision`: `main`) or
    /// `file:///path` (mounted through `worker.pod.volumes`).
    #[schemars(regex(pattern = r"^(s3://[^/]+/.+|hf://[^/@]+/[^/@]+(@[^@]+)?|file:///.+)$"))]
    pub uri: String,

    /// A LoRA adapter that is merged into the weights: `adapter_config.json` and
    /// `adapter_model.safetensors`, at an address of the same kinds. Absent: the one beside the
    /// checkpoint's files, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(s3://[^/]+/.+|hf://[^/@]+/[^/@]+(@[^@]+)?|file:///.+)$"))]
    pub adapter_uri: Option<String>,

    /// Secret with the key `token` for `hf://` addresses that ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// A `PersistentVolumeClaim` that keeps the fetched files, so that further workers need not
    /// fetch them; `ReadWriteMany` if they run on several nodes. Absent: each pod fetches its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cache_claim: Option<String>,
}

/// The model's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum ModelFamily {
    /// all-MiniLM-L6-v2: a sentence model on the text of a page; one vector of 384 dimensions a
    /// passage. Made for CPUs and English text.
    #[serde(rename = "minilm")]
    Minilm,
    /// ColQwen2 on Qwen2-VL: sees the page; one vector a token.
    #[serde(rename = "colqwen2")]
    ColQwen2,
    /// ColQwen2.5 on Qwen2.5-VL: sees the page; one vector a token.
    #[serde(rename = "colqwen2_5")]
    ColQwen2_5,
    /// ColQwen3 on Qwen3-VL: sees the page; one vector a token.
    #[serde(rename = "colqwen3")]
    ColQwen3,
}

impl ModelFamily {
    /// Whether it sees a page's picture; the other kind reads its text.
    #[must_use]
    pub fn is_visual(self) -> bool {
        match self {
            Self::Minilm => false,
            Self::ColQwen2 | Self::ColQwen2_5 | Self::ColQwen3 => true,
        }
    }
}

impl std::fmt::Display for ModelFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Minilm => "minilm",
            Self::ColQwen2 => "colqwen2",
            Self::ColQwen2_5 => "colqwen2_5",
            Self::ColQwen3 => "colqwen3",
        })
    }
}

/// How weights are kept and numbers computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats: the reference.
    F32,
    /// 32-bit floats whose products a GPU computes with 10 bits of mantissa (TF32); as `f32` on
    /// a CPU.
    Tf32,
    /// 16-bit floats with the range of 32 bits; what the models were trained in.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Large matrices in blocks of 8-bit integers.
    Q8,
    /// Large matrices in blocks of 4-bit integers.
    Q4,
}

fn default_batch_pages() -> u32 {
    8
}

fn default_pool_factor() -> u32 {
    1
}
