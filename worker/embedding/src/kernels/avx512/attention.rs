//! Attention on rows that hold queries, keys and values side by side, from the rotary positions to
//! the weighted sums, without anything in between that is larger than a core's cache.
//!
//! Keys are packed in tiles and queries in panels of 48, so that scores come out with a column for
//! each query: the softmax runs down the columns without crossing registers, and the scores
//! are at once a panel for the product with the values, whose result has a column for each query.
#![expect(
    unsafe_code,
    reason = "vector instructions; scratch space is sized beside the calls"
)]

use std::cell::Cell;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::pack::{self, LANES, gather, pack};
use super::tile::{COLUMNS, Place, ROWS, tile_of, tiles};
use crate::kernels::attention::{HeadNorm, Rows, SelfAttention};
use crate::kernels::exp;

/// Keys of a slice of the product with the values: 30 KiB of scores.
const DEPTH: usize = 160;

/// The heads' results side by side, `heads * head` values a row.
pub(crate) fn attend(rows: &Rows<'_>) -> Vec<f32> {
    assert!(super::available(), "the instructions are there");
    let attention = &rows.attention;
    let packed = Packed::new(rows);
    let width = attention.heads * attention.head;
    let mut output = vec![0.0; rows.count() * width];
    let mut panels = Vec::new();
    let (mut rest, mut next) = (output.as_mut_slice(), 0);
    for &(start, length) in attention.segments {
        assert_eq!(start, next, "segments follow each other");
        next += length;
        for first in (0..length).step_by(COLUMNS) {
            let target;
            let count = COLUMNS.min(length - first);
            (target, rest) = rest.split_at_mut(count * width);
            let panel = Panel {
                start,
                length,
                first,
                count,
            };
            panels.push((panel, target));
        }
    }
    assert!(rest.is_empty(), "every row is in a segment");
    panels.into_par_iter().for_each_init(
        || Scratch::new(attention),
        |scratch, (panel, target)| {
            for head in 0..attention.heads {
                packed.attend(rows, panel, head, scratch, target);
            }
        },
    );
    KEPT.set(packed);
    output
}

/// Up to 48 queries of a segment.
#[derive(Clone, Copy)]
struct Panel {
    /// The segment's first row.
    start: usize,
    /// The segment's rows.
    length: usize,
    /// The first query's number in the segment.
    first: usize,
    /// Queries.
    count: usize,
}

/// Keys and values of all segments, in the order in which tiles read them: for each group of
/// heads, segment by segment, tile by tile. A tile of keys has some of them input by input; a
/// tile of values has some columns key by key.
#[derive(Default)]
struct Packed {
    keys: Aligned,
    values: Aligned,
}

thread_local! {
    /// Memory of an earlier call on this thread.
    static KEPT: Cell<Packed> = Cell::default();
}

/// What a core works with.
struct Scratch {
    /// 48 queries, input by input.
    queries: Aligned,
    /// 48 scores for each key.
    scores: Aligned,
    /// 48 results for each of a head's columns.
    results: Aligned,
    /// Heads of a few rows, turned.
    turned: Vec<f32>,
}

impl Scratch {
    fn new(attention: &SelfAttention<'_>) -> Self {
        let longest = attention.segments.iter().map(|(_, length)| *length).max();
        Self {
            queries: Aligned::zeros(attention.head * COLUMNS),
            scores: Aligned::zeros(longest.unwrap_or(0) * COLUMNS),
            results: Aligned::zeros(attention.head * COLUMNS),
            turned: vec![0.0; LANES * attention.head],
        }
    }

    /// Values of a head.
    fn size(&self) -> usize {
        self.turned.len() / LANES
    }
}

impl Packed {
    fn new(rows: &Rows<'_>) -> Self {
        let SelfAttention {
            groups,
            head,
            segments,
            ..
        } = rows.attention;
        let size = groups * rows.count() * head;
        let mut packed = KEPT.take();
        let (mut keys, mut values) = (packed.keys.first(size), packed.values.first(size));
        let mut tasks = Vec::with_capacity(groups * segments.len());
        for group in 0..groups {
            for &segment in segments {
                let (key, value);
                (key, keys) = keys.split_at_mut(segment.1 * head);
                (value, values) = values.split_at_mut(segment.1 * head);
                tasks.push((group, segment, key, value));
            }
        }
        tasks
            .into_par_iter()
            .for_each(|(group, segment, keys, values)| {
                pack_keys(rows, group, segment, keys);
                pack_values(rows, group, segment, values);
            });
        packed
    }

    /// One head's results for a panel, to its place in the rows of `target`.
    fn attend(
        &self,
        rows: &Rows<'_>,
        panel: Panel,
        head: usize,
        scratch: &mut Scratch,
        target: &mut [f32],
    ) {
        let attention = &rows.attention;
        let Panel {
            length,
            first,
            count,
            ..
        } = panel;
        let size = attention.head;
        let group = head / (attention.heads / attention.groups);
        let place = (group * rows.count() + panel.start) * size;
        let keys = &self.keys[place..place + length * size];
        let values = &self.values[place..place + length * size];
        let seen = if attention.causal {
            first + count
        } else {
            length
        };
        pack_queries(rows, head, panel, scratch);
        score(keys, length, seen, scratch);
        let scores = scratch.scores[..seen * COLUMNS].as_chunks_mut().0;
        let hidden = if attention.causal {
            first + 1..seen
        } else {
            0..0
        };
        hide(scores, hidden.clone(), first, f32::NEG_INFINITY);
        // SAFETY: `attend` found the instructions.
        let inverse = unsafe { softmax(scores, rows.scale) };
        hide(scores, hidden, first, 0.0);
        weigh(values, length, seen, scratch);
        let results = scratch.results.as_chunks::<COLUMNS>().0;
        let width = attention.heads * size;
        for (query, row) in target.chunks_exact_mut(width).enumerate() {
            let row = &mut row[head * size..(head + 1) * size];
            for (value, result) in row.iter_mut().zip(results) {
                *value = result[query] * inverse[query];
            }
        }
    }
}

/// Scores of the first `seen` keys, of `length`, with the queries; tiles are computed whole.
fn score(keys: &[f32], length: usize, seen: usize, scratch: &mut Scratch) {
    let size = scratch.size();
    for (key, tile) in tiles(length).take_while(|(key, _)| *key < seen) {
        let place = whole(
            &mut scratch.scores[key * COLUMNS..(key + tile) * COLUMNS],
            false,
        );
        let keys = &keys[key * size..(key + tile) * size];
        // SAFETY: `attend` found the instructions; the place has a row of 48 for each key.
        unsafe { tile_of(tile, keys, &scratch.queries, None, keys.as_ptr(), place) };
    }
}

/// Sums of the first `seen` values, of `length`, weighted by the scores.
fn weigh(values: &[f32], length: usize, seen: usize, scratch: &mut Scratch) {
    for key in (0..seen).step_by(DEPTH) {
        let depth = DEPTH.min(seen - key);
        let weights = &scratch.scores[key * COLUMNS..(key + depth) * COLUMNS];
        for (column, tile) in tiles(scratch.size()) {
            let to = &mut scratch.results[column * COLUMNS..(column + tile) * COLUMNS];
            let place = whole(to, key > 0);
            let values = &values[column * length + key * tile..][..depth * tile];
            // SAFETY: `attend` found the instructions; the place has a row of 48 for each column.
            unsafe { tile_of(tile, values, weights, None, values.as_ptr(), place) };
        }
    }
}

/// All of `to` as rows of 48.
fn whole(to: &mut [f32], onto: bool) -> Place {
    Place {
        to: to.as_mut_ptr(),
        stride: COLUMNS,
        width: COLUMNS,
        onto,
    }
}

fn pack_keys(rows: &Rows<'_>, group: usize, (start, length): (usize, usize), packed: &mut [f32]) {
    let attention = &rows.attention;
    let size = attention.head;
    let norm = attention.norms.map(|(_, keys)| keys);
    let mut turned = vec![0.0; ROWS * size];
    for (key, tile) in tiles(length) {
        for (offset, row) in turned.chunks_exact_mut(size).take(tile).enumerate() {
            let place = (start + key + offset, attention.heads + group);
            rotate(rows, place, norm, row);
        }
        let packed = &mut packed[key * size..(key + tile) * size];
        // SAFETY: `attend` found the instructions.
        unsafe { pack(columns(&turned, size, tile), packed, tile) };
    }
}

fn pack_values(rows: &Rows<'_>, group: usize, (start, length): (usize, usize), packed: &mut [f32]) {
    let attention = &rows.attention;
    let head = attention.heads + attention.groups + group;
    let values = rows.from(start, head);
    for (column, tile) in tiles(attention.head) {
        let packed = &mut packed[column * length..(column + tile) * length];
        // SAFETY: `attend` found the instructions.
        unsafe { gather(&values[column..], rows.width(), (length, tile), packed) };
    }
}

fn pack_queries(rows: &Rows<'_>, head: usize, panel: Panel, scratch: &mut Scratch) {
    if panel.count < COLUMNS {
        scratch.queries.fill(0.0);
    }
    let size = rows.attention.head;
    let norm = rows.attention.norms.map(|(queries, _)| queries);
    for first in (0..panel.count).step_by(LANES) {
        let count = LANES.min(panel.count - first);
        for (offset, turned) in scratch
            .turned
            .chunks_exact_mut(size)
            .take(count)
            .enumerate()
        {
            let row = panel.start + panel.first + first + offset;
            rotate(rows, (row, head), norm, turned);
        }
        let turned = columns(&scratch.turned, size, count);
        // SAFETY: `attend` found the instructions.
        unsafe { pack(turned, &mut scratch.queries[first..], COLUMNS) };
    }
}

/// Rows of `size` values that lie side by side.
fn columns(values: &[f32], size: usize, count: usize) -> pack::Rows<'_> {
    pack::Rows {
        values,
        stride: size,
        count,
        depth: size,
    }
}

/// One head of a row, normalised where wanted, rotated by the row's position.
fn rotate(rows: &Rows<'_>, (row, head): (usize, usize), norm: Option<&HeadNorm>, to: &mut [f32]) {
    let half = to.len() / 2;
    to.copy_from_slice(rows.at(row, head));
    if let Some(norm) = norm {
        let squares: f32 = to.iter().map(|value| value * value).sum();
        let factor = 1.0 / (squares / to.len() as f32 + norm.epsilon).sqrt();
        for (value, weight) in to.iter_mut().zip(&norm.weight) {
            *value = *value * factor * weight;
        }
    }
    let (left, right) = to.split_at_mut(half);
    let cosines = &rows.cosine[row * half..(row + 1) * half];
    let sines = &rows.sine[row * half..(row + 1) * half];
    let pairs = left.iter_mut().zip(right);
    for ((left, right), (cosine, sine)) in pairs.zip(cosines.iter().zip(sines)) {
        (*left, *right) = (
            *left * cosine - *right * sine,
            *left * sine + *right * cosine,
        );
    }
}

/// Puts `value` where a query would see a later key: query number `first` is in column 0.
fn hide(scores: &mut [[f32; COLUMNS]], keys: std::ops::Range<usize>, first: usize, value: f32) {
    for key in keys {
        scores[key][..key - first].fill(value);
    }
}

/// e^(scale * (score - the column's largest)); returns the inverse of each column's sum.
#[target_feature(enable = "avx512f")]
fn softmax(scores: &mut [[f32; COLUMNS]], scale: f32) -> [f32; COLUMNS] {
    let mut largest = [f32::NEG_INFINITY; COLUMNS];
    for scores in &*scores {
        for (largest, score) in largest.iter_mut().zip(scores) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let mut sums = [0.0; COLUMNS];
    for scores in scores {
        for ((score, largest), sum) in scores.iter_mut().zip(&largest).zip(&mut sums) {
            *score = exp((*score - largest) * scale);
            *sum += *score;
        }
    }
    sums.map(|sum: f32| 1.0 / sum)
}
