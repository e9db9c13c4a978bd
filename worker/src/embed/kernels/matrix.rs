//! Products with a matrix of weights on CPUs with AVX-512, where they reach the processor's peak;
//! other CPUs take the tensor library's. The weights are laid out once, when they are loaded.
//!
//! `C = A W^T + b` is cut into blocks of rows, which the cores share, and into slices of the inner
//! dimension, so that a block of A stays in a core's cache while all of W passes by. The innermost
//! tile is [`ROWS`] x [`COLUMNS`] sums in vector registers.
#![expect(
    unsafe_code,
    reason = "vector instructions on raw pointers; every pointer is derived from a slice whose \
              length is checked beside it"
)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::values;

/// Rows of a tile: with two registers a row, 28 of 32 registers hold sums.
const ROWS: usize = 14;
/// Columns of a tile: two registers.
const COLUMNS: usize = 32;
/// Inner dimension of a slice.
const DEPTH: usize = 512;
/// Rows of a block: 224 KiB of A with the depth above.
const BLOCK: usize = 8 * ROWS;

/// A matrix `[outputs, inputs]` laid out for products from the left, with its bias.
pub(in crate::embed) struct Matrix {
    inputs: usize,
    outputs: usize,
    /// For each 32 outputs: their weights input by input, zero beyond the last output.
    panels: Vec<f32>,
    bias: Vec<f32>,
}

impl Matrix {
    /// Lays out `weight`, if this CPU has the instructions and the weight is of a kind for them.
    pub(in crate::embed) fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let suits = weight.device().is_cpu() && weight.dtype() == DType::F32;
        if !suits || !std::arch::is_x86_feature_detected!("avx512f") {
            return Ok(None);
        }
        let (outputs, inputs) = weight.dims2()?;
        let rows = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut panels = vec![0.0; outputs.div_ceil(COLUMNS) * COLUMNS * inputs];
        panels
            .par_chunks_mut(COLUMNS * inputs)
            .enumerate()
            .for_each(|(panel, values)| {
                let first = panel * COLUMNS;
                for column in 0..COLUMNS.min(outputs - first) {
                    let row = &rows[(first + column) * inputs..][..inputs];
                    for (input, value) in row.iter().enumerate() {
                        values[input * COLUMNS + column] = *value;
                    }
                }
            });
        let mut padded = vec![0.0; outputs.div_ceil(COLUMNS) * COLUMNS];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(&bias.to_vec1::<f32>()?);
        }
        Ok(Some(Self {
            inputs,
            outputs,
            panels,
            bias: padded,
        }))
    }

    /// `rows W^T + b`, for rows of f32 on the CPU, `[count, inputs]`.
    pub(in crate::embed) fn multiply(&self, rows: &Tensor) -> Result<Tensor> {
        rows.contiguous()?.apply_op1_no_bwd(&Product(self))
    }

    fn product(&self, rows: &[f32]) -> Vec<f32> {
        let count = rows.len() / self.inputs;
        let mut output = vec![0.0; count * self.outputs];
        let panels = self.outputs.div_ceil(COLUMNS);
        let blocks = count.div_ceil(BLOCK);
        // Few rows leave cores idle unless columns are shared out too.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
        let group = panels.div_ceil(wanted).max(8);
        let groups = panels.div_ceil(group);
        let target = Target {
            values: output.as_mut_ptr(),
        };
        (0..blocks * groups).into_par_iter().for_each_init(
            || vec![0.0; BLOCK * DEPTH.min(self.inputs)],
            |packed, task| {
                let (block, group_number) = (task / groups, task % groups);
                let first_row = block * BLOCK;
                let block = Block {
                    rows,
                    first_row,
                    count: BLOCK.min(count - first_row),
                    panels: group_number * group..panels.min((group_number + 1) * group),
                };
                self.block(&block, packed, &target);
            },
        );
        output
    }

    /// All products of one block with some of the panels.
    fn block(&self, block: &Block<'_>, packed: &mut [f32], target: &Target) {
        for start in (0..self.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.inputs - start);
            self.pack(block, start, depth, packed);
            for panel in block.panels.clone() {
                let at = (panel * self.inputs + start) * COLUMNS;
                let weights = &self.panels[at..at + depth * COLUMNS];
                let column = panel * COLUMNS;
                let width = COLUMNS.min(self.outputs - column);
                let bias = (start == 0).then(|| &self.bias[column..column + COLUMNS]);
                for first in (0..block.count).step_by(ROWS) {
                    let rows = ROWS.min(block.count - first);
                    let values = &packed[first * depth..(first + rows) * depth];
                    let place = (block.first_row + first) * self.outputs + column;
                    // SAFETY: the rows and columns of this tile lie in the output, no other task
                    // has any of them, and the instructions are there, or `new` had refused.
                    unsafe {
                        let to = target.values.add(place);
                        tile_of(rows, values, weights, bias, to, self.outputs, width);
                    }
                }
            }
        }
    }

    /// Brings a slice of a block's rows into the order in which tiles read it: tile by tile, input
    /// by input.
    fn pack(&self, block: &Block<'_>, start: usize, depth: usize, packed: &mut [f32]) {
        for first in (0..block.count).step_by(ROWS) {
            let rows = ROWS.min(block.count - first);
            let tile = &mut packed[first * depth..(first + rows) * depth];
            for row in 0..rows {
                let at = (block.first_row + first + row) * self.inputs + start;
                let values = &block.rows[at..at + depth];
                for (to, value) in tile[row..].iter_mut().step_by(rows).zip(values) {
                    *to = *value;
                }
            }
        }
    }
}

struct Block<'a> {
    rows: &'a [f32],
    first_row: usize,
    count: usize,
    panels: std::ops::Range<usize>,
}

/// The output, of which tasks write disjoint parts.
struct Target {
    values: *mut f32,
}

// SAFETY: tasks write to places that no other task reads or writes.
unsafe impl Sync for Target {}

struct Product<'a>(&'a Matrix);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, inputs) = layout.shape().dims2()?;
        let matrix = self.0;
        if inputs != matrix.inputs {
            candle_core::bail!("{inputs} columns, the matrix takes {}", matrix.inputs);
        }
        let output = matrix.product(values(rows, layout)?);
        let shape = Shape::from((count, matrix.outputs));
        Ok((CpuStorage::F32(output), shape))
    }
}

/// [`tile`] for any number of rows up to [`ROWS`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_of(
    rows: usize,
    values: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    to: *mut f32,
    stride: usize,
    width: usize,
) {
    macro_rules! tile {
        ($($count:literal)*) => {
            match rows {
                // SAFETY: as for this function.
                $($count => unsafe { tile::<$count>(values, weights, bias, to, stride, width) },)*
                _ => unreachable!("a tile has 1 to {ROWS} rows"),
            }
        };
    }
    tile!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// Adds the products of `R` rows and 32 columns to `to`, or puts them there with the bias added.
///
/// # Safety
/// `to` must be valid for `R` rows of `width` values, `stride` apart.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize>(
    values: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    to: *mut f32,
    stride: usize,
    width: usize,
) {
    let depth = weights.len() / COLUMNS;
    assert_eq!(values.len(), depth * R);
    // Places that are constants keep every sum in a register; a loop over rows would not.
    let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut value, mut weight) = (values.as_ptr(), weights.as_ptr());
    for _ in 0..depth {
        // SAFETY: `depth` steps of 32 weights and `R` values each lie in the slices.
        unsafe {
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
        }
    }
    let mask = u32::MAX >> (COLUMNS - width);
    let halves = mask.to_le_bytes();
    let masks = [
        u16::from_le_bytes([halves[0], halves[1]]),
        u16::from_le_bytes([halves[2], halves[3]]),
    ];
    for (row, sums) in sums.iter().take(R).enumerate() {
        for half in 0..2 {
            // SAFETY: the mask keeps to `width` values of a row that the caller vouches for; a
            // bias has 32 values.
            unsafe {
                let to = to.add(row * stride).wrapping_add(half * 16);
                let before = match bias {
                    Some(bias) => _mm512_loadu_ps(bias[half * 16..][..16].as_ptr()),
                    None => _mm512_maskz_loadu_ps(masks[half], to),
                };
                _mm512_mask_storeu_ps(to, masks[half], _mm512_add_ps(before, sums[half]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn products_are_the_tensor_librarys(
            rows in 1..300_usize, inputs in 1..1200_usize, outputs in 1..200_usize,
        ) {
            let random = |shape: (usize, usize)| Tensor::randn(0_f32, 1.0, shape, &Device::Cpu);
            let a = random((rows, inputs)).unwrap();
            let weight = random((outputs, inputs)).unwrap();
            let bias = Tensor::randn(0_f32, 1.0, outputs, &Device::Cpu).unwrap();
            let Some(matrix) = Matrix::new(&weight, Some(&bias)).unwrap() else {
                // This CPU takes the tensor library's products.
                return Ok(());
            };
            let found = matrix.multiply(&a).unwrap();
            let product = a.matmul(&weight.t().unwrap()).unwrap();
            let expected = product.broadcast_add(&bias).unwrap();
            let worst = (found - expected).unwrap().abs().unwrap().max_all().unwrap();
            let worst = worst.to_scalar::<f32>().unwrap();
            // Sums of other orders differ by rounding.
            prop_assert!(worst < 1e-5 * (inputs as f32).sqrt() * 4.0, "off by {worst}");
        }
    }
}
