//! A LoRA adapter in the format of `peft`, merged while the base is loaded: `W + alpha / r * B A`,
//! in f32. An adapter that does not match the base is an error, never silently ignored.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::error::{ColQwenError, Result};
use super::names::{self, AdapterTensor};
use super::weight_file::WeightFile;

/// Tensors of an adapter, by the bare name of the weight that they change.
pub(super) struct Adapter {
    changes: HashMap<String, Change>,
}

/// Change of one weight.
pub(super) struct Change {
    kind: ChangeKind,
    /// Source file, for errors.
    path: PathBuf,
    name: String,
}

enum ChangeKind {
    LowRank { a: Tensor, b: Tensor, scale: f64 },
    Replace(Tensor),
}

/// The options of `adapter_config.json` that affect the arithmetic.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    fan_in_fan_out: Option<bool>,
    #[serde(default)]
    lora_bias: Option<bool>,
    #[serde(default)]
    alpha_pattern: HashMap<String, f64>,
}

impl AdapterConfig {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(ColQwenError::io(path))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|error| ColQwenError::adapter(path, error.to_string()))?;
        let unsupported = [
            (config.peft_type != "LORA", "peft_type other than LORA"),
            (config.use_dora == Some(true), "use_dora"),
            (config.fan_in_fan_out == Some(true), "fan_in_fan_out"),
            (config.lora_bias == Some(true), "lora_bias"),
            (!config.alpha_pattern.is_empty(), "alpha_pattern"),
            (config.r == 0, "r of 0"),
        ];
        match unsupported.into_iter().find(|(used, _)| *used) {
            Some((_, what)) => Err(ColQwenError::adapter(
                path,
                format!("{what} is not supported"),
            )),
            None => Ok(config),
        }
    }

    /// `rank` is that of the adapter's matrix: `rank_pattern` may override `r` for a layer.
    fn scale(&self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.lora_alpha
            / if self.use_rslora == Some(true) {
                rank.sqrt()
            } else {
                rank
            }
    }
}

impl Adapter {
    /// Reads the adapter of `directory`; `exists` returns whether the base has a weight.
    pub(super) fn open(directory: &Path, exists: impl Fn(&str) -> bool) -> Result<Self> {
        let config = AdapterConfig::read(&directory.join("adapter_config.json"))?;
        let file = WeightFile::open(&directory.join("adapter_model.safetensors"))?;
        let mut first = HashMap::new();
        let mut second = HashMap::new();
        let mut changes = HashMap::new();
        let mut names = file.names();
        names.sort();
        for name in names {
            let Some(tensor) = names::adapter(&name) else {
                continue;
            };
            let (AdapterTensor::A(target)
            | AdapterTensor::B(target)
            | AdapterTensor::Whole(target)) = &tensor;
            if !exists(target) {
                let reason = format!("the base has no weight {target} for tensor {name}");
                return Err(ColQwenError::adapter(file.path(), reason));
            }
            let shape = file.shape(&name)?;
            let value = file
                .read(&name, &shape, &Device::Cpu)?
                .to_dtype(DType::F32)?;
            match tensor {
                AdapterTensor::A(target) => drop(first.insert(target, (name, value))),
                AdapterTensor::B(target) => drop(second.insert(target, value)),
                AdapterTensor::Whole(target) => {
                    let path = file.path().to_owned();
                    let change = Change {
                        kind: ChangeKind::Replace(value),
                        path,
                        name,
                    };
                    changes.insert(target, change);
                }
            }
        }
        for (target, (name, a)) in first {
            let Some(b) = second.remove(&target) else {
                let reason = format!("tensor {name} has no matching lora_B");
                return Err(ColQwenError::adapter(file.path(), reason));
            };
            let scale = config.scale(a.dim(0)?);
            let kind = ChangeKind::LowRank { a, b, scale };
            changes.insert(
                target,
                Change {
                    kind,
                    path: file.path().to_owned(),
                    name,
                },
            );
        }
        if let Some(target) = second.keys().next() {
            let reason = format!("weight {target} has a lora_B but no lora_A");
            return Err(ColQwenError::adapter(file.path(), reason));
        }
        if changes.is_empty() {
            return Err(ColQwenError::adapter(file.path(), "it has no tensors"));
        }
        Ok(Self { changes })
    }

    /// The change of the weight with this bare name, if any.
    pub(super) fn change(&self, name: &str) -> Option<&Change> {
        self.changes.get(name)
    }
}

impl Change {
    /// The changed weight, f32.
    pub(super) fn apply(&self, base: &Tensor) -> Result<Tensor> {
        match &self.kind {
            ChangeKind::Replace(value) => {
                self.expect(value.dims() == base.dims(), value.dims(), base.dims())?;
                Ok(value.clone())
            }
            ChangeKind::LowRank { a, b, scale } => {
                let (Ok((a_rank, inner)), Ok((out, b_rank))) = (a.dims2(), b.dims2()) else {
                    return Err(ColQwenError::adapter(
                        &self.path,
                        self.name.clone() + " is not a matrix",
                    ));
                };
                let fits = a_rank == b_rank && base.dims() == [out, inner];
                self.expect(fits, &[out, inner], base.dims())?;
                Ok((base + (b.matmul(a)? * *scale)?)?)
            }
        }
    }

    fn expect(&self, fits: bool, found: &[usize], base: &[usize]) -> Result<()> {
        if fits {
            return Ok(());
        }
        let name = &self.name;
        let reason = format!(
            "tensor {name} changes a weight of shape {found:?}, but the base has {base:?}: \
             the adapter belongs to another base model"
        );
        Err(ColQwenError::adapter(&self.path, reason))
    }
}
