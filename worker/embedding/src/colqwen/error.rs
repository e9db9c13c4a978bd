//! What can go wrong between a checkpoint's directory and a page's vectors. Every variant names
//! the file, the tensor or the input at fault; none carries the content of a page.

use std::path::{Path, PathBuf};

use super::config::Family;

/// Why a checkpoint cannot be loaded, or an input not embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColQwenError {
    /// A file of the model cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A weight file is cut short, or is no safetensors file.
    #[error("{}: damaged or cut short: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What its header promises and the file does not hold.
        reason: String,
    },

    /// A JSON file of the model says something that cannot be used.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },

    /// The checkpoint is of no family that is implemented here.
    #[error("{}: model_type {model_type:?} is unknown; known: qwen2_vl, colqwen2, qwen2_5_vl, \
             qwen3_vl, colqwen3, ops_colqwen3", path.display())]
    UnknownModel {
        /// `config.json`
        path: PathBuf,
        /// What it says.
        model_type: String,
    },

    /// The checkpoint is of another family than the one asked for.
    #[error("{}: the checkpoint is of family {found}, not {wanted}", path.display())]
    FamilyMismatch {
        /// `config.json`
        path: PathBuf,
        /// The family asked for.
        wanted: Family,
        /// The family of the checkpoint.
        found: Family,
    },

    /// `LAYRA_KERNELS` asks for what this CPU does not have.
    #[error("{0}")]
    Kernels(String),

    /// A tensor that the architecture needs is not in the checkpoint.
    #[error("{}: tensor {name} is missing", path.display())]
    MissingTensor {
        /// The model's directory.
        path: PathBuf,
        /// The tensor, by its bare name.
        name: String,
    },

    /// A tensor has another shape than `config.json` promises.
    #[error("{}: tensor {name} has shape {found:?}, not {expected:?}", path.display())]
    Shape {
        /// The weight file.
        path: PathBuf,
        /// The tensor, by the name it has in the file.
        name: String,
        /// What the configuration asks for.
        expected: Vec<usize>,
        /// What the file holds.
        found: Vec<usize>,
    },

    /// A tensor's numbers are of a kind that cannot be a weight.
    #[error("{}: tensor {name} is {found}; weights are F32, F16 or BF16", path.display())]
    Dtype {
        /// The weight file.
        path: PathBuf,
        /// The tensor, by the name it has in the file.
        name: String,
        /// What the file holds.
        found: String,
    },

    /// An adapter does not fit the base, or uses something that is not implemented.
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

    /// An image that no ColQwen model can take.
    #[error("an image of {width}x{height} pixels: {reason}")]
    Image {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A page's file is no image that can be decoded.
    #[error("{}: {reason}", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },

    /// The device asked for is not there.
    #[error("device {name}: {reason}")]
    Device {
        /// As asked for.
        name: String,
        /// Why not.
        reason: String,
    },

    /// The device's memory is full: a smaller batch may fit.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),

    /// A failure inside the tensor library: a bug here, or a broken device.
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
        // The CUDA driver's code arrives as text only.
        let text = error.to_string();
        let lower = text.to_ascii_lowercase();
        if lower.contains("out of memory") || lower.contains("out_of_memory") {
            return Self::OutOfMemory(text);
        }
        Self::Compute(error)
    }
}

/// Result of this module's functions.
pub type Result<T> = std::result::Result<T, ColQwenError>;
