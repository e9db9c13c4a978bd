//! One head's attention for a block of queries: scores, softmax, weighted values.

#![expect(
    clippy::inline_always,
    reason = "compiled for a kind of CPU only together with what they call"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Rows;
use crate::kernels::aligned::Aligned;
use crate::kernels::matrix::APART;
use crate::kernels::path::Path;
use crate::kernels::softmax::exponentials;
use crate::kernels::tile::{self, ROWS, Rows as TileRows};

/// Queries that a core takes through a head together.
const QUERIES: usize = 8 * ROWS;
/// Keys that weighted values are summed over before the sums are written.
const DEPTH: usize = 256;

/// Some queries of a segment.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// The segment's first row.
    pub(super) start: usize,
    /// The segment's rows.
    length: usize,
    /// The first query's number in the segment.
    pub(super) first: usize,
    /// Queries.
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

    /// Keys that any of the queries sees.
    fn seen(self, causal: bool) -> usize {
        if causal {
            self.first + self.count
        } else {
            self.length
        }
    }
}

/// What a core works with, kept: new memory has to be cleared by the system.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rotated queries, row by row.
    queries: Aligned,
    /// A row of scores, then of weights, for each query.
    scores: Aligned,
    /// A row of results for each query, up to a whole register.
    results: Aligned,
}

/// One head's results for some queries, to its place in the rows of `target`.
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
    let stride = size + APART;
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
    /// Values of a head.
    size: usize,
    causal: bool,
    keys: &'a [f32],
    values: &'a [f32],
    queries: TileRows<'a>,
    scores: &'a mut Aligned,
    results: &'a mut Aligned,
    /// From the head's place in the first query's row on.
    target: &'a mut [f32],
    /// Values of a row there.
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
        let seen = block.seen(causal);
        let stride = block.length.next_multiple_of(lanes) + APART;
        let scores = self.scores.first(block.count * stride);
        score(
            simd,
            self.keys,
            size,
            seen,
            self.queries,
            block,
            scores,
            stride,
        );
        let mut inverse = [0.0; QUERIES];
        let scale = 1.0 / (size as f32).sqrt();
        let rows = scores.chunks_exact_mut(stride).zip(&mut inverse);
        for (number, (row, inverse)) in rows.enumerate() {
            let own = if causal {
                block.first + number + 1
            } else {
                seen
            };
            let (own, hidden) = row[..seen].split_at_mut(own);
            *inverse = 1.0 / exponentials(own, scale);
            hidden.fill(0.0);
        }
        let padded = size.next_multiple_of(lanes);
        let results = self.results.first(block.count * padded);
        let weights = TileRows {
            values: scores,
            stride,
        };
        weigh(simd, self.values, 0..seen, weights, block, results, padded);
        let rows = self.target.chunks_mut(self.stride);
        let results = results.chunks_exact(padded).zip(inverse);
        for (row, (results, inverse)) in rows.zip(results) {
            for (value, result) in row[..size].iter_mut().zip(results) {
                *value = result * inverse;
            }
        }
    }
}

/// Rows of scores with the keys of all panels that hold one of the first `seen`.
#[expect(clippy::too_many_arguments, reason = "inlined into one caller")]
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    keys: &[f32],
    size: usize,
    seen: usize,
    queries: TileRows<'_>,
    block: Block,
    scores: &mut [f32],
    stride: usize,
) {
    let width = tile::panel_registers::<S>() * S::F32_LANES;
    let panels = keys[..block.length.next_multiple_of(S::F32_LANES) * size].chunks(width * size);
    for (first, panel) in (0..seen).step_by(width).zip(panels) {
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
fn weigh<S: Simd>(
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
