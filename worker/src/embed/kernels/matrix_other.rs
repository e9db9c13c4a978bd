//! Products with a matrix of weights on processors other than x86-64: the tensor library's.

use candle_core::{Result, Tensor};

/// No matrix: there are no instructions for it here.
pub(in crate::embed) enum Matrix {}

impl Matrix {
    /// None.
    pub(in crate::embed) fn new(_weight: &Tensor, _bias: Option<&Tensor>) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Never called: there is no matrix.
    pub(in crate::embed) fn multiply(&self, _rows: &Tensor) -> Result<Tensor> {
        match *self {}
    }
}
