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
}

impl ModelFamily {
    /// Dimensions of a vector.
    #[must_use]
    pub fn dimensions(self) -> u32 {
        match self {
            Self::Minilm => 384,
        }
    }
}

impl std::fmt::Display for ModelFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Minilm => "minilm",
        })
    }
}

fn default_batch_pages() -> u32 {
    8
}
