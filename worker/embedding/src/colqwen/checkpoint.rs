//! Reads tensors of a published checkpoint by bare name: from one weight file or several with an
//! index, with any layout of names, with or without an adapter. Missing tensors are errors.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::error::{ColQwenError, Result};
use super::lora::Adapter;
use super::names;
use super::weight_file::WeightFile;

/// The weights of one model.
pub(super) struct Checkpoint {
    directory: PathBuf,
    files: Vec<WeightFile>,
    /// Maps the bare name to the file and the name in it.
    index: HashMap<String, (usize, String)>,
    adapter: Option<Adapter>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights of `directory`, and the adapter, if any.
    pub(super) fn open(directory: &Path, adapter: Option<&Path>) -> Result<Self> {
        let files = shards(directory)?
            .iter()
            .map(|path| WeightFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        let mut index = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(bare) = names::bare(&name) {
                    index.insert(bare, (number, name));
                }
            }
        }
        let mut checkpoint = Self {
            directory: directory.to_owned(),
            files,
            index,
            adapter: None,
        };
        if let Some(adapter) = adapter {
            checkpoint.adapter = Some(Adapter::open(adapter, |name| {
                checkpoint.index.contains_key(name)
            })?);
        }
        Ok(checkpoint)
    }

    /// Size of all weight files in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(WeightFile::bytes).sum()
    }

    /// Number of rows of the matrix `name`.
    pub(super) fn rows(&self, name: &str) -> Result<usize> {
        let (file, raw) = self.find(name)?;
        Ok(file.shape(raw)?.first().copied().unwrap_or(0))
    }

    /// The tensor with this bare name as `dtype` on `device`. The adapter is merged in f32.
    pub(super) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (file, raw) = self.find(name)?;
        let Some(change) = self
            .adapter
            .as_ref()
            .and_then(|adapter| adapter.change(name))
        else {
            // Cast before the upload: half the width means half the bytes.
            let tensor = file.read(raw, shape, &Device::Cpu)?;
            return Ok(tensor.to_dtype(dtype)?.to_device(device)?);
        };
        let base = file.read(raw, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
        Ok(change.apply(&base)?.to_dtype(dtype)?.to_device(device)?)
    }

    fn find(&self, name: &str) -> Result<(&WeightFile, &str)> {
        match self.index.get(name) {
            Some((file, raw)) => Ok((&self.files[*file], raw)),
            None => Err(ColQwenError::MissingTensor {
                path: self.directory.clone(),
                name: name.to_owned(),
            }),
        }
    }
}

/// The weight files of a directory, in a stable order.
fn shards(directory: &Path) -> Result<Vec<PathBuf>> {
    let names = shard_names(directory)?;
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

/// Names of the weight files of a directory, in a stable order.
pub(crate) fn shard_names(directory: &Path) -> Result<Vec<String>> {
    let index = directory.join("model.safetensors.index.json");
    let text = match std::fs::read_to_string(&index) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec!["model.safetensors".to_owned()]);
        }
        Err(error) => return Err(ColQwenError::io(&index)(error)),
    };
    let parsed: ShardIndex = serde_json::from_str(&text)
        .map_err(|error| ColQwenError::config(&index, error.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    // A shard must be a file in this directory: its name must not contain a path.
    if let Some(name) = names
        .iter()
        .find(|name| name.contains(['/', '\\']) || *name == "..")
    {
        return Err(ColQwenError::config(
            &index,
            format!("{name:?} is not a plain file name"),
        ));
    }
    Ok(names.into_iter().collect())
}
