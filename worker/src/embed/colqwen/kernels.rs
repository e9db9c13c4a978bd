//! Elementwise work of the towers, fused and on all cores for f32 on the CPU, where it would
//! otherwise cost as much as the matrix products. Other devices and types take the tensor
//! library's own kernels. No shapes of models here.

use candle_core::{
    CpuStorage, CustomOp1, DType, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;

/// Values that one task works on: large enough to hide the cost of a task, small enough for L2.
const TASK: usize = 32 * 1024;

/// A function of one number, in the forms that the towers use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    /// `x * sigmoid(1.702 x)`
    QuickGelu,
    /// GELU in its tanh form
    TanhGelu,
}

/// Which keys a row of scores may see.
#[derive(Clone, Copy, Debug)]
pub(super) enum Visible {
    /// All.
    All,
    /// Keys up to the row's own: row `r` belongs to query `first + r % block`.
    Causal {
        /// Query of the first row.
        first: usize,
        /// Queries in the block; rows repeat them head after head.
        block: usize,
    },
}

fn is_fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32 && tensor.is_contiguous()
}

/// `rows + bias`, the bias being one row.
pub(super) fn add_bias(rows: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !is_fused(&rows) {
        return rows.broadcast_add(bias);
    }
    rows.inplace_op2(bias, &AddBias)?;
    Ok(rows)
}

/// `silu(gate) * up` of rows that hold gate and up side by side.
pub(super) fn swiglu(rows: &Tensor) -> Result<Tensor> {
    if !is_fused(rows) {
        let half = rows.dim(1)? / 2;
        return rows.narrow(1, 0, half)?.silu()? * rows.narrow(1, half, half)?;
    }
    rows.apply_op1_no_bwd(&SwiGlu)
}

/// Applies `activation` to every value.
pub(super) fn activate(values: Tensor, activation: Activation) -> Result<Tensor> {
    if !is_fused(&values) {
        return match activation {
            Activation::QuickGelu => &values * candle_nn::ops::sigmoid(&(&values * 1.702)?)?,
            Activation::TanhGelu => values.gelu(),
        };
    }
    values.inplace_op1(&Activate(activation))?;
    Ok(values)
}

/// Softmax of `scale * scores` over the keys that each row may see; `scores` is
/// `[batch, rows, keys]`. Computed in f32.
pub(super) fn softmax(scores: Tensor, scale: f32, visible: Visible) -> Result<Tensor> {
    if is_fused(&scores) {
        scores.inplace_op1(&Softmax { scale, visible })?;
        return Ok(scores);
    }
    if scores.device().is_cpu() && scores.dtype() != DType::F32 {
        let dtype = scores.dtype();
        return softmax(scores.to_dtype(DType::F32)?, scale, visible)?.to_dtype(dtype);
    }
    let scaled = (scores * f64::from(scale))?;
    let masked = match visible {
        Visible::All => scaled,
        Visible::Causal { first, block } => {
            let (_, rows, keys) = scaled.dims3()?;
            let mask: Vec<f32> = (0..rows)
                .flat_map(|row| {
                    let last = first + row % block;
                    (0..keys).map(move |key| if key <= last { 0.0 } else { f32::NEG_INFINITY })
                })
                .collect();
            let mask = Tensor::from_vec(mask, (1, rows, keys), scaled.device())?;
            scaled.broadcast_add(&mask.to_dtype(scaled.dtype())?)?
        }
    };
    candle_nn::ops::softmax_last_dim(&masked)
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
                for row in task.chunks_exact_mut(bias.len()) {
                    for (value, bias) in row.iter_mut().zip(bias) {
                        *value += bias;
                    }
                }
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
                    let (gate, up) = row.split_at(half);
                    for ((value, &gate), &up) in output.iter_mut().zip(gate).zip(up) {
                        *value = gate / (1.0 + exp(-gate)) * up;
                    }
                }
            });
        Ok((CpuStorage::F32(output), Shape::from((count, half))))
    }
}

struct Activate(Activation);

impl InplaceOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = values_mut(storage, layout)?;
        values.par_chunks_mut(TASK).for_each(|task| match self.0 {
            Activation::QuickGelu => {
                for x in task {
                    *x /= 1.0 + exp(-1.702 * *x);
                }
            }
            // 0.5 (1 + tanh u) = 1 / (1 + exp(-2u))
            Activation::TanhGelu => {
                for x in task {
                    let u = 0.797_884_6 * *x * (1.0 + 0.044_715 * *x * *x);
                    *x /= 1.0 + exp(-2.0 * u);
                }
            }
        });
        Ok(())
    }
}

struct Softmax {
    scale: f32,
    visible: Visible,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "scaled-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, rows, keys) = layout.shape().dims3()?;
        let scores = values_mut(storage, layout)?;
        let step = rows_per_task(keys) / keys;
        scores
            .par_chunks_mut(step * keys)
            .enumerate()
            .for_each(|(task, scores)| {
                for (offset, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let seen = match self.visible {
                        Visible::All => keys,
                        Visible::Causal { first, block } => {
                            let row = (task * step + offset) % rows;
                            (first + row % block + 1).min(keys)
                        }
                    };
                    let (seen, hidden) = row.split_at_mut(seen);
                    softmax_row(seen, self.scale);
                    hidden.fill(0.0);
                }
            });
        Ok(())
    }
}

fn softmax_row(row: &mut [f32], scale: f32) {
    let largest = lanes(row, f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = exp((*value - largest) * scale);
    }
    let inverse = 1.0 / lanes(row, 0.0, |sum, value| sum + value);
    for value in row.iter_mut() {
        *value *= inverse;
    }
}

/// Folds a row in eight independent lanes, which the compiler keeps in vector registers.
#[inline]
fn lanes(row: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 8];
    let chunks = row.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, value);
        }
    }
    lanes
        .iter()
        .chain(rest)
        .fold(start, |total, &value| fold(total, value))
}

/// e^x to within two units of the last place, without branches: x = n ln 2 + r, and a polynomial
/// on r. Saturates below e^-87 and above e^88.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        0.166_666_66,
        0.5,
    ] {
        p = p * r + coefficient;
    }
    let p = p * r * r + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(power)
}

/// Values of whole rows of this width in one task.
fn rows_per_task(width: usize) -> usize {
    (TASK / width).max(1) * width
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("a fused kernel takes contiguous f32"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a fused kernel takes contiguous f32"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_exponential_is_exact_to_two_units_of_the_last_place() {
        for step in -8600..8800_i16 {
            let x = f32::from(step) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
    }

    #[test]
    fn a_causal_row_sees_itself_and_what_is_before() {
        let scores = Tensor::zeros((2, 4, 6), DType::F32, &Device::Cpu).unwrap();
        let visible = Visible::Causal { first: 3, block: 2 };
        let rows = softmax(scores, 1.0, visible)
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        for head in rows {
            for (row, values) in head.iter().enumerate() {
                let seen = 4 + row % 2;
                let share = 1.0 / f32::from(u8::try_from(seen).unwrap());
                assert!(
                    values[..seen]
                        .iter()
                        .all(|value| (value - share).abs() < 1e-6)
                );
                assert!(values[seen..].iter().all(|value| *value == 0.0));
            }
        }
    }

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
            &activate(x.copy().unwrap(), Activation::TanhGelu).unwrap(),
            &x.gelu().unwrap(),
        );
        let quick = (&x * candle_nn::ops::sigmoid(&(&x * 1.702).unwrap()).unwrap()).unwrap();
        close(
            &activate(x.copy().unwrap(), Activation::QuickGelu).unwrap(),
            &quick,
        );
    }
}
