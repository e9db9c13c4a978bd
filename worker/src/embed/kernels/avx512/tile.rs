//! The innermost product: [`ROWS`] x [`COLUMNS`] sums in vector registers.
#![expect(
    unsafe_code,
    reason = "vector instructions on raw pointers; every pointer is derived from a slice whose \
              length is checked beside it"
)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

/// Rows of a tile: with two registers a row, 28 of 32 registers hold sums.
pub(super) const ROWS: usize = 14;
/// Columns of a tile: two registers.
pub(super) const COLUMNS: usize = 32;
/// Values that a tile fetches ahead for each of its inputs: eight tiles fetch a panel of weights.
pub(super) const AHEAD: usize = COLUMNS / 8;

/// Where a tile's sums go.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first value of the first row.
    pub(super) to: *mut f32,
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// Columns that are there, at most [`COLUMNS`].
    pub(super) width: usize,
    /// Whether the sums are added to what is there.
    pub(super) onto: bool,
}

/// Cuts `count` rows into tiles of nearly equal size: the first row and the number of each.
pub(super) fn tiles(count: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let size = count.div_ceil(count.div_ceil(ROWS).max(1)).max(1);
    let starts = (0..count).step_by(size);
    starts.map(move |first| (first, size.min(count - first)))
}

/// The products of `rows` rows with 32 columns. `values` are those of the rows, `weights` those of
/// the columns, both input by input; `bias` has a value for each column. Meanwhile [`AHEAD`] values
/// for each input are fetched into the core's cache, from `ahead` on, which need not be readable.
///
/// # Safety
/// The CPU must have AVX-512; `place` must be valid for `rows` rows of its width, its stride apart.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile_of(
    rows: usize,
    values: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    ahead: *const f32,
    place: Place,
) {
    macro_rules! tile {
        ($($count:literal)*) => {
            match rows {
                // SAFETY: as for this function.
                $($count => unsafe { tile::<$count>(values, weights, bias, ahead, place) },)*
                _ => unreachable!("a tile has 1 to {ROWS} rows"),
            }
        };
    }
    tile!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// As for [`tile_of`], with `R` rows.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize>(
    values: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    ahead: *const f32,
    place: Place,
) {
    let depth = weights.len() / COLUMNS;
    assert_eq!(values.len(), depth * R);
    // Places that are constants keep every sum in a register; a loop over rows would not.
    let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut value, mut weight) = (values.as_ptr(), weights.as_ptr());
    let mut ahead = ahead;
    for _ in 0..depth {
        // SAFETY: `depth` steps of 32 weights and `R` values each lie in the slices.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            let left = _mm512_loadu_ps(weight);
            let right = _mm512_loadu_ps(weight.add(16));
            macro_rules! each_row {
                ($($row:literal)*) => {$(
                    if $row < R {
                        let value = _mm512_set1_ps(*value.add($row));
                        sums[$row][0] = _mm512_fmadd_ps(value, left, sums[$row][0]);
                        sums[$row][1] = _mm512_fmadd_ps(value, right, sums[$row][1]);
                    }
                )*};
            }
            each_row!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
            value = value.add(R);
            weight = weight.add(COLUMNS);
            ahead = ahead.wrapping_add(AHEAD);
        }
    }
    let halves = (u32::MAX >> (COLUMNS - place.width)).to_le_bytes();
    let masks = [
        u16::from_le_bytes([halves[0], halves[1]]),
        u16::from_le_bytes([halves[2], halves[3]]),
    ];
    for (row, sums) in sums.iter().take(R).enumerate() {
        for half in 0..2 {
            // SAFETY: the mask keeps to the width of a row that the caller vouches for; a bias has
            // 32 values.
            unsafe {
                let to = place.to.add(row * place.stride).wrapping_add(half * 16);
                let mut sum = sums[half];
                if let Some(bias) = bias {
                    sum = _mm512_add_ps(_mm512_loadu_ps(bias[half * 16..][..16].as_ptr()), sum);
                }
                if place.onto {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(masks[half], to), sum);
                }
                _mm512_mask_storeu_ps(to, masks[half], sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for count in 0..300 {
            let mut next = 0;
            for (first, rows) in tiles(count) {
                assert_eq!(first, next);
                assert!((1..=ROWS).contains(&rows));
                next += rows;
            }
            assert_eq!(next, count);
        }
        assert_eq!(tiles(64).map(|(_, rows)| rows).max(), Some(13));
    }
}
