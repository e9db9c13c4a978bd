//! Products with weights, in the way that is fastest where the weights are.

use candle_core::{Result, Tensor};

use super::{Matrix, add_bias};

/// `x W^T + b` with weights `[outputs, inputs]`.
pub(crate) enum Product {
    /// By the kernels here.
    LaidOut(Matrix),
    /// By the tensor library.
    Plain {
        /// `[outputs, inputs]`
        weight: Tensor,
        /// `[outputs]`
        bias: Option<Tensor>,
    },
}

impl Product {
    /// The product with these weights.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(match Matrix::new(&weight, bias.as_ref())? {
            Some(matrix) => Self::LaidOut(matrix),
            None => Self::Plain { weight, bias },
        })
    }

    /// `[rows, inputs]` to `[rows, outputs]`.
    pub(crate) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::LaidOut(matrix) => matrix.multiply(rows),
            Self::Plain { weight, bias } => {
                let product = rows.matmul(&weight.t()?)?;
                match bias {
                    Some(bias) => add_bias(product, bias),
                    None => Ok(product),
                }
            }
        }
    }

    /// `sums` and, for each row, the product. `sums` may be changed in place: nobody else may want
    /// its values.
    pub(crate) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::LaidOut(matrix) if sums.is_contiguous() => {
                matrix.add_product(rows, &sums)?;
                Ok(sums)
            }
            _ => sums + self.forward(rows)?,
        }
    }
}
