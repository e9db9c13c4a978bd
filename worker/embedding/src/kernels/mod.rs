//! Elementwise work of the models, fused and on all cores for f32 on the CPU, where it would
//! otherwise cost as much as the matrix products. Other devices and types take the tensor
//! library's own kernels. No shapes of models here.

mod activation;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
#[path = "avx512_other.rs"]
mod avx512;
mod encoder;
mod feed_forward;
mod norm;
mod product;
mod softmax;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

pub(super) use activation::{Gelu, activate};
use activation::{add_bias, gate, swiglu};
pub(super) use attention::{HeadNorm, SelfAttention, attention};
pub(super) use avx512::Encoder;
use avx512::Matrix;
pub(super) use encoder::{EncoderLayer, Parameters};
pub(super) use feed_forward::{Activation, FeedForward};
pub(super) use norm::layer_norm;
pub(super) use product::Product;
pub(super) use softmax::{Masks, Visible, softmax};

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

/// Does `work` with the widest vectors of this CPU: loops in it are compiled for each kind of CPU.
/// What `work` calls must be inlined for that.
#[inline]
fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
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
