//! One safetensors file, mapped into memory. Shape and type of a tensor are checked before it is
//! read.

use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};

use super::error::{ColQwenError, Result};

/// A mapped weight file.
pub(super) struct WeightFile {
    path: PathBuf,
    bytes: u64,
    tensors: MmapedSafetensors,
}

impl WeightFile {
    /// Maps `path` and checks that the file is as long as its header requires.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // An empty file cannot be mapped, and for a missing one the system's error is clearer.
        let length = std::fs::metadata(path)
            .map_err(ColQwenError::io(path))?
            .len();
        let damaged = |reason: String| ColQwenError::Damaged {
            path: path.to_owned(),
            reason,
        };
        if length == 0 {
            return Err(damaged("the file is empty".to_owned()));
        }
        #[expect(
            unsafe_code,
            reason = "a model's files are immutable while a worker runs: they are fetched once \
                      and verified, or mounted read-only"
        )]
        let tensors = unsafe { MmapedSafetensors::new(path) };
        let tensors = tensors.map_err(|error| damaged(first_line(&error)))?;
        Ok(Self {
            path: path.to_owned(),
            bytes: length,
            tensors,
        })
    }

    /// Names of all tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.tensors
            .tensors()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    /// Size of the file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Dimensions of tensor `name`.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let view = self
            .tensors
            .get(name)
            .map_err(|error| self.damaged(&error))?;
        Ok(view.shape().to_vec())
    }

    /// Reads tensor `name`, which must have shape `expected`, to `device` without converting its
    /// type.
    pub(super) fn read(&self, name: &str, expected: &[usize], device: &Device) -> Result<Tensor> {
        let view = self
            .tensors
            .get(name)
            .map_err(|error| self.damaged(&error))?;
        if view.shape() != expected {
            return Err(ColQwenError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: expected.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        let dtype = DType::try_from(view.dtype()).ok();
        if !matches!(dtype, Some(DType::F32 | DType::F16 | DType::BF16)) {
            return Err(ColQwenError::Dtype {
                path: self.path.clone(),
                name: name.to_owned(),
                found: format!("{:?}", view.dtype()),
            });
        }
        Ok(view.load(device)?)
    }

    fn damaged(&self, error: &candle_core::Error) -> ColQwenError {
        ColQwenError::Damaged {
            path: self.path.clone(),
            reason: first_line(error),
        }
    }
}

/// The error without the backtrace that the tensor library may append.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
