//! The micro-kernel: a few rows times the columns of one panel, with all sums in vector registers.

#![expect(
    clippy::inline_always,
    reason = "vectorised code must be inlined into the kernel that calls it"
)]
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a prefetch of an address inside a slice")
)]

use pulp::Simd;

/// Rows of a tile. Its sums ([`ROWS`] times [`panel_registers`]), one row of the panel and a
/// broadcast value fill the register file: 6 x 4 of 32 registers, or 6 x 2 of 16. That makes 2.4
/// (or 1.5) multiply-adds for each load, and enough independent sums to hide their latency.
pub(super) const ROWS: usize = 6;

/// Width of a panel in registers.
pub(super) const fn panel_registers<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
}

/// Rows that a tile multiplies.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Starts with the first value of the first row.
    pub(super) values: &'a [f32],
    /// Distance between rows.
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// The first `depth` values of a row.
    #[inline(always)]
    fn row(self, number: usize, depth: usize) -> &'a [f32] {
        &self.values[number * self.stride..][..depth]
    }

    /// The rows from row `number` on.
    #[inline(always)]
    pub(super) fn from(self, number: usize) -> Self {
        Self {
            values: &self.values[number * self.stride..],
            ..self
        }
    }
}

/// Multiplies `count` rows, at most [`ROWS`], by a panel of `width` columns, a multiple of the
/// lanes of a register. Calls `store` with each register of sums: its row, its first column, the
/// sums.
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    rows: Rows<'_>,
    count: usize,
    panel: &[f32],
    width: usize,
    mut store: impl FnMut(usize, usize, S::f32s),
) {
    macro_rules! tiles {
        ($registers:literal: $($count:literal)*) => {
            match count {
                $($count => sums::<S, $count, $registers>(simd, rows, panel, &mut store),)*
                _ => unreachable!("a tile has 1 to {ROWS} rows"),
            }
        };
    }
    let registers = width / S::F32_LANES;
    debug_assert_eq!(registers * S::F32_LANES, width);
    match registers {
        1 => tiles!(1: 1 2 3 4 5 6),
        2 => tiles!(2: 1 2 3 4 5 6),
        3 if panel_registers::<S>() > 2 => tiles!(3: 1 2 3 4 5 6),
        4 if panel_registers::<S>() > 2 => tiles!(4: 1 2 3 4 5 6),
        _ => unreachable!("a panel has 1 to {} registers", panel_registers::<S>()),
    }
}

#[inline(always)]
fn sums<S: Simd, const R: usize, const C: usize>(
    simd: S,
    rows: Rows<'_>,
    panel: &[f32],
    store: &mut impl FnMut(usize, usize, S::f32s),
) {
    let columns = S::as_simd_f32s(panel).0.as_chunks::<C>().0;
    let rows: [&[f32]; R] = std::array::from_fn(|number| rows.row(number, columns.len()));
    let mut sums = [[simd.splat_f32s(0.0); C]; R];
    for (input, columns) in columns.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let value = simd.splat_f32s(row[input]);
            for (column, sum) in columns.iter().zip(sums) {
                *sum = simd.mul_add_e_f32s(value, *column, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (register, sum) in sums.into_iter().enumerate() {
            store(row, register * S::F32_LANES, sum);
        }
    }
}

/// Prefetches a row of sums, which are stored at the end of a tile. The hardware prefetcher does
/// not predict it, because the rows are too far apart.
#[inline(always)]
pub(super) fn prefetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        // SAFETY: SSE is part of x86-64, and a prefetch has no observable effect.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}
