//! Why a model could not be loaded or asked. Nothing here is a document's fault.

use std::path::PathBuf;

/// Why a model could not be loaded or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// A file of the model is missing or cannot be read.
    #[error("the model's file {file} cannot be read: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// `config.json` is no configuration, or one of another model.
    #[error("{file} does not describe a model of this family: {detail}")]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// `tokenizer.json` cannot be used.
    #[error("{file} is no usable tokenizer: {detail}")]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// A tensor is missing, or has another shape or type than `config.json` says.
    #[error("{file}: tensor {tensor}: {detail}")]
    Tensor {
        /// The file.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        detail: String,
    },

    /// `LAYRA_KERNELS` asks for what this CPU does not have.
    #[error("{0}")]
    Kernels(String),

    /// A page embedder's own reason; an image that no such model takes is one.
    #[error(transparent)]
    ColQwen(#[from] super::colqwen::ColQwenError),

    /// Some text cannot be cut into tokens.
    #[error("the text cannot be cut into tokens: {0}")]
    Tokenize(String),

    /// The computation failed; with a sound model that is a bug or a lack of memory.
    #[error("the model cannot be computed: {0}")]
    Compute(#[from] candle_core::Error),

    /// A page that the batch is made of is of another model.
    #[error("a page that was prepared for another model: this is a bug")]
    ForeignPage,
}

impl EmbedError {
    /// Whether the device failed in the middle of a computation.
    #[must_use]
    pub fn is_computation(&self) -> bool {
        use super::colqwen::ColQwenError;
        matches!(
            self,
            Self::Compute(_) | Self::ColQwen(ColQwenError::Compute(_))
        )
    }

    /// Whether a smaller batch may fit.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::ColQwen(super::colqwen::ColQwenError::OutOfMemory(_))
        )
    }
}
