//! Products with a matrix of weights on CPUs with AVX-512, where they reach the processor's peak;
//! other CPUs take the tensor library's. The weights are laid out once, when they are loaded.
//!
//! `C = A W^T + b` is cut into blocks of rows, which the cores share, and into slices of the inner
//! dimension, so that a block of A stays in a core's cache while all of W passes by.
#![expect(
    unsafe_code,
    reason = "tasks write disjoint parts of one output, which is not cleared before"
)]

use std::cell::RefCell;
use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::pack::pack;
use super::tile::{AHEAD, COLUMNS, Place, ROWS, tile_of};
use crate::embed::kernels::{values, values_mut};

/// Inner dimension of a slice.
const DEPTH: usize = 512;
/// Rows of a block: 224 KiB of A with the depth above.
const BLOCK: usize = 8 * ROWS;

thread_local! {
    /// A core's block of A, kept: memory that is new must be cleared by the kernel.
    static PACKED: RefCell<Aligned> = RefCell::default();
}

/// A matrix `[outputs, inputs]` laid out for products from the left, with its bias.
pub(in crate::embed) struct Matrix {
    inputs: usize,
    outputs: usize,
    /// For each 32 outputs: their weights input by input, zero beyond the last output.
    panels: Aligned,
    bias: Vec<f32>,
}

impl Matrix {
    /// Lays out `weight`, if this CPU has the instructions and the weight is of a kind for them.
    pub(in crate::embed) fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        let suits = weight.device().is_cpu() && weight.dtype() == DType::F32;
        if !suits || !super::available() {
            return Ok(None);
        }
        let (outputs, inputs) = weight.dims2()?;
        if inputs == 0 {
            return Ok(None);
        }
        let rows = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut panels = Aligned::zeros(outputs.div_ceil(COLUMNS) * COLUMNS * inputs);
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

    /// `sums + rows W^T + b`, in place of `sums`, which has a row for each of `rows`.
    pub(in crate::embed) fn add_product(&self, rows: &Tensor, sums: &Tensor) -> Result<()> {
        sums.inplace_op2(&rows.contiguous()?, &AddProduct(self))
    }

    fn product(&self, rows: &[f32]) -> Vec<f32> {
        let length = rows.len() / self.inputs * self.outputs;
        // Not cleared before: that would cost a tenth of the product.
        let mut output = Vec::with_capacity(length);
        self.write_product(rows, &mut output.spare_capacity_mut()[..length], false);
        // SAFETY: a product that is not added to anything writes every value.
        unsafe { output.set_len(length) };
        output
    }

    /// Writes every value of `output`; `onto` adds to what is there, which must be numbers then.
    fn write_product(&self, rows: &[f32], output: &mut [MaybeUninit<f32>], onto: bool) {
        let count = rows.len() / self.inputs;
        assert_eq!(output.len(), count * self.outputs);
        let panels = self.outputs.div_ceil(COLUMNS);
        let blocks = count.div_ceil(BLOCK);
        // Few rows leave cores idle unless columns are shared out too.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
        let group = panels.div_ceil(wanted).max(8);
        let groups = panels.div_ceil(group);
        let target = Target {
            values: output.as_mut_ptr().cast(),
            onto,
        };
        (0..blocks * groups).into_par_iter().for_each(|task| {
            let (block, group_number) = (task / groups, task % groups);
            let first_row = block * BLOCK;
            let block = Block {
                rows,
                first_row,
                count: BLOCK.min(count - first_row),
                panels: group_number * group..panels.min((group_number + 1) * group),
            };
            let size = BLOCK * DEPTH.min(self.inputs);
            PACKED.with_borrow_mut(|packed| self.block(&block, packed.first(size), &target));
        });
    }

    /// All products of one block with some of the panels.
    fn block(&self, block: &Block<'_>, packed: &mut [f32], target: &Target) {
        for start in (0..self.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(self.inputs - start);
            self.pack_block(block, start, depth, packed);
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
                    // The tiles of a block fetch the next panel together.
                    let next = weights.as_ptr().wrapping_add(self.inputs * COLUMNS);
                    let next = next.wrapping_add(first / ROWS * depth * AHEAD);
                    // SAFETY: the rows and columns of this tile lie in the output, no other task
                    // has any of them, and the instructions are there, or `new` had refused.
                    unsafe {
                        let place = Place {
                            to: target.values.add(place),
                            stride: self.outputs,
                            width,
                            onto: target.onto || start > 0,
                        };
                        tile_of(rows, values, weights, bias, next, place);
                    }
                }
            }
        }
    }

    /// Brings a slice of a block's rows into the order in which tiles read it: tile by tile, input
    /// by input.
    fn pack_block(&self, block: &Block<'_>, start: usize, depth: usize, packed: &mut [f32]) {
        for first in (0..block.count).step_by(ROWS) {
            let rows = ROWS.min(block.count - first);
            let from = &block.rows[(block.first_row + first) * self.inputs + start..];
            let tile = &mut packed[first * depth..(first + rows) * depth];
            // SAFETY: the instructions are there, or `new` had refused.
            unsafe { pack(from, self.inputs, rows, tile) };
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
    /// Whether the products are added to what is there.
    onto: bool,
}

// SAFETY: tasks write to places that no other task reads or writes.
unsafe impl Sync for Target {}

impl Matrix {
    /// Rows of `layout`, which must suit this matrix.
    fn count(&self, layout: &Layout) -> Result<usize> {
        let (count, inputs) = layout.shape().dims2()?;
        if inputs != self.inputs {
            candle_core::bail!("{inputs} columns, the matrix takes {}", self.inputs);
        }
        Ok(count)
    }
}

struct Product<'a>(&'a Matrix);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let matrix = self.0;
        let count = matrix.count(layout)?;
        let output = matrix.product(values(rows, layout)?);
        let shape = Shape::from((count, matrix.outputs));
        Ok((CpuStorage::F32(output), shape))
    }
}

struct AddProduct<'a>(&'a Matrix);

impl InplaceOp2 for AddProduct<'_> {
    fn name(&self) -> &'static str {
        "add-product"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        rows: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let matrix = self.0;
        let shape = (matrix.count(layout)?, matrix.outputs);
        if sums_layout.shape().dims2()? != shape {
            candle_core::bail!("the product is {shape:?}, the sums {sums_layout:?}");
        }
        let sums = values_mut(sums, sums_layout)?;
        // SAFETY: a number is a valid value for a place that may have none, and the product leaves
        // a number in every place.
        let sums = unsafe { &mut *(std::ptr::from_mut(sums) as *mut [MaybeUninit<f32>]) };
        matrix.write_product(values(rows, layout)?, sums, true);
        Ok(())
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
            let worst = (found - &expected).unwrap().abs().unwrap().max_all().unwrap();
            let worst = worst.to_scalar::<f32>().unwrap();
            // Sums of other orders differ by rounding.
            let tolerance = 1e-5 * (inputs as f32).sqrt() * 4.0;
            prop_assert!(worst < tolerance, "off by {worst}");

            let sums = Tensor::ones((rows, outputs), DType::F32, &Device::Cpu).unwrap();
            matrix.add_product(&a, &sums).unwrap();
            let worst = (sums - (expected + 1.0).unwrap()).unwrap().abs().unwrap();
            let worst = worst.max_all().unwrap().to_scalar::<f32>().unwrap();
            prop_assert!(worst < tolerance, "added, off by {worst}");
        }
    }
}
