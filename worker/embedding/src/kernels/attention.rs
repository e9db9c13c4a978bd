//! Self-attention in one go, for f32 on the CPU: from rows that hold queries, keys and values side
//! by side to the heads' results side by side, without anything in between that is larger than a
//! core's cache.
//!
//! Keys are packed as the columns of panels, so that a tile of queries gives rows of scores, along
//! which the softmax runs; values are packed as panels of their columns, so that the same rows of
//! weights are what the second product multiplies.

#![expect(
    clippy::inline_always,
    reason = "compiled for a kind of CPU only together with what they call"
)]

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::matrix::{APART, PanelWidth};
use super::path::Path;
use super::softmax::exponentials;
use super::tile::{self, ROWS, Rows as TileRows};
use super::{is_fused, values};

/// Queries that a core takes through a head together.
const QUERIES: usize = 8 * ROWS;
/// Keys that weighted values are summed over before the sums are written.
const DEPTH: usize = 256;

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

/// Some queries of a segment.
#[derive(Clone, Copy)]
struct Block {
    /// The segment's first row.
    start: usize,
    /// The segment's rows.
    length: usize,
    /// The first query's number in the segment.
    first: usize,
    /// Queries.
    count: usize,
}

impl Block {
    /// Blocks of a segment, in order.
    fn each((start, length): (usize, usize)) -> impl Iterator<Item = Self> {
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

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a core works with, kept: new memory has to be cleared by the system.
#[derive(Default)]
struct Scratch {
    /// Rotated queries, row by row.
    queries: Aligned,
    /// A row of scores, then of weights, for each query.
    scores: Aligned,
    /// A row of results for each query, up to a whole register.
    results: Aligned,
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
                let (mut keys, mut values) = (
                    std::mem::take(&mut scratch.keys),
                    std::mem::take(&mut scratch.values),
                );
                pack_keys(path, rows, group, segment, &mut keys);
                pack_values(path, rows, group, segment, &mut values);
                for block in Block::each(segment) {
                    let first = (block.start + block.first) * width;
                    let target = &mut output[first..first + block.count * width];
                    attend_block(path, rows, block, number, (&keys, &values), scratch, target);
                }
                (scratch.keys, scratch.values) = (keys, values);
            }
        }
    });
}

/// One head's results for some queries, to its place in the rows of `target`.
fn attend_block(
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

/// Packs a segment's keys of one group as columns of panels, the last panel up to a whole register
/// of zeros.
fn pack_keys(
    path: Path,
    rows: &Rows<'_>,
    group: usize,
    (start, length): (usize, usize),
    to: &mut Aligned,
) {
    let attention = &rows.attention;
    let size = attention.head;
    let norm = attention.norms.map(|(_, keys)| keys);
    let (width, lanes) = (path.run(PanelWidth), path.run(Lanes));
    let to = to.first(length.next_multiple_of(lanes) * size);
    let mut rotated = vec![0.0; size];
    for (first, panel) in (0..length).step_by(width).zip(to.chunks_mut(width * size)) {
        let width = panel.len() / size;
        for column in 0..width {
            rotated.fill(0.0);
            if first + column < length {
                let row = start + first + column;
                rows.rotate(row, attention.heads + group, norm, &mut rotated);
            }
            for (value, place) in rotated.iter().zip(panel.chunks_exact_mut(width)) {
                place[column] = *value;
            }
        }
    }
}

/// Packs a segment's values of one group in panels of their columns, the last one up to a whole
/// register of zeros.
fn pack_values(
    path: Path,
    rows: &Rows<'_>,
    group: usize,
    (start, length): (usize, usize),
    to: &mut Aligned,
) {
    let attention = &rows.attention;
    let head = attention.heads + attention.groups + group;
    let (width, lanes) = (path.run(PanelWidth), path.run(Lanes));
    let padded = attention.head.next_multiple_of(lanes);
    let to = to.first(length * padded);
    for (first, panel) in (0..padded)
        .step_by(width)
        .zip(to.chunks_mut(length * width))
    {
        let width = panel.len() / length;
        let there = width.min(attention.head - first);
        for (key, place) in panel.chunks_exact_mut(width).enumerate() {
            let row = rows.at(start + key, head);
            place[..there].copy_from_slice(&row[first..first + there]);
            place[there..].fill(0.0);
        }
    }
}

/// Asks for the values of a register.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// The definition, one number after the other, in double precision.
    fn by_definition(rows: &[f32], angles: &[f32], attention: SelfAttention<'_>) -> Vec<f64> {
        let SelfAttention {
            heads,
            groups,
            head: size,
            ..
        } = attention;
        let width = (heads + 2 * groups) * size;
        let count = rows.len() / width;
        let plain = |row: usize, head: usize| -> Vec<f64> {
            let values = &rows[row * width + head * size..][..size];
            values.iter().copied().map(f64::from).collect()
        };
        let rotated = |row: usize, head: usize, norm: Option<&HeadNorm>| {
            let mut values = plain(row, head);
            if let Some(norm) = norm {
                let square = values.iter().map(|x| x * x).sum::<f64>() / size as f64;
                let root = (square + f64::from(norm.epsilon)).sqrt();
                for (value, weight) in values.iter_mut().zip(&norm.weight) {
                    *value *= f64::from(*weight) / root;
                }
            }
            let half = size / 2;
            let turn = |place: usize| {
                let (sin, cos) = f64::from(angles[row * half + place % half]).sin_cos();
                let other = values[(place + half) % size];
                let direction = if place < half { -1.0 } else { 1.0 };
                values[place] * cos + direction * other * sin
            };
            (0..size).map(turn).collect::<Vec<_>>()
        };
        let mut output = Vec::with_capacity(count * heads * size);
        for &(start, length) in attention.segments {
            for row in start..start + length {
                for head in 0..heads {
                    let group = head / (heads / groups);
                    let query = rotated(row, head, attention.norms.map(|(query, _)| query));
                    let last = if attention.causal {
                        row + 1
                    } else {
                        start + length
                    };
                    let scores: Vec<f64> = (start..last)
                        .map(|key| {
                            let norm = attention.norms.map(|(_, key)| key);
                            let key = rotated(key, heads + group, norm);
                            let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                            product / (size as f64).sqrt()
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights = scores.iter().map(|score| (score - largest).exp());
                    let total: f64 = weights.clone().sum();
                    let mut sums = vec![0.0; size];
                    for (key, weight) in (start..last).zip(weights) {
                        let values = plain(key, heads + groups + group);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum += value * weight / total;
                        }
                    }
                    output.extend(sums);
                }
            }
        }
        output
    }

    fn random(count: usize) -> Vec<f32> {
        let values = Tensor::randn(0_f32, 1.0, count, &Device::Cpu).unwrap();
        values.to_vec1().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn attention_is_what_it_is_defined_to_be(
            lengths in prop::collection::vec(1..90_usize, 1..4),
            (groups, shared, half) in (1..3_usize, 1..3_usize, 1..35_usize),
            (causal, normed) in (any::<bool>(), any::<bool>()),
        ) {
            let (heads, size) = (groups * shared, 2 * half);
            let segments: Vec<_> = lengths
                .iter()
                .scan(0, |next, &length| {
                    let start = *next;
                    *next += length;
                    Some((start, length))
                })
                .collect();
            let count: usize = lengths.iter().sum();
            let norm = || HeadNorm { weight: random(size), epsilon: 1e-6 };
            let norms = (norm(), norm());
            let attention = SelfAttention {
                heads,
                groups,
                head: size,
                norms: normed.then_some(&norms),
                segments: &segments,
                causal,
            };
            let width = (heads + 2 * groups) * size;
            let (rows, angles) = (random(count * width), random(count * half));
            let tensor = |values: Vec<f32>, width: usize| {
                Tensor::from_vec(values, (count, width), &Device::Cpu).unwrap()
            };
            let cosine = tensor(angles.iter().map(|angle| angle.cos()).collect(), half);
            let sine = tensor(angles.iter().map(|angle| angle.sin()).collect(), half);
            let expected = by_definition(&rows, &angles, attention);
            let rows = tensor(rows, width);
            for path in Path::all() {
                let Some(found) = on_path(path, &rows, &cosine, &sine, attention).unwrap() else {
                    continue;
                };
                let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
                prop_assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    prop_assert!(error < 2e-5, "{path:?}: {found} {expected}");
                }
            }
        }
    }
}
