//! What a model is loaded from and how it is to run. Whoever loads one translates his own
//! configuration into this.

use std::path::PathBuf;
use std::str::FromStr;

use crate::DeviceChoice;

/// A model's files on the local disk.
#[derive(Clone, Debug)]
pub struct CheckpointFiles {
    /// The checkpoint.
    pub directory: PathBuf,
    /// The adapter, where the configuration names one.
    pub adapter: Option<PathBuf>,
}

/// How a model is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The family that the checkpoint must be of.
    pub family: ModelFamily,
    /// Where it runs; `minilm` runs on the CPU.
    pub device: DeviceChoice,
    /// None: `bf16` on a GPU, `f32` on a CPU.
    pub precision: Option<Precision>,
    /// None: as the checkpoint says.
    pub max_visual_tokens: Option<u32>,
    /// Pages that are embedded together.
    pub batch_pages: u32,
    /// Vectors of a page that become one.
    pub pool_factor: u32,
}

/// The model's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFamily {
    /// all-MiniLM-L6-v2: a sentence model on the text of a page; one vector a passage.
    Minilm,
    /// ColQwen2 on Qwen2-VL: sees the page; one vector a token.
    ColQwen2,
    /// ColQwen2.5 on Qwen2.5-VL: sees the page; one vector a token.
    ColQwen2_5,
    /// ColQwen3 on Qwen3-VL: sees the page; one vector a token.
    ColQwen3,
}

/// How weights are kept and numbers computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: the reference.
    F32,
    /// 32-bit floats whose products a GPU computes with 10 bits of mantissa (TF32); as `F32` on
    /// a CPU.
    Tf32,
    /// 16-bit floats with the range of 32 bits; what the models were trained in.
    Bf16,
    /// 16-bit floats.
    F16,
    /// Large matrices in blocks of 8-bit integers.
    Q8,
    /// Large matrices in blocks of 4-bit integers.
    Q4,
}

/// A word of the command line that names none of the choices.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is none of {choices}")]
pub struct UnknownWord {
    word: String,
    choices: &'static str,
}

impl FromStr for ModelFamily {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "minilm" => Ok(Self::Minilm),
            "colqwen2" => Ok(Self::ColQwen2),
            "colqwen2_5" => Ok(Self::ColQwen2_5),
            "colqwen3" => Ok(Self::ColQwen3),
            _ => Err(UnknownWord {
                word: word.to_owned(),
                choices: "minilm, colqwen2, colqwen2_5 and colqwen3",
            }),
        }
    }
}

impl FromStr for Precision {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "q8" => Ok(Self::Q8),
            "q4" => Ok(Self::Q4),
            _ => Err(UnknownWord {
                word: word.to_owned(),
                choices: "f32, tf32, bf16, f16, q8 and q4",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_are_read() {
        assert_eq!("colqwen2_5".parse(), Ok(ModelFamily::ColQwen2_5));
        assert_eq!("tf32".parse(), Ok(Precision::Tf32));
        let error = "f64".parse::<Precision>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"f64\" is none of f32, tf32, bf16, f16, q8 and q4"
        );
    }
}
