//! Fused self-attention, for f32 on the CPU: from rows with concatenated queries, keys and values
//! to the concatenated results of the heads. Scores exist for one block of queries at a time.
//!
//! Keys are packed as columns of panels, so that a tile of queries computes rows of scores, along
//! which the softmax runs. Values are packed as panels of their columns, so that the second product
//! multiplies the same rows of attention weights.

mod block;
mod pack;

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use self::block::{Block, attend_block};
use self::pack::{pack_keys, pack_values};
use super::aligned::Aligned;
use super::path::Path;
use super::{is_fused, values};

/// Shape and masking of self-attention.
#[derive(Clone, Copy)]
pub(crate) struct SelfAttention<'a> {
    /// Number of query heads.
    pub(crate) heads: usize,
    /// Number of key and value heads; neighbouring query heads share one.
    pub(crate) groups: usize,
    /// Width of a head.
    pub(crate) head: usize,
    /// Norms of each query head and each key head.
    pub(crate) norms: Option<&'a (HeadNorm, HeadNorm)>,
    /// First row and number of rows of each segment. Attention stays within a segment; together
    /// they cover all rows.
    pub(crate) segments: &'a [(usize, usize)],
    /// Whether a row attends to earlier rows of its segment only, and itself.
    pub(crate) causal: bool,
}

/// RMS norm of a head.
pub(crate) struct HeadNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// Rows with all query heads, then all key heads, then all value heads.
pub(super) struct Rows<'a> {
    pub(super) attention: SelfAttention<'a>,
    /// Cosines and sines of rotary position embeddings, `head / 2` values each for a row.
    pub(super) rotary: Option<(&'a [f32], &'a [f32])>,
    pub(super) values: &'a [f32],
}

impl Rows<'_> {
    /// One head of a row.
    fn at(&self, row: usize, head: usize) -> &[f32] {
        let size = self.attention.head;
        &self.values[row * self.width() + head * size..][..size]
    }

    /// Width of a row.
    pub(super) fn width(&self) -> usize {
        (self.attention.heads + 2 * self.attention.groups) * self.attention.head
    }

    /// Copies one head of a row, applies the norm, if any, and rotates it by the row's position.
    fn rotate(&self, row: usize, head: usize, norm: Option<&HeadNorm>, to: &mut [f32]) {
        to.copy_from_slice(self.at(row, head));
        if let Some(norm) = norm {
            let squares: f32 = to.iter().map(|value| value * value).sum();
            let factor = 1.0 / (squares / to.len() as f32 + norm.epsilon).sqrt();
            for (value, weight) in to.iter_mut().zip(&norm.weight) {
                *value = *value * factor * weight;
            }
        }
        let Some((cosines, sines)) = self.rotary else {
            return;
        };
        let half = to.len() / 2;
        let (left, right) = to.split_at_mut(half);
        let cosines = &cosines[row * half..(row + 1) * half];
        let sines = &sines[row * half..(row + 1) * half];
        let pairs = left.iter_mut().zip(right);
        for ((left, right), (cosine, sine)) in pairs.zip(cosines.iter().zip(sines)) {
            (*left, *right) = (
                *left * cosine - *right * sine,
                *left * sine + *right * cosine,
            );
        }
    }
}

/// Concatenated results of the heads, `[rows, heads * head]`, from `rows` with queries, keys and
/// values; `cosine` and `sine`, `[rows, head / 2]`, rotate queries and keys. `None` if the kernel
/// does not support the tensor.
pub(crate) fn attention(
    rows: &Tensor,
    cosine: &Tensor,
    sine: &Tensor,
    attention: SelfAttention<'_>,
) -> Result<Option<Tensor>> {
    on_path(Path::chosen(), rows, cosine, sine, attention)
}

fn on_path(
    path: Path,
    rows: &Tensor,
    cosine: &Tensor,
    sine: &Tensor,
    attention: SelfAttention<'_>,
) -> Result<Option<Tensor>> {
    // Values of a head are rotated in pairs.
    let has_pairs = attention.head.is_multiple_of(2);
    let supported = is_fused(rows) && path.is_native() && has_pairs;
    supported
        .then(|| rows.apply_op3_no_bwd(cosine, sine, &Attend(path, attention)))
        .transpose()
}

struct Attend<'a>(Path, SelfAttention<'a>);

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        layout: &Layout,
        cosine: &CpuStorage,
        cosine_layout: &Layout,
        sine: &CpuStorage,
        sine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let &Self(path, attention) = self;
        let (cosine, sine) = (values(cosine, cosine_layout)?, values(sine, sine_layout)?);
        let rows = Rows {
            attention,
            rotary: Some((cosine, sine)),
            values: values(rows, layout)?,
        };
        let (count, width) = layout.shape().dims2()?;
        let angles = count * attention.head / 2;
        let shapes_match = width == rows.width()
            && cosine.len() == angles
            && sine.len() == angles
            && attention.heads.is_multiple_of(attention.groups);
        if !shapes_match {
            candle_core::bail!("rows of {width} values do not match the heads or the angles");
        }
        let mut output = vec![0.0; count * attention.heads * attention.head];
        attend(path, &rows, &mut output);
        let shape = Shape::from((count, attention.heads * attention.head));
        Ok((CpuStorage::F32(output), shape))
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a core, reused: the system must clear newly allocated memory.
#[derive(Default)]
struct Scratch {
    block: block::Scratch,
    /// Packed keys and values of one head, if a core packs them for itself.
    keys: Aligned,
    values: Aligned,
}

/// Attention on all cores.
fn attend(path: Path, rows: &Rows<'_>, output: &mut [f32]) {
    let SelfAttention {
        heads,
        groups,
        head,
        segments,
        ..
    } = rows.attention;
    let parts: Vec<_> = (0..segments.len() * groups)
        .map(|part| (segments[part / groups], part % groups))
        .collect();
    let packed: Vec<(Aligned, Aligned)> = parts
        .into_par_iter()
        .map(|(segment, group)| {
            let (mut keys, mut values) = (Aligned::default(), Aligned::default());
            pack_keys(path, rows, group, segment, &mut keys);
            pack_values(path, rows, group, segment, &mut values);
            (keys, values)
        })
        .collect();
    let mut blocks = Vec::new();
    let (mut rest, mut next) = (output, 0);
    for (number, &segment) in segments.iter().enumerate() {
        assert_eq!(segment.0, next, "segments must be contiguous");
        next += segment.1;
        for block in Block::each(segment) {
            let target;
            (target, rest) = rest.split_at_mut(block.count * heads * head);
            blocks.push((number, block, target));
        }
    }
    assert!(rest.is_empty(), "segments must cover all rows");
    blocks.into_par_iter().for_each(|(segment, block, target)| {
        SCRATCH.with_borrow_mut(|scratch| {
            for number in 0..heads {
                let group = number / (heads / groups);
                let (keys, values) = &packed[segment * groups + group];
                let scratch = &mut scratch.block;
                attend_block(path, rows, block, number, (keys, values), scratch, target);
            }
        });
    });
}

/// Attention of all segments, one after the other, on this core. `output` has a row for each of
/// `rows`.
pub(super) fn attend_on_core(path: Path, rows: &Rows<'_>, output: &mut [f32]) {
    let attention = &rows.attention;
    let width = attention.heads * attention.head;
    SCRATCH.with_borrow_mut(|scratch| {
        for &segment in attention.segments {
            for number in 0..attention.heads {
                let group = number / (attention.heads / attention.groups);
                let Scratch {
                    block: scratch,
                    keys,
                    values,
                } = &mut *scratch;
                pack_keys(path, rows, group, segment, keys);
                pack_values(path, rows, group, segment, values);
                for block in Block::each(segment) {
                    let first = (block.start + block.first) * width;
                    let target = &mut output[first..first + block.count * width];
                    attend_block(path, rows, block, number, (keys, values), scratch, target);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
