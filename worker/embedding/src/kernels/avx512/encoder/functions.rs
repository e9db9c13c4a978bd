//! Functions of single numbers and norms, on panels.
#![expect(
    unsafe_code,
    reason = "vector loads and stores; each keeps to a slice checked beside it"
)]

use std::arch::x86_64::{
    __m512, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm512_add_ps, _mm512_div_ps,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_rcp14_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_sqrt_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

use crate::kernels::activation::{ERF_EVEN, ERF_ODD};
use crate::kernels::avx512::pack::LANES;
use crate::kernels::avx512::tile::{COLUMNS, REGISTERS};
use crate::kernels::encoder::Parameters;

/// 2^x to two units of the last place: the whole part is the exponent, a minimax polynomial of
/// degree 5 the rest. `x` is finite.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn exp2(x: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let whole = _mm512_roundscale_ps::<NEAREST>(x);
    let power = polynomial(_mm512_sub_ps(x, whole), &POWER_OF_TWO);
    _mm512_scalef_ps(power, whole)
}

/// Relative error 7.5e-8 on [-1/2, 1/2].
const POWER_OF_TWO: [f32; 6] = [
    1.327_647_2e-3,
    9.675_541e-3,
    5.550_713_3e-2,
    0.240_221_2,
    0.693_146_97,
    1.000_000_1,
];

/// GELU as it is defined, with the error function: `x/2 (1 + erf(x / sqrt 2))`. Differs by less
/// than 1e-6 for values up to 1, and by that times the value above.
#[target_feature(enable = "avx512f")]
pub(super) fn gelu(values: &mut [f32]) {
    let number = |value: f32| _mm512_set1_ps(value);
    for values in values.as_chunks_mut::<LANES>().0 {
        // SAFETY: the chunk has 16 values.
        let x = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        let z = _mm512_mul_ps(x, number(std::f32::consts::FRAC_1_SQRT_2));
        let z = _mm512_max_ps(_mm512_min_ps(z, number(4.0)), number(-4.0));
        let square = _mm512_mul_ps(z, z);
        let odd = _mm512_mul_ps(z, polynomial(square, &ERF_ODD));
        let even = polynomial(square, &ERF_EVEN);
        // A step of Newton's makes the estimate of 1 / even exact to the last places.
        let estimate = _mm512_rcp14_ps(even);
        let rest = _mm512_fnmadd_ps(even, estimate, number(1.0));
        let inverse = _mm512_fmadd_ps(estimate, rest, estimate);
        let half = _mm512_mul_ps(x, number(0.5));
        let result = _mm512_fmadd_ps(_mm512_mul_ps(odd, inverse), half, half);
        // SAFETY: the chunk has 16 values.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), result) };
    }
}

/// Horner's rule, highest power first.
#[target_feature(enable = "avx512f")]
#[inline]
fn polynomial<const N: usize>(x: __m512, coefficients: &[f32; N]) -> __m512 {
    let mut sum = _mm512_set1_ps(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(*coefficient));
    }
    sum
}

/// A norm over the values of a token.
pub(super) struct Norm {
    /// A factor and a summand for each value.
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn new(Parameters { weight, bias }: Parameters, epsilon: f32) -> Self {
        Self {
            weight,
            bias,
            epsilon,
        }
    }

    /// Normalises the tokens of panels: `weight * (x - mean) / sqrt(variance + epsilon) + bias`.
    #[target_feature(enable = "avx512f")]
    pub(super) fn apply(&self, panels: &mut [f32]) {
        for panel in panels.chunks_exact_mut(self.weight.len() * COLUMNS) {
            for register in 0..REGISTERS {
                self.normalise(panel.as_chunks_mut::<COLUMNS>().0, register);
            }
        }
    }

    /// Normalises 16 tokens.
    #[target_feature(enable = "avx512f")]
    fn normalise(&self, rows: &mut [[f32; COLUMNS]], register: usize) {
        let share = _mm512_set1_ps(1.0 / rows.len() as f32);
        let mean = _mm512_mul_ps(sum(rows, register, |value| value), share);
        let variance = sum(rows, register, |value| {
            let distance = _mm512_sub_ps(value, mean);
            _mm512_mul_ps(distance, distance)
        });
        let variance = _mm512_fmadd_ps(variance, share, _mm512_set1_ps(self.epsilon));
        let factor = _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_sqrt_ps(variance));
        for ((row, weight), bias) in rows.iter_mut().zip(&self.weight).zip(&self.bias) {
            let place = &mut row[register * LANES..][..LANES];
            // SAFETY: the place has 16 values.
            unsafe {
                let value = _mm512_sub_ps(_mm512_loadu_ps(place.as_ptr()), mean);
                let value = _mm512_mul_ps(value, factor);
                let value = _mm512_fmadd_ps(value, _mm512_set1_ps(*weight), _mm512_set1_ps(*bias));
                _mm512_storeu_ps(place.as_mut_ptr(), value);
            }
        }
    }
}

/// The sum of a function of each row's values, for 16 columns; four sums that do not wait for each
/// other.
#[target_feature(enable = "avx512f")]
#[inline]
fn sum(rows: &[[f32; COLUMNS]], register: usize, of: impl Fn(__m512) -> __m512) -> __m512 {
    let load = |row: &[f32; COLUMNS]| {
        let place = &row[register * LANES..][..LANES];
        // SAFETY: the place has 16 values.
        unsafe { _mm512_loadu_ps(place.as_ptr()) }
    };
    let mut sums = [_mm512_setzero_ps(); 4];
    let (fours, rest) = rows.as_chunks::<4>();
    for four in fours {
        for (sum, row) in sums.iter_mut().zip(four) {
            *sum = _mm512_add_ps(*sum, of(load(row)));
        }
    }
    for (sum, row) in sums.iter_mut().zip(rest) {
        *sum = _mm512_add_ps(*sum, of(load(row)));
    }
    let [a, b, c, d] = sums;
    _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Gelu, avx512};

    /// 16 values a step apart.
    fn steps(first: f32, step: f32) -> [f32; LANES] {
        std::array::from_fn(|place| first + place as f32 * step)
    }

    #[test]
    fn powers_of_two_are_exact_to_two_units_of_the_last_place() {
        if !avx512::available() {
            return;
        }
        for first in -125..125_i16 {
            let exponents = steps(f32::from(first), 1.0 / 16.0);
            let mut powers = [0.0; LANES];
            // SAFETY: the instructions are there, and both arrays have 16 values.
            unsafe {
                let power = exp2(_mm512_loadu_ps(exponents.as_ptr()));
                _mm512_storeu_ps(powers.as_mut_ptr(), power);
            }
            for (exponent, power) in exponents.into_iter().zip(powers) {
                let exact = f64::from(exponent).exp2();
                let error = (f64::from(power) - exact).abs() / exact;
                assert!(error < 2.5e-7, "2^{exponent} is off by {error}");
            }
        }
    }

    #[test]
    fn what_is_far_below_the_largest_has_no_weight() {
        if !avx512::available() {
            return;
        }
        let mut powers = [1.0; LANES];
        // SAFETY: the instructions are there, and the array has 16 values.
        unsafe {
            let power = exp2(_mm512_set1_ps(-1e30));
            _mm512_storeu_ps(powers.as_mut_ptr(), power);
        }
        assert!(powers.iter().all(|power| power.to_bits() == 0));
    }

    #[test]
    fn the_gelu_is_the_plain_one() {
        if !avx512::available() {
            return;
        }
        for first in -80..80_i16 {
            let values = steps(f32::from(first) / 10.0, 1.0 / 160.0);
            let (mut plain, mut found) = (values, values);
            Gelu::Exact.apply(&mut plain);
            // SAFETY: the instructions are there.
            unsafe { gelu(&mut found) };
            for ((value, plain), found) in values.into_iter().zip(plain).zip(found) {
                let tolerance = 5e-7 * value.abs().max(1.0);
                assert!(
                    (plain - found).abs() < tolerance,
                    "{value}: {plain} {found}"
                );
            }
        }
    }
}
