//! What an encoder layer does beside its products with weights, on the CPU: attention of packed
//! sequences, and the norm of a sum. Each passes over its values once and copies nothing.
#![expect(
    unsafe_code,
    reason = "strided products and heads that lie side by side in the output; the pointers stay \
              within slices whose lengths are checked beside them"
)]

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use gemm::{Parallelism, gemm};
use rayon::prelude::*;

use super::kernels::{lanes, softmax_row, values};
use super::vectorized::vectorized;

/// Rows of a norm in one task.
const ROWS: usize = 64;

/// Attention within each sequence, without a mask: rows of query, key and value side by side,
/// `[tokens, 3 * width]` f32 on the CPU, to `[tokens, width]`.
pub(super) fn attention(
    query_key_value: &Tensor,
    lengths: &[usize],
    heads: usize,
) -> Result<Tensor> {
    query_key_value.apply_op1_no_bwd(&SelfAttention { lengths, heads })
}

/// The layer norm of `a + b`, rows of f32 on the CPU.
pub(super) fn norm_of_sum(
    a: &Tensor,
    b: &Tensor,
    weight_and_bias: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    a.apply_op3_no_bwd(b, weight_and_bias, &NormOfSum { epsilon })
}

struct SelfAttention<'a> {
    lengths: &'a [usize],
    heads: usize,
}

/// Where one head of one sequence lies.
#[derive(Clone, Copy)]
struct Head {
    first: usize,
    tokens: usize,
    head: usize,
}

/// The output, of which tasks write disjoint parts.
struct Target(*mut f32);

// SAFETY: tasks write to places that no other task reads or writes.
unsafe impl Sync for Target {}

impl CustomOp1 for SelfAttention<'_> {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, columns) = layout.shape().dims2()?;
        let width = columns / 3;
        let head_width = width / self.heads;
        let rows = values(storage, layout)?;
        if self.lengths.iter().sum::<usize>() != tokens || head_width * self.heads * 3 != columns {
            bail!("{tokens} rows of {columns} are not these sequences and heads");
        }
        let mut first = 0;
        let mut tasks = Vec::with_capacity(self.lengths.len() * self.heads);
        for &tokens in self.lengths {
            tasks.extend((0..self.heads).map(|head| Head {
                first,
                tokens,
                head,
            }));
            first += tokens;
        }
        let mut output = vec![0.0; tokens * width];
        let target = Target(output.as_mut_ptr());
        tasks
            .into_par_iter()
            .for_each_init(Vec::new, |scores, task| {
                // SAFETY: the tasks' rows end with the last sequence, and their columns with the
                // last head, within both slices; no two tasks have a row and a column in common.
                unsafe { attend(rows, width, head_width, task, scores, &target) }
            });
        Ok((CpuStorage::F32(output), Shape::from((tokens, width))))
    }
}

/// # Safety
/// `task` must lie within `rows` and the target.
unsafe fn attend(
    rows: &[f32],
    width: usize,
    head_width: usize,
    task: Head,
    scores: &mut Vec<f32>,
    target: &Target,
) {
    let Head {
        first,
        tokens,
        head,
    } = task;
    let stride = 3 * width;
    let at = first * stride + head * head_width;
    let scale = 1.0 / (head_width as f32).sqrt();
    scores.resize(tokens * tokens, 0.0);
    let [row, across, narrow] = [stride, tokens, width].map(usize::cast_signed);
    // SAFETY: `tokens` rows of `head_width` columns behind `at`, at `width` and at `2 * width`
    // behind it, are in `rows`; `scores` has a place for each pair of tokens.
    unsafe {
        let query = rows.as_ptr().add(at);
        let (key, value) = (query.add(width), query.add(2 * width));
        product(
            (tokens, tokens, head_width),
            (scores.as_mut_ptr(), 1, across),
            (query, 1, row),
            (key, row, 1),
        );
        vectorized((scores.as_mut_slice(), tokens, scale), softmax_rows);
        product(
            (tokens, head_width, tokens),
            (target.0.add(first * width + head * head_width), 1, narrow),
            (scores.as_ptr(), 1, across),
            (value, 1, row),
        );
    }
}

/// `to = a b` of `(rows, columns, inner)`; each matrix with the steps to its next column and row.
///
/// # Safety
/// Every place of the three must be valid.
unsafe fn product(
    (rows, columns, inner): (usize, usize, usize),
    (to, to_column, to_row): (*mut f32, isize, isize),
    (a, a_column, a_row): (*const f32, isize, isize),
    (b, b_column, b_row): (*const f32, isize, isize),
) {
    // SAFETY: as for this function.
    unsafe {
        gemm(
            rows,
            columns,
            inner,
            to,
            to_column,
            to_row,
            false,
            a,
            a_column,
            a_row,
            b,
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

struct NormOfSum {
    epsilon: f32,
}

impl CustomOp3 for NormOfSum {
    fn name(&self) -> &'static str {
        "norm-of-sum"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = a_layout.shape().dims2()?;
        let (a, b) = (values(a, a_layout)?, values(b, b_layout)?);
        let parameters = values(parameters, parameters_layout)?;
        if b.len() != a.len() || parameters.len() != 2 * width {
            bail!("sums and their norm have one width");
        }
        let (weight, bias) = parameters.split_at(width);
        let mut output = vec![0.0; a.len()];
        let step = ROWS * width;
        output
            .par_chunks_mut(step)
            .zip(a.par_chunks(step).zip(b.par_chunks(step)))
            .for_each(|(output, (a, b))| {
                let norm = Norm {
                    weight,
                    bias,
                    epsilon: self.epsilon,
                };
                vectorized((output, a, b, norm), norm_rows);
            });
        Ok((CpuStorage::F32(output), Shape::from((tokens, width))))
    }
}

#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

#[inline(always)]
fn norm_rows((output, a, b, norm): (&mut [f32], &[f32], &[f32], Norm<'_>)) {
    let width = norm.weight.len();
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    for (output, (a, b)) in output.chunks_exact_mut(width).zip(rows) {
        norm_row(output, a, b, norm);
    }
}

#[inline(always)]
fn norm_row(output: &mut [f32], a: &[f32], b: &[f32], norm: Norm<'_>) {
    for (sum, (a, b)) in output.iter_mut().zip(a.iter().zip(b)) {
        *sum = a + b;
    }
    let width = output.len() as f32;
    let mean = lanes(output, 0.0, |sum, value| sum + value) / width;
    for value in output.iter_mut() {
        *value -= mean;
    }
    let variance = sum_of_squares(output) / width;
    let inverse = 1.0 / (variance + norm.epsilon).sqrt();
    for (value, (weight, bias)) in output.iter_mut().zip(norm.weight.iter().zip(norm.bias)) {
        *value = *value * inverse * weight + bias;
    }
}

#[inline(always)]
fn sum_of_squares(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0_f32; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    let rest: f32 = rest.iter().map(|value| value * value).sum();
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn softmax_rows((scores, tokens, scale): (&mut [f32], usize, f32)) {
    for row in scores.chunks_exact_mut(tokens) {
        softmax_row(row, scale);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn random(shape: (usize, usize)) -> Tensor {
        Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        difference.to_scalar().unwrap()
    }

    #[test]
    fn attention_is_the_tensor_librarys_for_each_sequence() {
        let (heads, width, lengths) = (4, 64, [1, 17, 40]);
        let packed = random((58, 3 * width));
        let found = attention(&packed, &lengths, heads).unwrap();
        let mut first = 0;
        for tokens in lengths {
            let rows = packed.narrow(0, first, tokens).unwrap();
            let parts = rows.reshape((tokens, 3, heads, width / heads)).unwrap();
            let part = |index: usize| {
                let part = parts.narrow(1, index, 1).unwrap().squeeze(1).unwrap();
                part.transpose(0, 1).unwrap().contiguous().unwrap()
            };
            let scores = part(0).matmul(&part(1).transpose(1, 2).unwrap()).unwrap();
            let scores = (scores * 0.25).unwrap();
            let mixed = candle_nn::ops::softmax_last_dim(&scores).unwrap();
            let mixed = mixed.matmul(&part(2)).unwrap().transpose(0, 1).unwrap();
            let expected = mixed.flatten_from(1).unwrap();
            let found = found.narrow(0, first, tokens).unwrap();
            assert!(worst(&found, &expected) < 1e-5);
            first += tokens;
        }
        assert!(attention(&packed, &[57], heads).is_err());
    }

    #[test]
    fn the_norm_of_a_sum_is_the_tensor_librarys() {
        let (a, b) = (random((130, 48)), random((130, 48)));
        let (weight, bias) = (random((1, 48)), random((1, 48)));
        let both = Tensor::cat(&[&weight, &bias], 0).unwrap();
        let found = norm_of_sum(&a, &b, &both, 1e-5).unwrap();
        let [weight, bias] = [weight, bias].map(|row| row.squeeze(0).unwrap());
        let sum = (a + b).unwrap().to_dtype(DType::F32).unwrap();
        let expected = candle_nn::ops::layer_norm(&sum, &weight, &bias, 1e-5).unwrap();
        assert!(worst(&found, &expected) < 1e-5);
    }
}
