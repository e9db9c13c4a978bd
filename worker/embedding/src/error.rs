//! Why a model cannot be loaded or cannot compute. None of these is a document fault.

use std::path::PathBuf;

/// Why a model cannot be loaded or cannot compute.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// A file of the model is missing or cannot be read.
    #[error("the model's file {file} cannot be read: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// `config.json` is invalid, or belongs to another model.
    #[error("{file} does not describe a model of this family: {detail}")]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// `tokenizer.json` cannot be used.
    #[error("{file} cannot be used as the tokenizer: {detail}")]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// A tensor is missing, or its shape or type does not match `config.json`.
    #[error("{file}: tensor {tensor}: {detail}")]
    Tensor {
        /// The file.
        file: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        detail: String,
    },

    /// `LAYRA_KERNELS` is not supported by this CPU.
    #[error("{0}")]
    Kernels(String),

    /// An error of a page embedder, for example an image that it cannot process.
    #[error(transparent)]
    ColQwen(#[from] super::colqwen::ColQwenError),

    /// A text cannot be tokenized.
    #[error("the text cannot be tokenized: {0}")]
    Tokenize(String),

    /// The computation failed: with a valid model, a bug or lack of memory.
    #[error("the model's computation failed: {0}")]
    Compute(#[from] candle_core::Error),

    /// A page of the batch was prepared for another model.
    #[error("a page of the batch was prepared for another model (this is a bug)")]
    ForeignPage,
}

impl EmbedError {
    /// Whether a computation failed on the device.
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
