//! Brings rows into the order in which tiles read them, 16 columns at a time.
#![expect(
    unsafe_code,
    reason = "vector instructions; every load and store keeps to a slice checked beside it"
)]

use std::arch::x86_64::{
    __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
    _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::tile::ROWS;

/// Values of a vector register.
const LANES: usize = 16;

/// Writes `packed`, whose length is that of `count` rows, column by column: `count` values of the
/// first column, then of the second. A row begins `stride` values after the one before it, the
/// first one with `rows`.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack(rows: &[f32], stride: usize, count: usize, packed: &mut [f32]) {
    assert!((1..=ROWS).contains(&count));
    let depth = packed.len() / count;
    assert!((count - 1) * stride + depth <= rows.len());
    let mask = u16::MAX >> (LANES - count);
    let whole = depth - depth % LANES;
    for column in (0..whole).step_by(LANES) {
        let mut values = [_mm512_setzero_ps(); LANES];
        for (row, values) in values.iter_mut().enumerate().take(count) {
            // SAFETY: the row has `depth` values in the slice, and these 16 are among them.
            *values = unsafe { _mm512_loadu_ps(rows.as_ptr().add(row * stride + column)) };
        }
        for (offset, values) in transposed(values).into_iter().enumerate() {
            // SAFETY: the mask keeps to this column's `count` values.
            unsafe {
                let to = packed.as_mut_ptr().add((column + offset) * count);
                _mm512_mask_storeu_ps(to, mask, values);
            }
        }
    }
    for column in whole..depth {
        for row in 0..count {
            packed[column * count + row] = rows[row * stride + column];
        }
    }
}

/// Rows as columns.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; LANES]) -> [__m512; LANES] {
    // Pairs of rows, then fours: register 4 f + j has columns j, 4 + j, 8 + j and 12 + j of the
    // f-th four rows.
    let mut pairs = rows;
    for pair in 0..8 {
        let (upper, lower) = (rows[2 * pair], rows[2 * pair + 1]);
        pairs[2 * pair] = _mm512_unpacklo_ps(upper, lower);
        pairs[2 * pair + 1] = _mm512_unpackhi_ps(upper, lower);
    }
    let mut fours = rows;
    for four in 0..4 {
        for half in 0..2 {
            let upper = _mm512_castps_pd(pairs[4 * four + half]);
            let lower = _mm512_castps_pd(pairs[4 * four + 2 + half]);
            fours[4 * four + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(upper, lower));
            fours[4 * four + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(upper, lower));
        }
    }
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut columns = rows;
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
            count in 1..=ROWS, depth in 0..70_usize, between in 0..5_usize,
        ) {
            if !super::super::available() {
                return Ok(());
            }
            let stride = depth + between;
            let rows: Vec<f32> = (0_u16..).map(f32::from).take(count * stride).collect();
            let mut packed = vec![f32::NAN; count * depth];
            // SAFETY: the instructions are there.
            unsafe { pack(&rows, stride, count, &mut packed) };
            for column in 0..depth {
                for row in 0..count {
                    let found = packed[column * count + row];
                    prop_assert_eq!(found, rows[row * stride + column]);
                }
            }
        }
    }
}
