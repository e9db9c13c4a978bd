//! The model that embeds pages as vectors.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TokenSecretRef;

/// The model that embeds pages as vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.model.family != 'minilm' || !(has(self.precision) || has(self.maxVisualTokens) || (has(self.poolFactor) && self.poolFactor != 1))")
        .message("embedding.precision, embedding.maxVisualTokens and embedding.poolFactor belong to the visual families (colqwen2, colqwen2_5, colqwen3): minilm reads text. Remove them or choose another family")
)]
pub struct EmbeddingSpec {
    /// The model, and where its files are stored.
    pub model: ModelSpec,

    /// Pages in a batch. For visual families a batch has at most `batchPages` times
    /// `maxVisualTokens` tokens. Pages of different documents share a batch. Default: 8.
    #[serde(default = "default_batch_pages")]
    #[schemars(range(min = 1, max = 256))]
    pub batch_pages: u32,

    /// Number format of a visual model's weights and arithmetic: `f32`, `tf32`, `bf16`, `f16` or
    /// `q8`. Default: `bf16` with `worker.gpu`, otherwise `f32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,

    /// Largest number of visual tokens of a page; larger pages are scaled down. More tokens resolve
    /// smaller print, and cost time and index size in proportion. Default: the checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_384))]
    pub max_visual_tokens: Option<u32>,

    /// Merges similar vectors of a page, so that fewer are stored: 3 stores a third of them.
    /// Default: 1, which stores all.
    #[serde(default = "default_pool_factor")]
    #[schemars(range(min = 1, max = 64))]
    pub pool_factor: u32,
}

/// The model, and where its files are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.adapterUri) || self.family != 'minilm'")
        .message("embedding.model.adapterUri is for the families colqwen2, colqwen2_5 and colqwen3. Remove it or choose one of them"),
    validation = Rule::new("!has(self.tokenSecretRef) || self.uri.startsWith('hf://') || (has(self.adapterUri) && self.adapterUri.startsWith('hf://'))")
        .message("embedding.model.tokenSecretRef holds the token for hf:// addresses, but neither uri nor adapterUri is one. Remove it")
)]
pub struct ModelSpec {
    /// The model's architecture: `minilm` reads the text of a page, `colqwen2`, `colqwen2_5` and
    /// `colqwen3` its image. The checkpoint must have this architecture; it determines the vectors'
    /// dimensions.
    pub family: ModelFamily,

    /// Address of the published checkpoint: `config.json`, `tokenizer.json`, the processor's
    /// settings and the weights (`model.safetensors`, or shards with their index). One of
    /// `s3://bucket/prefix` (at the endpoint and with the credentials of `documents.objectStore`; a
    /// file `SHA256SUMS` next to the others is verified), `hf://organisation/name@revision` (the
    /// Hugging Face hub; without `@revision`, `main`) and `file:///path` (on a volume of
    /// `worker.podTemplate`, mounted in `worker` and `fetch-model`).
    #[schemars(regex(pattern = r"^(s3://[^/]+/.+|hf://[^/@]+/[^/@]+(@[^@]+)?|file:///.+)$"))]
    pub uri: String,

    /// Address of a LoRA adapter that is merged into the weights: `adapter_config.json` and
    /// `adapter_model.safetensors`. It has the same forms as `uri`. Absent: the adapter next to the
    /// checkpoint's files, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(s3://[^/]+/.+|hf://[^/@]+/[^/@]+(@[^@]+)?|file:///.+)$"))]
    pub adapter_uri: Option<String>,

    /// The Secret and key that hold the token for `hf://` addresses that require one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<TokenSecretRef>,

    /// Name of a `PersistentVolumeClaim` that caches the model's files for all workers. It must be
    /// `ReadWriteMany` if workers run on several nodes. Absent: each pod downloads the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cache_claim: Option<String>,
}

/// The model's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum ModelFamily {
    /// all-MiniLM-L6-v2: a sentence model that reads the text of a page. One vector of 384
    /// dimensions for each passage. Suits CPUs and English text.
    #[serde(rename = "minilm")]
    Minilm,
    /// ColQwen2 on Qwen2-VL: reads the page's image. One vector for each token.
    #[serde(rename = "colqwen2")]
    ColQwen2,
    /// ColQwen2.5 on Qwen2.5-VL: reads the page's image. One vector for each token.
    #[serde(rename = "colqwen2_5")]
    ColQwen2_5,
    /// ColQwen3 on Qwen3-VL: reads the page's image. One vector for each token.
    #[serde(rename = "colqwen3")]
    ColQwen3,
}

impl ModelFamily {
    /// Whether the model reads a page's image. Other models read its text.
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

/// Number format of a visual model's weights and arithmetic: `f32`, `tf32`, `bf16`, `f16` or `q8`.
/// Default: `bf16` with `worker.gpu`, otherwise `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats: the reference.
    F32,
    /// 32-bit floats; a GPU multiplies with 10 bits of mantissa (TF32). The same as `f32` on a CPU.
    Tf32,
    /// 16-bit floats with the range of 32-bit floats. The models were trained in it.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Large matrices in blocks of 8-bit integers.
    Q8,
}

fn default_batch_pages() -> u32 {
    8
}

fn default_pool_factor() -> u32 {
    1
}
