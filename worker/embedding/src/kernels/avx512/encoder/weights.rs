//! A layer's weights, and their product with panels.
#![expect(
    unsafe_code,
    reason = "functions with vector instructions; weights exist only where these are"
)]

use super::tiles::{Ahead, Factors, Order, Place, multiply};
use crate::kernels::avx512::aligned::Aligned;
use crate::kernels::avx512::tile::{COLUMNS, tiles};

/// `W x + b` with `W` `[outputs, inputs]`.
pub(super) struct Weights {
    inputs: usize,
    /// For each tile of outputs: their weights input by input.
    values: Aligned,
    bias: Vec<f32>,
}

/// What becomes of sums.
#[derive(Clone, Copy)]
pub(super) enum Sums {
    /// They are written: what was there is gone.
    Set,
    /// They are added to what is there.
    Add,
}

impl Weights {
    /// Lays out the rows of `weight`, one for each of `bias`.
    pub(super) fn new(weight: &[f32], bias: Vec<f32>) -> Self {
        let inputs = weight.len() / bias.len();
        let mut values = Aligned::zeros(weight.len());
        for (first, count) in tiles(bias.len()) {
            let tile = &mut values[first * inputs..(first + count) * inputs];
            for (input, values) in tile.chunks_exact_mut(count).enumerate() {
                for (row, value) in values.iter_mut().enumerate() {
                    *value = weight[(first + row) * inputs + input];
                }
            }
        }
        Self {
            inputs,
            values,
            bias,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// The products with panels of inputs, to panels of outputs.
    pub(super) fn multiply(&self, panels: &[f32], sums: Sums, to: &mut [f32]) {
        let (width, rows) = (self.inputs * COLUMNS, self.outputs() * COLUMNS);
        let count = panels.len() / width;
        assert!(panels.len() == count * width && to.len() == count * rows);
        for (first, tile) in tiles(self.outputs()) {
            let factors = Factors {
                values: &self.values[first * self.inputs..(first + tile) * self.inputs],
                rows: tile,
                inputs: self.inputs,
                order: Order::Inputs(tile),
            };
            let place = Place {
                bias: Some(&self.bias[first..first + tile]),
                add: matches!(sums, Sums::Add),
                scale: None,
                apart: rows,
            };
            // All panels together fetch the next tile's weights, as many values for each input.
            let next = factors.values.as_ptr_range().end;
            let ahead = Ahead(next, tile.div_ceil(count.max(1)));
            // SAFETY: there are weights only where the instructions are.
            unsafe { multiply(factors, panels, place, &mut to[first * COLUMNS..], ahead) };
        }
    }
}
