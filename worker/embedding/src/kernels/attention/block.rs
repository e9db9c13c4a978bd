//! Attention of one head for a block of queries: scores, softmax, weighted sums of values.

#![expect(
    clippy::inline_always,
    reason = "vectorised code needs everything that it calls inlined"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Rows;
use crate::kernels::aligned::Aligned;
use crate::kernels::matrix::ROW_PADDING;
use crate::kernels::path::Path;
use crate::kernels::softmax::exponentials;
use crate::kernels::tile::{self, ROWS, Rows as TileRows};

/// Queries of a block.
const QUERIES: usize = 8 * ROWS;
/// Keys that are summed before the sums are stored.
const DEPTH: usize = 256;

/// A block of queries of a segment.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// First row of the segment.
    pub(super) start: usize,
    /// Number of rows of the segment.
    length: usize,
    /// First query, counted within the segment.
    pub(super) first: usize,
    /// Number of queries.
    pub(super) count: usize,
}

impl Block {
    /// Blocks of a segment, in order.
    pub(super) fn each((start, length): (usize, usize)) -> impl Iterator<Item = Self> {
        (0..length).step_by(QUERIES).map(move |first| Self {
            start,
            length,
            first,
            count: QUERIES.min(length - first),
        })
    }

    /// Number of keys that any of the queries attends to.
    fn visible_keys(self, causal: bool) -> usize {
        if causal {
            self.first + self.count
        } else {
            self.length
        }
    }
}

/// Buffers of a core, reused: the system must clear newly allocated memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rotated queries, row by row.
    queries: Aligned,
    /// A row of scores for each query, replaced by attention weights.
    scores: Aligned,
    /// A row of results for each query, padded to whole registers.
    results: Aligned,
}

/// Computes one head's results for a block of queries and writes them to its columns of `target`.
pub(super) fn attend_block(
    path: Path,
    rows: &Rows<'_>,
    block: Block,
    head: usize,
    (keys, values): (&[f32], &[f32]),
    scratch: &mut Scratch,
    target: &mut [f32],
) {
    let attention = &rows.attention;
    let size = attention.head;
    let stride = size + ROW_PADDING;
    let queries = scratch.queries.first(block.count * stride);
    let norm = attention.norms.map(|(queries, _)| queries);
    for (number, query) in queries.chunks_exact_mut(stride).enumerate() {
        let row = block.start + block.first + number;
        rows.rotate(row, head, norm, &mut query[..size]);
    }
    path.run(AttendBlock {
        block,
        size,
        causal: attention.causal,
        keys,
        values,
        queries: TileRows {
            values: queries,
            stride,
        },
        scores: &mut scratch.scores,
        results: &mut scratch.results,
        target: &mut target[head * size..],
        stride: attention.heads * size,
    });
}

struct AttendBlock<'a> {
    block: Block,
    /// Width of a head.
    size: usize,
    causal: bool,
    keys: &'a [f32],
    values: &'a [f32],
    queries: TileRows<'a>,
    scores: &'a mut Aligned,
    results: &'a mut Aligned,
    /// Starts with the head's first column in the first query's row.
    target: &'a mut [f32],
    /// Width of a row of the target.
    stride: usize,
}

impl WithSimd for AttendBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            block,
            size,
            causal,
            ..
        } = self;
        let lanes = S::F32_LANES;
        let visible_keys = block.visible_keys(causal);
        let stride = block.length.next_multiple_of(lanes) + ROW_PADDING;
        let scores = self.scores.first(block.count * stride);
        score(
            simd,
            self.keys,
            size,
            visible_keys,
            self.queries,
            block,
            scores,
            stride,
        );
        let mut inverse = [0.0; QUERIES];
        let scale = 1.0 / (size as f32).sqrt();
        let rows = scores.chunks_exact_mut(stride).zip(&mut inverse);
        for (number, (row, inverse)) in rows.enumerate() {
            let visible = if causal {
                block.first + number + 1
            } else {
                visible_keys
            };
            let (visible, masked) = row[..visible_keys].split_at_mut(visible);
            *inverse = 1.0 / exponentials(visible, scale);
            masked.fill(0.0);
        }
        let padded = size.next_multiple_of(lanes);
        let results = self.results.first(block.count * padded);
        let weights = TileRows {
            values: scores,
            stride,
        };
        let keys = 0..visible_keys;
        weighted_sums(simd, self.values, keys, weights, block, results, padded);
        let rows = self.target.chunks_mut(self.stride);
        let results = results.chunks_exact(padded).zip(inverse);
        for (row, (results, inverse)) in rows.zip(results) {
            for (value, result) in row[..size].iter_mut().zip(results) {
                *value = result * inverse;
            }
        }
    }
}

/// Scores of all queries with the panels that contain the first `visible_keys` keys.
#[expect(clippy::too_many_arguments, reason = "inlined into one caller")]
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    keys: &[f32],
    size: usize,
    visible_keys: usize,
    queries: TileRows<'_>,
    block: Block,
    scores: &mut [f32],
    stride: usize,
) {
    let width = tile::panel_registers::<S>() * S::F32_LANES;
    let panels = keys[..block.length.next_multiple_of(S::F32_LANES) * size].chunks(width * size);
    for (first, panel) in (0..visible_keys).step_by(width).zip(panels) {
        for query in (0..block.count).step_by(ROWS) {
            let count = ROWS.min(block.count - query);
            let width = panel.len() / size;
            tile::multiply(
                simd,
                queries.from(query),
                count,
                panel,
                width,
                #[inline(always)]
                |row: usize, column: usize, sum: S::f32s| {
                    let place = &mut scores[(query + row) * stride + first + column..];
                    S::as_mut_simd_f32s(&mut place[..S::F32_LANES]).0[0] = sum;
                },
            );
        }
    }
}

/// Sums of the values of some keys, weighted by the rows of `weights`.
#[inline(always)]
fn weighted_sums<S: Simd>(
    simd: S,
    values: &[f32],
    keys: Range<usize>,
    weights: TileRows<'_>,
    block: Block,
    results: &mut [f32],
    padded: usize,
) {
    let width = tile::panel_registers::<S>() * S::F32_LANES;
    let panels = values[..block.length * padded].chunks(block.length * width);
    for (column, panel) in (0..padded).step_by(width).zip(panels) {
        let width = panel.len() / block.length;
        for key in keys.clone().step_by(DEPTH) {
            let panel = &panel[key * width..keys.end.min(key + DEPTH) * width];
            for query in (0..block.count).step_by(ROWS) {
                let count = ROWS.min(block.count - query);
                let rows = TileRows {
                    values: &weights.values[query * weights.stride + key..],
                    ..weights
                };
                tile::multiply(
                    simd,
                    rows,
                    count,
                    panel,
                    width,
                    #[inline(always)]
                    |row: usize, register: usize, mut sum: S::f32s| {
                        let place = &mut results[(query + row) * padded + column + register..];
                        let place = &mut S::as_mut_simd_f32s(&mut place[..S::F32_LANES]).0[0];
                        if key > 0 {
                            sum = simd.add_f32s(sum, *place);
                        }
                        *place = sum;
                    },
                );
            }
        }
    }
}
