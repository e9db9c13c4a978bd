//! The numeric work of the models on a CPU, in f32. Other types and devices take the tensor
//! library's own kernels. No shapes of models here.
//!
//! # How a product is tiled
//!
//! All matrix products - with weights, of queries with keys, of weights of attention with values -
//! are made of one tile ([`tile`]): six rows of numbers times a panel of columns.
//!
//! ```text
//!                      panel: 4 or 2 registers wide, input by input
//!                     +--------------------------------+
//!                     | w[0][0..width]                 |
//!                     | w[1][0..width]                 |  from the core's cache,
//!                     | ...                            |  in one stream
//!                     +--------------------------------+
//!    6 rows           +--------------------------------+
//!   +-------------+   |                                |
//!   | a a a a ... |   |  6 x 4 (or 6 x 2) registers    |  every step: the registers of
//!   | a a a a ... | x |  of sums                       |  one input, six broadcasts,
//!   |    ...      |   |                                |  24 (or 12) fused multiply-adds
//!   +-------------+   +--------------------------------+
//! ```
//!
//! The rows stay as they are (they are copied only from where they would compete for the same lines of
//! the cache); columns are packed: weights once, when they are loaded ([`matrix`]),
//! keys and values once for all their queries ([`attention`]). Loops around the tile keep what it
//! reads near: a block of 288 rows by 512 inputs stays in the core's second cache while all panels
//! pass by, a panel's share for these inputs stays in the first while the rows pass. What follows a
//! product (bias, residual) is added where its sums are written; two layers with an activation
//! between them are done for a block of rows at a time ([`feed_forward`]), and a text encoder takes
//! a batch through all its layers on one core ([`encoder`]).
//!
//! This is the scheme of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (ACM TOMS 34, 2008), with the tile of BLIS. It is written once, over the crate
//! `pulp`, and compiled for AVX-512 and for AVX2 ([`path`]); where neither is at hand the tensor
//! library multiplies, and only functions of single numbers, norms and softmax are done here.

mod activation;
mod aligned;
mod attention;
mod encoder;
mod feed_forward;
mod matrix;
mod norm;
mod path;
mod product;
mod softmax;
mod tile;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

pub(crate) use activation::{Gelu, activate};
use activation::{add_bias, gate, swiglu};
pub(crate) use attention::{HeadNorm, SelfAttention, attention};
pub(crate) use encoder::{EncoderLayer, FusedEncoder, Parameters};
pub(crate) use feed_forward::{Activation, FeedForward};
pub(crate) use norm::layer_norm;
pub(crate) use path::{Path, check as check_path};
pub(crate) use product::Product;
pub(crate) use softmax::{Masks, Visible, softmax};

/// Values that one task works on: large enough to hide the cost of a task, small enough for L2.
const TASK: usize = 32 * 1024;

fn is_fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32 && tensor.is_contiguous()
}

/// e^x to within two units of the last place, without branches: x = n ln 2 + r, and a polynomial
/// on r. Saturates below e^-87 and above e^88.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_66,
        0.5,
    ] {
        p = p * r + coefficient;
    }
    let p = p * r * r + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(power)
}

/// Does `work` with the widest vectors of this CPU, on every path: loops in it are compiled for each
/// kind of CPU. What `work` calls must be inlined for that.
#[inline]
fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    Path::best().run(work)
}

/// Values of whole rows of this width in one task.
fn rows_per_task(width: usize) -> usize {
    (TASK / width).max(1) * width
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("a fused kernel takes contiguous f32"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a fused kernel takes contiguous f32"),
    }
}

#[cfg(test)]
mod testing {
    use candle_core::{Device, Tensor};

    /// Normally distributed values.
    pub(super) fn random(count: usize) -> Vec<f32> {
        let values = Tensor::randn(0_f32, 1.0, count, &Device::Cpu).unwrap();
        values.to_vec1().unwrap()
    }

    /// `rows W^T + b`, one number after the other.
    pub(super) fn by_definition(
        rows: &[f32],
        weight: &[f32],
        inputs: usize,
        bias: &[f32],
    ) -> Vec<f32> {
        let products = rows.chunks_exact(inputs).flat_map(|row| {
            weight
                .chunks_exact(inputs)
                .zip(bias)
                .map(move |(weight, bias)| {
                    let products = row.iter().zip(weight).map(|(a, b)| a * b);
                    products.sum::<f32>() + bias
                })
        });
        products.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_two_units_of_the_last_place() {
        for step in -8600..8800_i16 {
            let x = f32::from(step) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
    }
}
