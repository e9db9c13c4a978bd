//! Two layers with a function of single numbers between them, added to what came in.

use candle_core::{Result, Tensor};

use super::{Gelu, Product, activate, avx512, swiglu};

/// The function between the layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    /// Of each number.
    Gelu(Gelu),
    /// `silu(gate) * up`: the first layer gives the gates' values, then as many others.
    SwiGlu,
}

impl Activation {
    /// `[rows, width]` to `[rows, width]`, or half the width for gates.
    pub(crate) fn of(self, values: Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu(gelu) => activate(values, gelu),
            Self::SwiGlu => swiglu(&values),
        }
    }
}

/// The layers.
pub(crate) enum FeedForward {
    /// By a kernel that keeps what is between the layers in a core's cache.
    Fused(avx512::FeedForward),
    /// One after the other.
    Apart {
        /// From the width of the rows to the inner one, twice that with gates.
        first: Product,
        /// The function between.
        activation: Activation,
        /// From the inner width to that of the rows.
        second: Product,
    },
}

impl FeedForward {
    /// The layers with these weights and biases.
    pub(crate) fn new(
        first: (Tensor, Option<Tensor>),
        activation: Activation,
        second: (Tensor, Option<Tensor>),
    ) -> Result<Self> {
        Ok(
            match avx512::FeedForward::new(&first, activation, &second)? {
                Some(fused) => Self::Fused(fused),
                None => Self::Apart {
                    first: Product::new(first.0, first.1)?,
                    activation,
                    second: Product::new(second.0, second.1)?,
                },
            },
        )
    }

    /// `sums`, changed in place where that can be, and the layers' result for each of `rows`.
    pub(crate) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused(layers) => {
                let sums = sums.contiguous()?;
                layers.add(rows, &sums)?;
                Ok(sums)
            }
            Self::Apart {
                first,
                activation,
                second,
            } => second.add_to(sums, &activation.of(first.forward(rows)?)?),
        }
    }
}
