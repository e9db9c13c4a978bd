//! Where there is no AVX-512 at all, nothing here is ever made or called: the tensor library
//! computes.

use candle_core::{Result, Tensor};

use super::Activation;
use super::attention::Rows;
use super::encoder::{EncoderLayer, Parameters};

/// Never.
pub(crate) fn available() -> bool {
    false
}

/// Never called.
pub(crate) fn attend(_rows: &Rows<'_>) -> Vec<f32> {
    unreachable!("there is no AVX-512")
}

/// No matrix: there are no instructions for it here.
pub(crate) enum Matrix {}

impl Matrix {
    /// None.
    pub(crate) fn new(_weight: &Tensor, _bias: Option<&Tensor>) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Never called: there is no matrix.
    pub(crate) fn multiply(&self, _rows: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    /// Never called: there is no matrix.
    pub(crate) fn add_product(&self, _rows: &Tensor, _sums: &Tensor) -> Result<()> {
        match *self {}
    }
}

/// No layers: there are no instructions for them here.
pub(crate) enum FeedForward {}

impl FeedForward {
    /// None.
    pub(crate) fn new(
        _first: &(Tensor, Option<Tensor>),
        _activation: Activation,
        _second: &(Tensor, Option<Tensor>),
    ) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Never called: there are no layers.
    pub(crate) fn add(&self, _rows: &Tensor, _sums: &Tensor) -> Result<()> {
        match *self {}
    }
}

/// No encoder: there are no instructions for it here.
pub(crate) enum Encoder {}

impl Encoder {
    /// Never.
    pub(crate) fn available() -> bool {
        false
    }

    /// Never called.
    pub(crate) fn new(
        _norm: Parameters,
        _layers: Vec<EncoderLayer>,
        _heads: usize,
        _epsilon: f32,
    ) -> Self {
        unreachable!("there is no AVX-512")
    }

    /// Never called: there is no encoder.
    pub(crate) fn layers(&self) -> usize {
        match *self {}
    }

    /// Never called: there is no encoder.
    pub(crate) fn forward(&self, _rows: &[f32], _lengths: &[usize]) -> Vec<f32> {
        match *self {}
    }

    /// Never called: there is no encoder.
    pub(crate) fn largest_product(&self, _tokens: usize) -> usize {
        match *self {}
    }
}
