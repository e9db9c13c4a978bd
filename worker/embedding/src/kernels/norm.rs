//! Layer norm.

#![expect(
    clippy::inline_always,
    reason = "vectorised loops need everything that they call inlined"
)]

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{is_fused, rows_per_task, values, values_mut, vectorised};

/// `weight * (row - mean) / sqrt(variance + epsilon) + bias` for each of `rows`, in place if
/// possible.
pub(crate) fn layer_norm(
    rows: Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    if !is_fused(&rows) {
        return candle_nn::ops::layer_norm(&rows, weight, bias, epsilon);
    }
    rows.inplace_op3(weight, bias, &LayerNorm(epsilon))?;
    Ok(rows)
}

struct LayerNorm(f32);

impl InplaceOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = layout.shape().dims2()?;
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        if weight.len() != width || bias.len() != width {
            candle_core::bail!("rows of {width} values, {} weights", weight.len());
        }
        values_mut(rows, layout)?
            .par_chunks_mut(rows_per_task(width))
            .for_each(|task| normalise_rows(task, weight, bias, self.0));
        Ok(())
    }
}

/// Normalises rows of the width of `weight`, in place, on this core.
pub(super) fn normalise_rows(rows: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(weight.len()) {
                normalise(row, weight, bias, epsilon);
            }
        },
    );
}

#[inline(always)]
fn normalise(row: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let count = row.len() as f32;
    let mean = sum(row, |value| value) / count;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / count;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *value = (*value - mean) * factor * weight + bias;
    }
}

/// Sums in sixteen independent lanes, so that the loop is vectorised.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    let rest = rest.iter().map(|&value| term(value));
    lanes.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_norm_equals_the_tensor_librarys() {
        let random = |shape: &[usize]| Tensor::randn(0.5_f32, 2.0, shape, &Device::Cpu).unwrap();
        for width in [1, 7, 384, 1000] {
            let (rows, weight, bias) = (random(&[300, width]), random(&[width]), random(&[width]));
            let expected = candle_nn::ops::layer_norm(&rows, &weight, &bias, 1e-6).unwrap();
            let found = layer_norm(rows, &weight, &bias, 1e-6).unwrap();
            let largest = |values: Tensor| {
                let largest = values.abs().unwrap().max_all().unwrap();
                largest.to_scalar::<f32>().unwrap()
            };
            // The sums have another order: some units in the last place of the largest value.
            let bound = 2e-6 * largest(expected.clone());
            let worst = largest((found - expected).unwrap());
            assert!(worst < bound, "width {width}: off by {worst} of {bound}");
        }
    }
}
