//! Brings rows into the order in which tiles read them, 16 columns at a time.
#![expect(
    unsafe_code,
    reason = "vector instructions; every load and store keeps to a slice checked beside it"
)]

use std::arch::x86_64::{
    __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Values of a vector register.
pub(super) const LANES: usize = 16;

/// Rows that are brought into another order at a time.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The first row's values, then `stride` values on the next row's.
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    /// At most [`LANES`].
    pub(super) count: usize,
    /// Values of a row that are taken.
    pub(super) depth: usize,
}

/// Writes rows column by column: a value of each row, and `step` values on those of the next
/// column.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack(rows: Rows<'_>, packed: &mut [f32], step: usize) {
    let Rows {
        values,
        stride,
        count,
        depth,
    } = rows;
    if depth == 0 {
        return;
    }
    assert!((1..=LANES.min(step)).contains(&count));
    assert!((count - 1) * stride + depth <= values.len());
    assert!((depth - 1) * step + count <= packed.len());
    let mask = u16::MAX >> (LANES - count);
    let whole = depth - depth % LANES;
    for column in (0..whole).step_by(LANES) {
        let mut block = [_mm512_setzero_ps(); LANES];
        for (row, block) in block.iter_mut().enumerate().take(count) {
            // SAFETY: the row has `depth` values in the slice, and these 16 are among them.
            *block = unsafe { _mm512_loadu_ps(values.as_ptr().add(row * stride + column)) };
        }
        for (offset, block) in transposed(&block).into_iter().enumerate() {
            // SAFETY: the mask keeps to this column's `count` values.
            unsafe {
                let to = packed.as_mut_ptr().add((column + offset) * step);
                _mm512_mask_storeu_ps(to, mask, block);
            }
        }
    }
    for column in whole..depth {
        for row in 0..count {
            packed[column * step + row] = values[row * stride + column];
        }
    }
}

/// Writes the first `depth` values of each of `count` rows side by side; at most [`LANES`] each.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn gather(
    values: &[f32],
    stride: usize,
    (count, depth): (usize, usize),
    packed: &mut [f32],
) {
    if count == 0 {
        return;
    }
    assert!((1..=LANES).contains(&depth) && count * depth <= packed.len());
    assert!((count - 1) * stride + depth <= values.len());
    let mask = u16::MAX >> (LANES - depth);
    for row in 0..count {
        // SAFETY: the mask keeps to the row's `depth` values on both sides.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask, values.as_ptr().add(row * stride));
            _mm512_mask_storeu_ps(packed.as_mut_ptr().add(row * depth), mask, values);
        }
    }
}

/// Quarters 0 and 2 of both registers; quarters 1 and 3.
const EVEN: i32 = 0b10_00_10_00;
const ODD: i32 = 0b11_01_11_01;

/// Rows as columns.
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512; LANES]) -> [__m512; LANES] {
    // Pairs of rows, then fours: register 4 f + j has columns j, 4 + j, 8 + j and 12 + j of the
    // f-th four rows.
    let mut pairs = *rows;
    for pair in 0..8 {
        let (upper, lower) = (rows[2 * pair], rows[2 * pair + 1]);
        pairs[2 * pair] = _mm512_unpacklo_ps(upper, lower);
        pairs[2 * pair + 1] = _mm512_unpackhi_ps(upper, lower);
    }
    let mut fours = *rows;
    for four in 0..4 {
        for half in 0..2 {
            let upper = _mm512_castps_pd(pairs[4 * four + half]);
            let lower = _mm512_castps_pd(pairs[4 * four + 2 + half]);
            fours[4 * four + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(upper, lower));
            fours[4 * four + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(upper, lower));
        }
    }
    let mut columns = *rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let even = [
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<EVEN>(c, d),
        ];
        let odd = [
            _mm512_shuffle_f32x4::<ODD>(a, b),
            _mm512_shuffle_f32x4::<ODD>(c, d),
        ];
        columns[j] = _mm512_shuffle_f32x4::<EVEN>(even[0], even[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<ODD>(even[0], even[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_rows_are_columns(
            count in 1..=LANES, depth in 0..70_usize, between in 0..5_usize, apart in 0..20_usize,
        ) {
            if !super::super::available() {
                return Ok(());
            }
            let stride = depth + between;
            let step = count + apart;
            let values: Vec<f32> = (0_u16..).map(f32::from).take(count * stride).collect();
            let mut packed = vec![-1.0; step * depth];
            let rows = Rows { values: &values, stride, count, depth };
            // SAFETY: the instructions are there.
            unsafe { pack(rows, &mut packed, step) };
            for column in 0..depth {
                let (column_of, rest) = packed[column * step..(column + 1) * step].split_at(count);
                let expected: Vec<f32> = (0..count).map(|row| values[row * stride + column]).collect();
                prop_assert_eq!(column_of, expected);
                prop_assert_eq!(rest, vec![-1.0; apart]);
            }
        }

        #[test]
        fn gathered_rows_lie_side_by_side(
            count in 0..40_usize, depth in 1..=LANES, between in 0..50_usize,
        ) {
            if !super::super::available() {
                return Ok(());
            }
            let stride = depth + between;
            let values: Vec<f32> = (0_u16..).map(f32::from).take(count * stride).collect();
            let mut packed = vec![-1.0; count * depth];
            // SAFETY: the instructions are there.
            unsafe { gather(&values, stride, (count, depth), &mut packed) };
            for (row, found) in packed.chunks(depth).enumerate() {
                prop_assert_eq!(found, &values[row * stride..][..depth]);
            }
        }
    }
}
