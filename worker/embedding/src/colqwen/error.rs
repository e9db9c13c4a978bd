//! Errors of ColQwen models. Every variant names the file, tensor or input at fault; none contains
//! the content of a page.

use std::path::{Path, PathBuf};

use super::config::Family;

/// Why a checkpoint cannot be loaded or an input cannot be embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColQwenError {
    /// A file of the model cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// A weight file is truncated, or not a safetensors file.
    #[error("{}: damaged or truncated: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How the file differs from its header.
        reason: String,
    },

    /// A JSON file of the model has an unsupported value.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },

    /// The checkpoint's family is not supported.
    #[error("{}: model_type {model_type:?} is not supported; expected qwen2_vl, colqwen2, \
             qwen2_5_vl, qwen3_vl, colqwen3 or ops_colqwen3", path.display())]
    UnknownModel {
        /// `config.json`
        path: PathBuf,
        /// Its `model_type`.
        model_type: String,
    },

    /// The checkpoint is not of the requested family.
    #[error("{}: the checkpoint is of family {found}, not {wanted}", path.display())]
    FamilyMismatch {
        /// `config.json`
        path: PathBuf,
        /// The requested family.
        wanted: Family,
        /// The family of the checkpoint.
        found: Family,
    },

    /// `LAYRA_KERNELS` is not supported by this CPU.
    #[error("{0}")]
    Kernels(String),

    /// The checkpoint lacks a required tensor.
    #[error("{}: tensor {name} is missing", path.display())]
    MissingTensor {
        /// The model's directory.
        path: PathBuf,
        /// Bare name of the tensor.
        name: String,
    },

    /// The shape of a tensor does not match `config.json`.
    #[error("{}: tensor {name} has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The weight file.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
        /// Shape according to the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },

    /// The type of a tensor is not supported for weights.
    #[error("{}: tensor {name} has type {found}, expected F32, F16 or BF16", path.display())]
    Dtype {
        /// The weight file.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
        /// Type in the file.
        found: String,
    },

    /// An adapter does not match the base, or uses an unsupported feature.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// The tensor or the field, and what is wrong with it.
        reason: String,
    },

    /// `tokenizer.json` cannot be used with this checkpoint.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// `tokenizer.json`
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// An image that the model cannot process.
    #[error("the image of {width}x{height} pixels cannot be embedded: {reason}")]
    Image {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The file of a page cannot be decoded as an image.
    #[error("{}: {reason}", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        reason: String,
    },

    /// The requested device cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// Name of the device.
        name: String,
        /// Why it cannot be used.
        reason: String,
    },

    /// The device's memory is full: a smaller batch may fit.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),

    /// The tensor library failed: a bug, or a broken device.
    #[error(transparent)]
    Compute(candle_core::Error),
}

impl ColQwenError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn config(path: &Path, reason: impl Into<String>) -> Self {
        Self::Config {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn adapter(path: &Path, reason: impl Into<String>) -> Self {
        Self::Adapter {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

impl From<candle_core::Error> for ColQwenError {
    fn from(error: candle_core::Error) -> Self {
        // The CUDA driver's error code is only available as text.
        let text = error.to_string();
        let lower = text.to_ascii_lowercase();
        if lower.contains("out of memory") || lower.contains("out_of_memory") {
            return Self::OutOfMemory(text);
        }
        Self::Compute(error)
    }
}

/// Result with a [`ColQwenError`].
pub type Result<T> = std::result::Result<T, ColQwenError>;
