//! Where a model is loaded from and how it runs. Callers convert their own configuration to these
//! types.

use std::path::PathBuf;
use std::str::FromStr;

use crate::DeviceChoice;

/// A model's files on the local disk.
#[derive(Clone, Debug)]
pub struct CheckpointFiles {
    /// Directory of the checkpoint.
    pub directory: PathBuf,
    /// Directory of the LoRA adapter, if one is configured.
    pub adapter: Option<PathBuf>,
}

/// How a model runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Required family of the checkpoint.
    pub family: ModelFamily,
    /// Device; `minilm` always runs on the CPU.
    pub device: DeviceChoice,
    /// Default: `bf16` on a GPU, `f32` on a CPU.
    pub precision: Option<Precision>,
    /// Largest number of visual tokens of a page. Default: the checkpoint's setting.
    pub max_visual_tokens: Option<u32>,
    /// Pages of a batch.
    pub batch_pages: u32,
    /// Number of vectors of a page that are pooled into one.
    pub pool_factor: u32,
}

/// The model's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFamily {
    /// all-MiniLM-L6-v2: embeds the text of a page, one vector for each passage.
    Minilm,
    /// ColQwen2, based on Qwen2-VL: embeds the image of a page, one vector for each token.
    ColQwen2,
    /// ColQwen2.5, based on Qwen2.5-VL: embeds the image of a page, one vector for each token.
    ColQwen2_5,
    /// ColQwen3, based on Qwen3-VL: embeds the image of a page, one vector for each token.
    ColQwen3,
}

/// Precision of weights and arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: the reference.
    F32,
    /// 32-bit floats, multiplied with 10 bits of mantissa on a GPU (TF32). The same as `F32` on a
    /// CPU.
    Tf32,
    /// 16-bit floats with the exponent range of 32-bit floats, in which the models were trained.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Large matrices quantised to blocks of 8-bit integers.
    Q8,
    /// Large matrices quantised to blocks of 4-bit integers.
    Q4,
}

/// A value on the command line that is not one of the choices.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is unknown; expected {choices}")]
pub struct UnknownChoice {
    value: String,
    choices: &'static str,
}

impl FromStr for ModelFamily {
    type Err = UnknownChoice;

    fn from_str(value: &str) -> Result<Self, UnknownChoice> {
        match value {
            "minilm" => Ok(Self::Minilm),
            "colqwen2" => Ok(Self::ColQwen2),
            "colqwen2_5" => Ok(Self::ColQwen2_5),
            "colqwen3" => Ok(Self::ColQwen3),
            _ => Err(UnknownChoice {
                value: value.to_owned(),
                choices: "minilm, colqwen2, colqwen2_5 or colqwen3",
            }),
        }
    }
}

impl FromStr for Precision {
    type Err = UnknownChoice;

    fn from_str(value: &str) -> Result<Self, UnknownChoice> {
        match value {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            "q4" => Ok(Self::Q4),
            _ => Err(UnknownChoice {
                value: value.to_owned(),
                choices: "f32, tf32, bf16, f16, q8 or q4",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_values_are_parsed() {
        assert_eq!("colqwen2_5".parse(), Ok(ModelFamily::ColQwen2_5));
        assert_eq!("tf32".parse(), Ok(Precision::Tf32));
        let error = "f64".parse::<Precision>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"f64\" is unknown; expected f32, tf32, bf16, f16, q8 or q4"
        );
    }
}
