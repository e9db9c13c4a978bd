//! CPU kernels of the models, in f32. Other types and devices use the tensor library's kernels.
//! Nothing here depends on a particular model.
//!
//! # How matrix products are tiled
//!
//! All matrix products (with weights, of queries with keys, of attention weights with values) use
//! one micro-kernel ([`tile`]): six rows times a panel of columns.
//!
//! ```text
//!                      panel: 4 or 2 registers wide, input by input
//!                     +--------------------------------+
//!                     | w[0][0..width]                 |
//!                     | w[1][0..width]                 |  from the core's cache,
//!                     | ...                            |  sequentially
//!                     +--------------------------------+
//!    6 rows           +--------------------------------+
//!   +-------------+   |                                |
//!   | a a a a ... |   |  6 x 4 (or 6 x 2) accumulator  |  each step: load the registers
//!   | a a a a ... | x |  registers                     |  of one input, six broadcasts,
//!   |    ...      |   |                                |  24 (or 12) fused multiply-adds
//!   +-------------+   +--------------------------------+
//! ```
//!
//! Rows are not packed (they are copied only if their stride would cause cache conflicts). Columns
//! are packed: weights once, on load ([`matrix`]), keys and values once for all their queries
//! ([`attention`]). The loops around the micro-kernel block for the caches: 288 rows by 512 inputs
//! stay in L2 while all panels are read, and a panel's share of these inputs stays in L1 for all
//! rows. Bias and residual are added when the sums are stored. Two layers with an activation
//! between them are computed for one block of rows at a time ([`feed_forward`]), and a text encoder
//! takes a batch through all its layers on one core ([`encoder`]).
//!
//! This is the scheme of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (ACM TOMS 34, 2008), with the micro-kernel of BLIS. It is written once, with the
//! crate `pulp`, and compiled for AVX-512 and for AVX2 ([`path`]). On other CPUs the tensor library
//! computes the products, and only activations, norms and softmax are computed here.

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
pub(crate) use softmax::{AttentionMask, MaskCache, softmax};

/// Values of one task of the thread pool: enough to hide its overhead, few enough for L2.
const TASK: usize = 32 * 1024;

fn is_fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32 && tensor.is_contiguous()
}

/// e^x to within two units in the last place, without branches: x = n ln 2 + r, and a polynomial
/// in r. Saturates below e^-87 and above e^88.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
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

/// Runs `work` with the widest vectors of this CPU, on every path: its loops are compiled for each
/// instruction set. For that, everything that it calls must be inlined.
#[inline]
fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    Path::best().run(work)
}

/// Values of one task that consists of whole rows.
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

    /// `rows W^T + b` by its definition.
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
    fn the_exponential_is_accurate_to_two_units_in_the_last_place() {
        for step in -8600..8800_i16 {
            let x = f32::from(step) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
    }
}
