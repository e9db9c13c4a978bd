//! Activation functions, fused with bias and gate.

#![expect(
    clippy::inline_always,
    reason = "vectorised loops need everything that they call inlined"
)]

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{TASK, exp, is_fused, rows_per_task, values, values_mut, vectorised};

/// The variants of GELU that the models use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gelu {
    /// `x * sigmoid(1.702 x)`
    Quick,
    /// The tanh approximation.
    Tanh,
    /// The definition, with the error function. The tensor library calls a double-precision `erf`
    /// for each value, which takes longer than the matrix products around it. This one has an
    /// absolute error below 1e-6 for values up to 1, and a relative error below 1e-6 above.
    Exact,
}

/// `silu(gate) * value`, in place.
pub(super) fn gate(values: &mut [f32], gates: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (value, &gate) in values.iter_mut().zip(gates) {
                *value *= gate / (1.0 + exp(-gate));
            }
        },
    );
}

impl Gelu {
    /// Applies it to every value.
    pub(super) fn apply(self, values: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || self.apply_here(values),
        );
    }

    #[inline(always)]
    fn apply_here(self, values: &mut [f32]) {
        match self {
            Self::Quick => {
                for x in values {
                    *x /= 1.0 + exp(-1.702 * *x);
                }
            }
            // 0.5 (1 + tanh u) = 1 / (1 + exp(-2u))
            Self::Tanh => {
                for x in values {
                    let u = 0.797_884_6 * *x * (1.0 + 0.044_715 * *x * *x);
                    *x /= 1.0 + exp(-2.0 * u);
                }
            }
            Self::Exact => {
                for x in values {
                    *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
                }
            }
        }
    }
}

/// Adds the bias to each row.
pub(super) fn add_bias(rows: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !is_fused(&rows) {
        return rows.broadcast_add(bias);
    }
    rows.inplace_op2(bias, &AddBias)?;
    Ok(rows)
}

/// `silu(gate) * up` of rows that contain `gate` followed by `up`.
pub(super) fn swiglu(rows: &Tensor) -> Result<Tensor> {
    if !is_fused(rows) {
        let half = rows.dim(1)? / 2;
        return rows.narrow(1, 0, half)?.silu()? * rows.narrow(1, half, half)?;
    }
    rows.apply_op1_no_bwd(&SwiGlu)
}

/// Applies `activation` to every value.
pub(crate) fn activate(values: Tensor, activation: Gelu) -> Result<Tensor> {
    if !is_fused(&values) {
        return match activation {
            Gelu::Quick => &values * candle_nn::ops::sigmoid(&(&values * 1.702)?)?,
            Gelu::Tanh => values.gelu(),
            Gelu::Exact => values.gelu_erf(),
        };
    }
    values.inplace_op1(&Activate(activation))?;
    Ok(values)
}

struct AddBias;

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = values(bias, bias_layout)?;
        values_mut(rows, layout)?
            .par_chunks_mut(rows_per_task(bias.len()))
            .for_each(|task| {
                vectorised(
                    #[inline(always)]
                    || {
                        for row in task.chunks_exact_mut(bias.len()) {
                            for (value, bias) in row.iter_mut().zip(bias) {
                                *value += bias;
                            }
                        }
                    },
                );
            });
        Ok(())
    }
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, width) = layout.shape().dims2()?;
        let half = width / 2;
        let rows = values(rows, layout)?;
        let mut output = vec![0_f32; count * half];
        let step = rows_per_task(half);
        output
            .par_chunks_mut(step)
            .zip(rows.par_chunks(step * 2))
            .for_each(|(output, rows)| {
                for (output, row) in output.chunks_exact_mut(half).zip(rows.chunks_exact(width)) {
                    let (gates, up) = row.split_at(half);
                    output.copy_from_slice(up);
                    gate(output, gates);
                }
            });
        Ok((CpuStorage::F32(output), Shape::from((count, half))))
    }
}

struct Activate(Gelu);

impl InplaceOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = values_mut(storage, layout)?;
        values
            .par_chunks_mut(TASK)
            .for_each(|task| self.0.apply(task));
        Ok(())
    }
}

/// Coefficients, highest power first, of a rational approximation in `x^2`: `x` times its value is
/// the error function for |x| <= 4, beyond which it is 1 in f32. From Eigen's `erf` for floats.
const ERF_NUMERATOR: [f32; 7] = [
    -2.726_142_3e-10,
    2.770_681_4e-8,
    -2.101_024e-6,
    -5.692_506_4e-5,
    -7.349_906_3e-4,
    -2.954_6e-3,
    -1.609_603_3e-2,
];
/// Coefficients of the denominator.
const ERF_DENOMINATOR: [f32; 5] = [
    -1.456_607_2e-5,
    -2.133_740_6e-4,
    -1.682_827e-3,
    -7.373_329_2e-3,
    -1.426_473_9e-2,
];

/// The error function without branches, so that loops over it are vectorised.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    x * polynomial(square, &ERF_NUMERATOR) / polynomial(square, &ERF_DENOMINATOR)
}

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: &[f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = sum * x + coefficient;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn fused_activations_equal_the_tensor_librarys() {
        let x = Tensor::arange(-60_f32, 60.0, &Device::Cpu).unwrap();
        let x = (x / 10.0).unwrap().reshape((2, 60)).unwrap();
        let close = |a: &Tensor, b: &Tensor| {
            let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap();
            assert!(worst.to_scalar::<f32>().unwrap() < 2e-6);
        };
        let half = candle_nn::ops::swiglu(&x).unwrap();
        close(&swiglu(&x).unwrap(), &half);
        close(
            &activate(x.copy().unwrap(), Gelu::Tanh).unwrap(),
            &x.gelu().unwrap(),
        );
        let quick = (&x * candle_nn::ops::sigmoid(&(&x * 1.702).unwrap()).unwrap()).unwrap();
        close(&activate(x.copy().unwrap(), Gelu::Quick).unwrap(), &quick);
    }

    #[test]
    fn the_exact_gelu_equals_the_tensor_librarys() {
        let values: Vec<f32> = (-80_000..80_000).map(|step| step as f32 * 1e-4).collect();
        let states = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        let exact: Vec<f32> = states.gelu_erf().unwrap().to_vec1().unwrap();
        let fast = activate(states.copy().unwrap(), Gelu::Exact).unwrap();
        let fast: Vec<f32> = fast.to_vec1().unwrap();
        for ((value, exact), fast) in values.into_iter().zip(exact).zip(fast) {
            let tolerance = 1e-6 * value.abs().max(1.0);
            assert!((exact - fast).abs() < tolerance, "{value}: {exact} {fast}");
        }
    }
}
