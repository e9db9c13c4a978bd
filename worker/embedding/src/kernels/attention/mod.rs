//! Self-attention in one go, for f32 on the CPU: from rows that hold queries, keys and values side
//! by side to the heads' results side by side. Scores exist for a block of queries at a time.
//!
//! Keys are packed as the columns of panels, so that a tile of queries gives rows of scores, along
//! which the softmax runs; values are packed as panels of their columns, so that the same rows of
//! weights are what the second product multiplies.

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

/// What attention is, apart from the rows.
#[derive(Clone, Copy)]
pub(crate) struct SelfAttention<'a> {
    /// Heads of the queries.
    pub(crate) heads: usize,
    /// Heads of the keys and of the values; neighbouring heads of queries share one.
    pub(crate) groups: usize,
    /// Values of a head.
    pub(crate) head: usize,
    /// Norms on each head of the queries and of the keys.
    pub(crate) norms: Option<&'a (HeadNorm, HeadNorm)>,
    /// First row and number of rows of what sees itself and nothing else; together all rows.
    pub(crate) segments: &'a [(usize, usize)],
    /// Whether a row sees itself and what is before it, or all of its segment.
    pub(crate) causal: bool,
}

/// A norm by the root mean square.
pub(crate) struct HeadNorm {
    /// A factor for each value.
    pub(crate) weight: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// The rows: the queries' heads, then the keys', then the values'.
pub(super) struct Rows<'a> {
    pub(super) attention: SelfAttention<'a>,
    /// Cosines and sines of rotary positions, `head / 2` values a row each.
    pub(super) rotary: Option<(&'a [f32], &'a [f32])>,
    pub(super) values: &'a [f32],
}

impl Rows<'_> {
    /// One head of one row.
    fn at(&self, row: usize, head: usize) -> &[f32] {
        let size = self.attention.head;
        &self.values[row * self.width() + head * size..][..size]
    }

    /// Values of a row.
    pub(super) fn width(&self) -> usize {
        (self.attention.heads + 2 * self.attention.groups) * self.attention.head
    }

    /// One head of a row, normalised where wanted, rotated by the row's position.
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

/// The heads' results side by side, `[rows, heads * head]`, of `rows` that hold queries, keys and
/// values; `cosine` and `sine`, `[rows, head / 2]`, rotate queries and keys. None where there is
/// no kernel.
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
    let paired = attention.head.is_multiple_of(2);
    let fused = is_fused(rows) && path.is_native() && paired;
    fused
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
        let suits = width == rows.width()
            && cosine.len() == angles
            && sine.len() == angles
            && attention.heads.is_multiple_of(attention.groups);
        if !suits {
            candle_core::bail!("rows of {width} values do not suit the heads or the angles");
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

/// What a core works with, kept: new memory has to be cleared by the system.
#[derive(Default)]
struct Scratch {
    block: block::Scratch,
    /// Keys and values of one head, where a core packs them itself.
    keys: Aligned,
    values: Aligned,
}

/// Attention with all cores.
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
        assert_eq!(segment.0, next, "segments follow each other");
        next += segment.1;
        for block in Block::each(segment) {
            let target;
            (target, rest) = rest.split_at_mut(block.count * heads * head);
            blocks.push((number, block, target));
        }
    }
    assert!(rest.is_empty(), "every row is in a segment");
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

/// Attention of some segments, one after the other, on this core. `output` has a row for each of
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
