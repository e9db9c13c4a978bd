//! The model that turns a page into vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model that turns a page into vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddingSpec {
    /// Which model, and where its files are.
    pub model: ModelSpec,

    /// Pages that are embedded together. Default: 8.
    #[serde(default = "default_batch_pages")]
    #[schemars(range(min = 1, max = 256))]
    pub batch_pages: u32,
}

/// Which model, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// The model's architecture. It decides the width of the vectors.
    pub family: ModelFamily,

    /// Directory with `config.json`, `tokenizer.json` and `model.safetensors`:
    /// `s3://bucket/prefix` (read with the credentials of `documents.objectStore`, from its
    /// endpoint) or `file:///path` (mounted through `worker.pod.volumes`).
    #[schemars(regex(pattern = r"^(s3://[^/]+/.+|file:///.+)$"))]
    pub uri: String,
}

/// The model's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelFamily {
    /// all-MiniLM-L6-v2: a sentence model on the text of a page; one vector of 384 dimensions a
    /// passage. Made for CPUs and English text.
    Minilm,

    /// ColQwen2: late interaction on page images, one vector for each part of the image; on
    /// Qwen2-VL.
    Colqwen2,

    /// ColQwen2.5: as ColQwen2, on Qwen2.5-VL.
    #[serde(rename = "colqwen2_5")]
    Colqwen2_5,

    /// ColQwen3: as ColQwen2, on Qwen3-VL. The checkpoint decides the width of the vectors.
    Colqwen3,
}

impl ModelFamily {
    /// Dimensions of a vector, where the family alone decides them.
    #[must_use]
    pub fn dimensions(self) -> Option<u32> {
        match self {
            Self::Minilm => Some(384),
            Self::Colqwen2 | Self::Colqwen2_5 | Self::Colqwen3 => None,
        }
    }
}

impl std::fmt::Display for ModelFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Minilm => "minilm",
            Self::Colqwen2 => "colqwen2",
            Self::Colqwen2_5 => "colqwen2_5",
            Self::Colqwen3 => "colqwen3",
        })
    }
}

fn default_batch_pages() -> u32 {
    8
}
