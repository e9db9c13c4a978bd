//! Who searches the collections, and the number format of their vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who searches the collections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Readers {
    /// LAYRA.
    #[default]
    Layra,
    /// Other programs only.
    Own,
}

/// Number format of the vectors in a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VectorType {
    /// 32-bit floats, as the model computes them.
    #[default]
    Float32,
    /// 16-bit floats. Needs Milvus 2.4.
    Float16,
    /// 16-bit floats with the range of 32-bit floats. Needs Milvus 2.4.
    BFloat16,
    /// 8-bit integers, each vector with its own scale. Needs Milvus 2.6.
    Int8,
}

impl VectorType {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Float32, Self::Float16, Self::BFloat16, Self::Int8];

    /// Bytes of a number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
            Self::Int8 => 1,
        }
    }

    /// The first version of Milvus that has it, major and minor. `None`: all have it.
    #[must_use]
    pub fn needs(self) -> Option<(u32, u32)> {
        match self {
            Self::Float32 => None,
            Self::Float16 | Self::BFloat16 => Some((2, 4)),
            Self::Int8 => Some((2, 6)),
        }
    }

    /// Its word in the object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "Float32",
            Self::Float16 => "Float16",
            Self::BFloat16 => "BFloat16",
            Self::Int8 => "Int8",
        }
    }
}
