//! The exact (erf) GELU, fast on the CPU. It computes in place of candle's own, which calls a
//! double-precision `erf` for each value and takes longer than the matrix products around it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Values that one thread takes at a time.
const CHUNK: usize = 16 * 1024;

/// `x * (1 + erf(x / √2)) / 2` of each value; f32, contiguous, on the CPU. Differs from the exact
/// function by less than 1e-6 for values up to 1, and by that times the value above.
pub(super) fn gelu_erf(states: &Tensor) -> Result<Tensor> {
    states.contiguous()?.apply_op1_no_bwd(&GeluErf)
}

struct GeluErf;

impl CustomOp1 for GeluErf {
    fn name(&self) -> &'static str {
        "gelu-erf"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = storage.as_slice::<f32>()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("gelu-erf needs a contiguous tensor");
        };
        let mut output = values[start..end].to_vec();
        output.par_chunks_mut(CHUNK).for_each(|chunk| {
            for value in chunk {
                *value = 0.5 * *value * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
            }
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }
}

/// The error function as a quotient of polynomials; beyond ±4 it is ±1 in f32. The coefficients
/// are those of Eigen's `erf` for floats. Plain arithmetic, so that the loop above vectorises.
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let odd = polynomial(
        square,
        &[
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906_3e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let even = polynomial(
        square,
        &[
            -1.456_607_2e-5,
            -2.133_740_6e-4,
            -1.682_827e-3,
            -7.373_329_2e-3,
            -1.426_473_9e-2,
        ],
    );
    x * odd / even
}

/// Horner's rule, highest power first.
#[inline]
fn polynomial<const N: usize>(x: f32, coefficients: &[f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = sum * x + coefficient;
    }
    sum
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn it_is_candles_exact_gelu() {
        let values: Vec<f32> = (-80_000..80_000).map(|step| step as f32 * 1e-4).collect();
        let states = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        let exact: Vec<f32> = states.gelu_erf().unwrap().to_vec1().unwrap();
        let fast: Vec<f32> = gelu_erf(&states).unwrap().to_vec1().unwrap();
        for ((value, exact), fast) in values.into_iter().zip(exact).zip(fast) {
            let tolerance = 1e-6 * value.abs().max(1.0);
            assert!((exact - fast).abs() < tolerance, "{value}: {exact} {fast}");
        }
    }

    #[test]
    fn a_part_of_a_tensor_gives_its_own_values() {
        let states = Tensor::arange(0f32, 12.0, &Device::Cpu)
            .unwrap()
            .reshape((3, 4))
            .unwrap();
        let column = states.narrow(1, 2, 1).unwrap();
        let fast: Vec<f32> = gelu_erf(&column)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert!((fast[1] - 6.0).abs() < 1e-6, "{fast:?}");
        assert_eq!(fast.len(), 3);
    }
}
