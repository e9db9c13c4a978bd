//! The innermost product: [`ROWS`] x [`COLUMNS`] sums in vector registers.
#![expect(
    unsafe_code,
    reason = "vector instructions on raw pointers; every pointer is derived from a slice whose \
              length is checked beside it"
)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
};

use super::pack::LANES;

/// Rows of a tile: 27 of 32 registers hold sums. A form with 14 rows and two registers a row, with
/// as many sums, has more numbers to load for each row and reaches 0.86 of what cores can do, this
/// one 0.98.
pub(super) const ROWS: usize = 9;
/// Registers of a row.
pub(super) const REGISTERS: usize = 3;
/// Columns of a tile.
pub(super) const COLUMNS: usize = REGISTERS * LANES;
/// Tiles that fetch a panel of weights together.
const SHARES: usize = 12;
/// Values that a tile fetches ahead for each of its inputs.
pub(super) const AHEAD: usize = COLUMNS / SHARES;
/// Inputs by which columns are fetched ahead into the first cache.
pub(super) const NEAR: usize = 16;

/// For each number of values of a register: a bit for each of these.
const MASKS: [u16; LANES + 1] = {
    let mut masks = [0; LANES + 1];
    let mut count = 1;
    while count <= LANES {
        masks[count] = masks[count - 1] << 1 | 1;
        count += 1;
    }
    masks
};

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

/// Adds the products of some rows' values, so many apart from a pointer on, with all columns'
/// values to sums.
///
/// A macro, since sums stay in registers only where their places are constants and the loop around
/// this is in the same function.
macro_rules! add_products {
    ($count:ident, $sums:ident, $value:ident, $apart:expr, $column:ident) => {
        let near = $column.wrapping_add(NEAR * COLUMNS);
        _mm_prefetch::<_MM_HINT_T0>(near.cast());
        _mm_prefetch::<_MM_HINT_T0>(near.wrapping_add(16).cast());
        _mm_prefetch::<_MM_HINT_T0>(near.wrapping_add(32).cast());
        let left = _mm512_loadu_ps($column);
        let middle = _mm512_loadu_ps($column.add(16));
        let right = _mm512_loadu_ps($column.add(32));
        add_products!(
            @rows $count, $sums, $value, $apart, left, middle, right, 0 1 2 3 4 5 6 7 8
        );
    };
    (
        @rows $count:ident, $sums:ident, $value:ident, $apart:expr, $left:ident, $middle:ident,
        $right:ident, $($row:literal)*
    ) => {$(
        if $row < $count {
            use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
            let value = _mm512_set1_ps(*$value.add($row * $apart));
            $sums[$row][0] = _mm512_fmadd_ps(value, $left, $sums[$row][0]);
            $sums[$row][1] = _mm512_fmadd_ps(value, $middle, $sums[$row][1]);
            $sums[$row][2] = _mm512_fmadd_ps(value, $right, $sums[$row][2]);
        }
    )*};
}
pub(super) use add_products;

/// Cuts `count` rows into tiles of nearly equal size: the first row and the number of each.
pub(super) fn tiles(count: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let size = count.div_ceil(count.div_ceil(ROWS).max(1)).max(1);
    let starts = (0..count).step_by(size);
    starts.map(move |first| (first, size.min(count - first)))
}

/// The products of `rows` rows with all columns. `values` are those of the rows, `weights` those
/// of the columns, both input by input; `bias` has a value for each column. Meanwhile [`AHEAD`]
/// values for each input are fetched into the core's cache, from `ahead` on, which need not be
/// readable.
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
    tile!(1 2 3 4 5 6 7 8 9);
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
    let mut sums: [[__m512; REGISTERS]; ROWS] = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
    let (mut value, mut weight) = (values.as_ptr(), weights.as_ptr());
    let mut ahead = ahead;
    for _ in 0..depth {
        // SAFETY: `depth` steps of all columns' weights and `R` values each lie in the slices.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            add_products!(R, sums, value, 1, weight);
            value = value.add(R);
            weight = weight.add(COLUMNS);
            ahead = ahead.wrapping_add(AHEAD);
        }
    }
    for (row, sums) in sums.iter().take(R).enumerate() {
        for (register, sum) in sums.iter().enumerate() {
            let first = register * LANES;
            let there = place.width.saturating_sub(first).min(LANES);
            let mask = MASKS[there];
            // SAFETY: the mask keeps to the width of a row that the caller vouches for; a bias has
            // a value for each column.
            unsafe {
                let to = place.to.add(row * place.stride).wrapping_add(first);
                let mut sum = *sum;
                if let Some(bias) = bias {
                    sum = _mm512_add_ps(_mm512_loadu_ps(bias[first..][..LANES].as_ptr()), sum);
                }
                if place.onto {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                }
                _mm512_mask_storeu_ps(to, mask, sum);
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
        assert_eq!(tiles(64).map(|(_, rows)| rows).max(), Some(8));
    }
}
