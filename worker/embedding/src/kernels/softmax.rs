//! Softmax of attention scores, fused with scale and mask.

#![expect(
    clippy::inline_always,
    reason = "vectorised loops need everything that they call inlined"
)]

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{exp, is_fused, rows_per_task, values_mut, vectorised};

/// The keys that the queries of a block of scores attend to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttentionMask {
    /// All keys.
    Full,
    /// Keys up to the query's own position: row `r` belongs to query `first + r % block`.
    Causal {
        /// Query of the first row.
        first: usize,
        /// Queries in the block; rows repeat them for each head.
        block: usize,
    },
}

/// Causal masks on the device, `[block, keys]` each, shared by all layers of a batch.
#[derive(Default)]
pub(crate) struct MaskCache(RefCell<HashMap<(usize, usize, usize), Tensor>>);

impl MaskCache {
    /// Row `r` is 0 for keys up to `first + r` and minus infinity beyond, with device and type of
    /// `like`.
    fn causal(&self, first: usize, block: usize, keys: usize, like: &Tensor) -> Result<Tensor> {
        let key = (first, block, keys);
        if let Some(mask) = self.0.borrow().get(&key) {
            return Ok(mask.clone());
        }
        let mask: Vec<f32> = (0..block)
            .flat_map(|row| {
                let last = first + row;
                (0..keys).map(move |key| if key <= last { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (block, keys), like.device())?.to_dtype(like.dtype())?;
        self.0.borrow_mut().insert(key, mask.clone());
        Ok(mask)
    }
}

/// Softmax of `scale * scores` over the unmasked keys of each row; `scores` is
/// `[batch, rows, keys]`. Computed in f32 on the CPU.
pub(crate) fn softmax(
    scores: Tensor,
    scale: f32,
    mask: AttentionMask,
    masks: &MaskCache,
) -> Result<Tensor> {
    if is_fused(&scores) {
        scores.inplace_op1(&Softmax { scale, mask })?;
        return Ok(scores);
    }
    if scores.device().is_cpu() && scores.dtype() != DType::F32 {
        let dtype = scores.dtype();
        return softmax(scores.to_dtype(DType::F32)?, scale, mask, masks)?.to_dtype(dtype);
    }
    let scaled = (scores * f64::from(scale))?;
    let masked = match mask {
        AttentionMask::Full => scaled,
        AttentionMask::Causal { first, block } => {
            let (batch, rows, keys) = scaled.dims3()?;
            let mask = masks.causal(first, block, keys, &scaled)?;
            let heads = scaled.reshape((batch * rows / block, block, keys))?;
            heads.broadcast_add(&mask)?.reshape((batch, rows, keys))?
        }
    };
    candle_nn::ops::softmax_last_dim(&masked)
}

struct Softmax {
    scale: f32,
    mask: AttentionMask,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "scaled-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, rows, keys) = layout.shape().dims3()?;
        let scores = values_mut(storage, layout)?;
        let step = rows_per_task(keys) / keys;
        scores
            .par_chunks_mut(step * keys)
            .enumerate()
            .for_each(|(task, scores)| {
                for (offset, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let visible = match self.mask {
                        AttentionMask::Full => keys,
                        AttentionMask::Causal { first, block } => {
                            let row = (task * step + offset) % rows;
                            (first + row % block + 1).min(keys)
                        }
                    };
                    let (visible, masked) = row.split_at_mut(visible);
                    vectorised(
                        #[inline(always)]
                        || softmax_row(visible, self.scale),
                    );
                    masked.fill(0.0);
                }
            });
        Ok(())
    }
}

#[inline(always)]
fn softmax_row(row: &mut [f32], scale: f32) {
    let inverse = 1.0 / exponentials(row, scale);
    for value in row.iter_mut() {
        *value *= inverse;
    }
}

/// e^(scale * (value - maximum)), in place; returns the sum.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32], scale: f32) -> f32 {
    let largest = lanes(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    for value in row.iter_mut() {
        *value = exp((*value - largest) * scale);
    }
    lanes(row, 0.0, |sum, value| sum + value)
}

/// Folds a row in sixteen independent lanes, so that the loop is vectorised.
#[inline(always)]
fn lanes(row: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, value);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(start, |total, &value| fold(total, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn causal_rows_attend_to_themselves_and_earlier_keys() {
        let scores = Tensor::zeros((2, 4, 6), DType::F32, &Device::Cpu).unwrap();
        let mask = AttentionMask::Causal { first: 3, block: 2 };
        let rows = softmax(scores, 1.0, mask, &MaskCache::default())
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        for head in rows {
            for (row, values) in head.iter().enumerate() {
                let seen = 4 + row % 2;
                let share = 1.0 / f32::from(u8::try_from(seen).unwrap());
                assert!(
                    values[..seen]
                        .iter()
                        .all(|value| (value - share).abs() < 1e-6)
                );
                assert!(values[seen..].iter().all(|value| *value == 0.0));
            }
        }
    }

    #[test]
    fn the_general_path_applies_the_same_mask() {
        let scores = Tensor::arange(0_f32, 48.0, &Device::Cpu).unwrap();
        let scores = scores.reshape((2, 4, 6)).unwrap();
        let mask = AttentionMask::Causal { first: 3, block: 2 };
        let masks = MaskCache::default();
        let exact = softmax(scores.copy().unwrap(), 0.1, mask, &masks).unwrap();
        // Not contiguous, so it takes the path of other devices.
        let strided = scores.transpose(0, 1).unwrap().contiguous().unwrap();
        let strided = strided.transpose(0, 1).unwrap();
        let general = softmax(strided, 0.1, mask, &masks).unwrap();
        let worst = (exact - general).unwrap().abs().unwrap().max_all().unwrap();
        assert!(worst.to_scalar::<f32>().unwrap() < 1e-6);
    }
}
