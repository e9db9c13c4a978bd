//! Products of some rows of numbers with the 48 columns of a panel.
//!
//! A panel holds 48 tokens column by column: a value of each, then the next value of each. A
//! product's sums come out so too, with a row for each output, and what one product writes the
//! next one reads as it is. Weights, keys and the values of attention are the numbers that columns
//! are multiplied by; they are read one by one, from wherever they lie.
#![expect(
    unsafe_code,
    reason = "vector instructions; every pointer is derived from a slice whose length is checked \
              beside it"
)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::kernels::avx512::tile::{COLUMNS, NEAR, REGISTERS, ROWS, add_products};

/// What columns are multiplied by: a number for each row and input.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// From the first on.
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) order: Order,
}

/// Where the numbers lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Those of the rows side by side, and so many values on those for the next input.
    Inputs(usize),
    /// Those of the inputs side by side and the rows 48 apart, in panels.
    Panels {
        /// Inputs before the first in its panel.
        before: usize,
        /// Values from one panel to the next.
        apart: usize,
    },
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// A number for each row, added to its sums.
    pub(super) bias: Option<&'a [f32]>,
    /// Whether what is there is added to the sums.
    pub(super) add: bool,
    /// A factor for each column.
    pub(super) scale: Option<&'a [f32; COLUMNS]>,
    /// Values from one panel's sums to the next's.
    pub(super) apart: usize,
}

/// What is fetched into the core's cache meanwhile: so many values for each input, from an address
/// on that need not be readable.
#[derive(Clone, Copy)]
pub(super) struct Ahead(pub(super) *const f32, pub(super) usize);

impl Ahead {
    /// Nothing that is not there.
    pub(super) fn nothing(values: &[f32]) -> Self {
        Self(values.as_ptr(), 0)
    }
}

/// Multiplies panels of `columns`, 48 for each input, by at most [`ROWS`] rows of factors, to 48
/// sums for each row.
///
/// # Safety
/// The CPU must have AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(
    factors: Factors<'_>,
    columns: &[f32],
    place: Place<'_>,
    to: &mut [f32],
    ahead: Ahead,
) {
    macro_rules! tile {
        ($($count:literal)*) => {
            match (factors.rows, factors.order) {
                // SAFETY: as for this function.
                $(($count, Order::Inputs(_)) => unsafe {
                    tile::<$count, 1>(factors, columns, place, to, ahead);
                },
                ($count, Order::Panels { .. }) => unsafe {
                    tile::<$count, COLUMNS>(factors, columns, place, to, ahead);
                },)*
                _ => unreachable!("a tile has 1 to {ROWS} rows"),
            }
        };
    }
    tile!(1 2 3 4 5 6 7 8 9);
}

/// Inputs whose numbers are as far from each other: a first piece of some, then pieces of a panel.
struct Pieces {
    first: usize,
    /// Values from one input to the next.
    step: usize,
    /// Values from the first piece's beginning to the second's, and from each other one's.
    jumps: [usize; 2],
}

impl Pieces {
    fn new(order: Order, inputs: usize) -> Self {
        match order {
            Order::Inputs(step) => Self {
                first: inputs,
                step,
                jumps: [0; 2],
            },
            Order::Panels { before, apart } => Self {
                first: inputs.min(COLUMNS - before),
                step: 1,
                jumps: [apart - before, apart],
            },
        }
    }

    /// Values before those of the last of so many inputs.
    fn last(&self, inputs: usize) -> usize {
        match (inputs - self.first).checked_sub(1) {
            None => self.first.saturating_sub(1) * self.step,
            Some(last) => {
                let [first, other] = self.jumps;
                first + last / COLUMNS * other + last % COLUMNS * self.step
            }
        }
    }
}

/// # Safety
/// As for [`multiply`], with `R` rows whose factors are `APART` values apart.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const APART: usize>(
    Factors {
        values,
        inputs,
        order,
        ..
    }: Factors<'_>,
    columns: &[f32],
    place: Place<'_>,
    to: &mut [f32],
    Ahead(mut ahead, ahead_step): Ahead,
) {
    let panels = columns.len() / (inputs * COLUMNS);
    let pieces = Pieces::new(order, inputs);
    let furthest = pieces.last(inputs) + (R - 1) * APART;
    assert!(furthest < values.len() && columns.len() == panels * inputs * COLUMNS);
    assert!(panels == 0 || (panels - 1) * place.apart + R * COLUMNS <= to.len());
    assert!(place.bias.is_none_or(|bias| bias.len() == R));
    let Pieces { first, step, jumps } = pieces;
    let (mut to, mut column) = (to.as_mut_ptr(), columns.as_ptr());

    // Sums stay in registers only where their places are constants: no loops over rows.
    macro_rules! each_row {
        ($do:ident) => {
            $do!(0 1 2 3 4 5 6 7 8)
        };
    }
    for _ in 0..panels {
        let mut sums: [Registers; ROWS] = [[_mm512_setzero_ps(); REGISTERS]; ROWS];
        if let Some(bias) = place.bias {
            macro_rules! set {
            ($($row:literal)*) => {$(
                if $row < R {
                    sums[$row] = [_mm512_set1_ps(bias[$row]); REGISTERS];
                }
            )*};
        }
            each_row!(set);
        }
        if place.add {
            macro_rules! add {
            ($($row:literal)*) => {$(
                if $row < R {
                    // SAFETY: there are 48 values for each row.
                    let values = unsafe { load(to.add($row * COLUMNS)) };
                    for (sum, value) in sums[$row].iter_mut().zip(values) {
                        *sum = _mm512_add_ps(*sum, value);
                    }
                }
            )*};
        }
            each_row!(add);
        }
        // Nothing is called from here on, and nothing is checked: sums would have to leave registers.
        let mut from = values.as_ptr();
        let (mut count, mut left, mut jump) = (first, inputs, jumps[0]);
        while left != 0 {
            let mut value = from;
            for _ in 0..count {
                // SAFETY: the furthest number is in the slice, and there are 48 columns for each
                // input; what is fetched ahead is not read.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    add_products!(R, sums, value, APART, column);
                }
                value = value.wrapping_add(step);
                column = column.wrapping_add(COLUMNS);
                ahead = ahead.wrapping_add(ahead_step);
            }
            from = from.wrapping_add(jump);
            left = left.wrapping_sub(count);
            count = if left < COLUMNS { left } else { COLUMNS };
            jump = jumps[1];
        }
        if let Some(scale) = place.scale {
            // SAFETY: there are 48 factors.
            let scale = unsafe { load(scale.as_ptr()) };
            macro_rules! multiply {
            ($($row:literal)*) => {$(
                if $row < R {
                    for (sum, scale) in sums[$row].iter_mut().zip(scale) {
                        *sum = _mm512_mul_ps(*sum, scale);
                    }
                }
            )*};
        }
            each_row!(multiply);
        }
        macro_rules! write {
        ($($row:literal)*) => {$(
            if $row < R {
                // SAFETY: there are 48 values for each row.
                unsafe {
                    let to = to.add($row * COLUMNS);
                    _mm512_storeu_ps(to, sums[$row][0]);
                    _mm512_storeu_ps(to.add(16), sums[$row][1]);
                    _mm512_storeu_ps(to.add(32), sums[$row][2]);
                }
            }
        )*};
    }
        each_row!(write);
        to = to.wrapping_add(place.apart);
    }
}

/// The columns' values.
type Registers = [__m512; REGISTERS];

/// A row of 48 values.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(values: *const f32) -> Registers {
    // SAFETY: the caller vouches for them.
    unsafe {
        [
            _mm512_loadu_ps(values),
            _mm512_loadu_ps(values.add(16)),
            _mm512_loadu_ps(values.add(32)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::avx512;

    fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-1.0..1.0_f32, count)
    }

    fn orders(rows: usize) -> impl Strategy<Value = Order> {
        let inputs = (rows..60_usize).prop_map(Order::Inputs);
        let panels = (0..COLUMNS, 0..100_usize).prop_map(|(before, between)| Order::Panels {
            before,
            apart: ROWS * COLUMNS + between,
        });
        prop_oneof![inputs, panels]
    }

    /// Where the number of a row and an input is.
    fn place(order: Order, row: usize, input: usize) -> usize {
        match order {
            Order::Inputs(step) => input * step + row,
            Order::Panels { before, apart } => {
                let (panel, column) = ((before + input) / COLUMNS, (before + input) % COLUMNS);
                panel * apart + row * COLUMNS + column - before
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn products_are_what_they_are_defined_to_be(
            (rows, order, biases) in (1..=ROWS)
                .prop_flat_map(|rows| (Just(rows), orders(rows), numbers(rows))),
            (inputs, panels, between) in (1..130_usize, 1..4_usize, 0..50_usize),
            (biased, add, scaled) in (any::<bool>(), any::<bool>(), any::<bool>()),
            seed in numbers(997),
        ) {
            if !avx512::available() {
                return Ok(());
            }
            let mut numbers = seed.into_iter().cycle();
            let mut take = |count: usize| numbers.by_ref().take(count).collect::<Vec<f32>>();
            let values = take(place(order, rows - 1, inputs - 1) + 1);
            let columns = take(panels * inputs * COLUMNS);
            let scale: [f32; COLUMNS] = take(COLUMNS).try_into().unwrap();
            let apart = rows * COLUMNS + between;
            let before = take(panels * apart);
            let mut found = before.clone();
            let factors = Factors { values: &values, rows, inputs, order };
            let what = Place {
                bias: biased.then_some(&biases),
                add,
                scale: scaled.then_some(&scale),
                apart,
            };
            // SAFETY: the instructions are there.
            unsafe { multiply(factors, &columns, what, &mut found, Ahead::nothing(&columns)) };
            for (index, (found, before)) in found.into_iter().zip(before).enumerate() {
                let (panel, row, column) =
                    (index / apart, index % apart / COLUMNS, index % apart % COLUMNS);
                if row >= rows {
                    // Between the sums of two panels nothing is written.
                    prop_assert_eq!(found.to_bits(), before.to_bits());
                    continue;
                }
                let columns = &columns[panel * inputs * COLUMNS..];
                let products = (0..inputs).map(|input| {
                    let value = values[place(order, row, input)];
                    f64::from(value) * f64::from(columns[input * COLUMNS + column])
                });
                let mut expected: f64 = products.sum();
                expected += if biased { f64::from(biases[row]) } else { 0.0 };
                expected += if add { f64::from(before) } else { 0.0 };
                expected *= if scaled { f64::from(scale[column]) } else { 1.0 };
                prop_assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}
