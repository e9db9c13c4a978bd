//! Attention from panels of queries, keys and values to panels of the heads' results.
//!
//! Scores have a column for each of a panel's 48 queries, so the softmax runs down the columns
//! without crossing registers, and the scores are what the values' product reads.
#![expect(
    unsafe_code,
    reason = "vector instructions; every pointer is derived from a slice whose length is checked \
              beside it"
)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_loadu_ps, _mm512_mask_max_ps, _mm512_maskz_mov_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::ops::Range;

use super::functions::exp2;
use super::tiles::{Ahead, Factors, Order, Place, multiply};
use crate::kernels::avx512::pack::LANES;
use crate::kernels::avx512::tile::{COLUMNS, REGISTERS, tiles};

/// What attention is, apart from the tokens.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// Values of a head.
    pub(super) size: usize,
}

/// The keys that the queries of one panel see.
pub(super) struct Sight {
    /// From the first that any of them sees to the last.
    keys: Range<usize>,
    /// For each of these: a bit for each query that sees it.
    seen_by: Vec<u64>,
}

impl Sight {
    /// Of each panel of tokens: those of a sequence see each other. `lengths` are the sequences'
    /// numbers of tokens, which together fill the panels.
    pub(super) fn each(lengths: &[usize]) -> Vec<Self> {
        let mut end = 0;
        let sequences = lengths.iter().map(|length| {
            end += length;
            end - length..end
        });
        let sequences: Vec<_> = sequences.filter(|tokens| !tokens.is_empty()).collect();
        assert!(end.is_multiple_of(COLUMNS), "the panels are full");
        let panels = (0..end).step_by(COLUMNS);
        panels
            .map(|first| Self::of(first..first + COLUMNS, &sequences))
            .collect()
    }

    fn of(queries: Range<usize>, sequences: &[Range<usize>]) -> Self {
        let from = sequences.partition_point(|tokens| tokens.end <= queries.start);
        let to = sequences.partition_point(|tokens| tokens.start < queries.end);
        let seen = &sequences[from..to];
        let keys = seen[0].start..seen[seen.len() - 1].end;
        let seen_by = seen.iter().flat_map(|tokens| {
            let columns = tokens.start.max(queries.start)..tokens.end.min(queries.end);
            let bits = columns.fold(0, |bits, query| bits | 1_u64 << (query - queries.start));
            std::iter::repeat_n(bits, tokens.len())
        });
        Self {
            seen_by: seen_by.collect(),
            keys,
        }
    }
}

/// The heads' results for all panels of tokens, in place of their queries. `keys` and `values` are
/// panels of all heads, too; scores are powers of two. `scores` is memory to work with.
///
/// A head goes through all panels before the next, so that its keys and values stay in the core's
/// cache.
pub(super) fn attend(
    heads: Heads,
    sights: &[Sight],
    queries: &mut [f32],
    keys: &[f32],
    values: &[f32],
    scores: &mut Vec<f32>,
) {
    let head = heads.size * COLUMNS;
    let width = heads.count * head;
    for number in 0..heads.count {
        let part = |panel: usize| panel * width + number * head;
        for (panel, sight) in sights.iter().enumerate() {
            let queries = &mut queries[part(panel)..][..head];
            scores.resize(sight.keys.len() * COLUMNS, 0.0);
            let mut rest = scores.as_mut_slice();
            for (panel, columns) in by_panel(sight.keys.clone()) {
                let scores;
                (scores, rest) = rest.split_at_mut(columns.len() * COLUMNS);
                let keys = &keys[part(panel)..][..head];
                score(&keys[columns.start..], queries, scores);
            }
            // SAFETY: there are weights only where the instructions are.
            let inverse = unsafe { softmax(scores, &sight.seen_by) };
            let before = sight.keys.start % COLUMNS;
            let order = Order::Panels {
                before,
                apart: width,
            };
            let values = &values[part(sight.keys.start / COLUMNS) + before..];
            weigh(values, order, scores, &inverse, queries);
        }
    }
}

/// Tokens panel by panel: the panel's number, and its columns.
fn by_panel(tokens: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let panels = tokens.start / COLUMNS..tokens.end.div_ceil(COLUMNS);
    panels.map(move |panel| {
        let first = panel * COLUMNS;
        let from = tokens.start.max(first) - first;
        (panel, from..tokens.end.min(first + COLUMNS) - first)
    })
}

/// The products of some keys, the first columns of a panel of them, with the queries.
fn score(keys: &[f32], queries: &[f32], scores: &mut [f32]) {
    for (key, tile) in tiles(scores.len() / COLUMNS) {
        let factors = Factors {
            values: &keys[key..],
            rows: tile,
            inputs: queries.len() / COLUMNS,
            order: Order::Inputs(COLUMNS),
        };
        let to = &mut scores[key * COLUMNS..(key + tile) * COLUMNS];
        write(factors, queries, None, to);
    }
}

/// Sums of the values of the keys, weighted by the scores.
fn weigh(values: &[f32], order: Order, scores: &[f32], inverse: &[f32; COLUMNS], to: &mut [f32]) {
    for (row, tile) in tiles(to.len() / COLUMNS) {
        let factors = Factors {
            values: &values[row * COLUMNS..],
            rows: tile,
            inputs: scores.len() / COLUMNS,
            order,
        };
        let to = &mut to[row * COLUMNS..(row + tile) * COLUMNS];
        write(factors, scores, Some(inverse), to);
    }
}

fn write(factors: Factors<'_>, columns: &[f32], scale: Option<&[f32; COLUMNS]>, to: &mut [f32]) {
    let place = Place {
        bias: None,
        add: false,
        scale,
        apart: 0,
    };
    // SAFETY: there are weights only where the instructions are.
    unsafe { multiply(factors, columns, place, to, Ahead::nothing(columns)) };
}

/// 2^(score - the column's largest) of the scores that are seen, 0 of the others; returns the
/// inverse of each column's sum.
#[target_feature(enable = "avx512f")]
fn softmax(scores: &mut [f32], seen_by: &[u64]) -> [f32; COLUMNS] {
    let rows = scores.as_chunks_mut::<COLUMNS>().0;
    assert_eq!(rows.len(), seen_by.len());
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); REGISTERS];
    for (row, seen_by) in rows.iter().zip(seen_by) {
        for (register, largest) in largest.iter_mut().enumerate() {
            let mask = mask(*seen_by, register);
            *largest = _mm512_mask_max_ps(*largest, mask, *largest, load(row, register));
        }
    }
    let mut sums = [_mm512_setzero_ps(); REGISTERS];
    for (row, seen_by) in rows.iter_mut().zip(seen_by) {
        for register in 0..REGISTERS {
            let power = exp2(_mm512_sub_ps(load(row, register), largest[register]));
            let power = _mm512_maskz_mov_ps(mask(*seen_by, register), power);
            sums[register] = _mm512_add_ps(sums[register], power);
            store(row, register, power);
        }
    }
    let mut inverse = [0.0; COLUMNS];
    for (register, sum) in sums.into_iter().enumerate() {
        store(
            &mut inverse,
            register,
            _mm512_div_ps(_mm512_set1_ps(1.0), sum),
        );
    }
    inverse
}

/// The bits of 16 columns.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lowest bits are wanted"
)]
fn mask(seen_by: u64, register: usize) -> u16 {
    (seen_by >> (LANES * register)) as u16
}

#[target_feature(enable = "avx512f")]
fn load(row: &[f32; COLUMNS], register: usize) -> __m512 {
    let values = &row[LANES * register..][..LANES];
    // SAFETY: there are 16 values.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(row: &mut [f32; COLUMNS], register: usize, value: __m512) {
    let values = &mut row[LANES * register..][..LANES];
    // SAFETY: there are 16 values.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), value) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_query_sees_the_keys_of_its_sequence(
            lengths in prop::collection::vec(0..150_usize, 1..8),
        ) {
            let filling = COLUMNS - lengths.iter().sum::<usize>() % COLUMNS;
            let lengths = [lengths, vec![filling]].concat();
            let sequence_of: Vec<usize> = (0..)
                .zip(&lengths)
                .flat_map(|(sequence, &length)| std::iter::repeat_n(sequence, length))
                .collect();
            let sights = Sight::each(&lengths);
            prop_assert_eq!(sights.len() * COLUMNS, sequence_of.len());
            for (query, sequence) in sequence_of.iter().enumerate() {
                let sight = &sights[query / COLUMNS];
                prop_assert_eq!(sight.keys.len(), sight.seen_by.len());
                let seen: Vec<usize> = sight
                    .keys
                    .clone()
                    .zip(&sight.seen_by)
                    .filter(|(_, bits)| *bits >> (query % COLUMNS) & 1 == 1)
                    .map(|(key, _)| key)
                    .collect();
                let own: Vec<usize> = (0..sequence_of.len())
                    .filter(|key| sequence_of[*key] == *sequence)
                    .collect();
                prop_assert_eq!(seen, own);
            }
        }

        #[test]
        fn panels_hold_every_token_once(start in 0..200_usize, length in 0..200_usize) {
            let tokens = by_panel(start..start + length)
                .flat_map(|(panel, columns)| columns.map(move |column| panel * COLUMNS + column));
            prop_assert_eq!(tokens.collect::<Vec<_>>(), (start..start + length).collect::<Vec<_>>());
        }
    }
}
