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
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::pack::{Rows, pack};
use super::tile::{AHEAD, COLUMNS, Place, ROWS, tile_of};
use crate::kernels::{values, values_mut};

/// Inner dimension of a slice.
const DEPTH: usize = 512;
/// Rows of a block: 216 KiB of A with the depth above.
const BLOCK: usize = 12 * ROWS;

thread_local! {
    /// A core's block of A, kept: memory that is new must be cleared by the kernel.
    static PACKED: RefCell<Aligned> = RefCell::default();
}

/// A matrix `[outputs, inputs]` laid out for products from the left, with its bias.
pub(crate) struct Matrix {
    inputs: usize,
    outputs: usize,
    /// For each 48 outputs: their weights input by input, zero beyond the last output.
    panels: Aligned,
    bias: Vec<f32>,
}

impl Matrix {
    /// Lays out `weight`, if this CPU has the instructions and the weight is of a kind for them.
    pub(crate) fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
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
    pub(crate) fn multiply(&self, rows: &Tensor) -> Result<Tensor> {
        rows.contiguous()?.apply_op1_no_bwd(&Product(self))
    }

    /// `sums + rows W^T + b`, in place of `sums`, which has a row for each of `rows`.
    pub(crate) fn add_product(&self, rows: &Tensor, sums: &Tensor) -> Result<()> {
        sums.inplace_op2(&rows.contiguous()?, &AddProduct(self))
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Numbers of the panels: 48 outputs each, the last one fewer.
    pub(super) fn panels(&self) -> Range<usize> {
        0..self.outputs.div_ceil(COLUMNS)
    }

    /// The product, with all cores.
    pub(super) fn product(&self, rows: &[f32]) -> Vec<f32> {
        let length = rows.len() / self.inputs * self.outputs;
        // Not cleared before: that would cost a tenth of the product.
        let mut output = Vec::with_capacity(length);
        self.write_product(rows, &mut output.spare_capacity_mut()[..length], false);
        // SAFETY: a product that is not added to anything writes every value.
        unsafe { output.set_len(length) };
        output
    }

    /// Adds the product to `sums`, with all cores.
    pub(super) fn add_values(&self, rows: &[f32], sums: &mut [f32]) {
        // SAFETY: a number is a valid value for a place that may have none, and the product leaves
        // a number in every place.
        let sums = unsafe { &mut *(std::ptr::from_mut(sums) as *mut [MaybeUninit<f32>]) };
        self.write_product(rows, sums, true);
    }

    /// Writes every value of `output`; `onto` adds to what is there, which must be numbers then.
    fn write_product(&self, rows: &[f32], output: &mut [MaybeUninit<f32>], onto: bool) {
        let count = rows.len() / self.inputs;
        assert_eq!(output.len(), count * self.outputs);
        let panels = self.panels().end;
        let blocks = count.div_ceil(BLOCK);
        // Few rows leave cores idle unless columns are shared out too.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1));
        let group = panels.div_ceil(wanted).max(8);
        let groups = panels.div_ceil(group);
        let target = Target(output.as_mut_ptr().cast());
        (0..blocks * groups).into_par_iter().for_each(|task| {
            let (block, group_number) = (task / groups, task % groups);
            let first = block * BLOCK;
            let count = BLOCK.min(count - first);
            let rows = &rows[first * self.inputs..][..count * self.inputs];
            let panels = group_number * group..panels.min((group_number + 1) * group);
            PACKED.with_borrow_mut(|packed| {
                for slice in Slice::each(self.inputs) {
                    let packed = packed.first(count * slice.depth);
                    pack_slice(rows, self.inputs, slice, packed);
                    for panel in panels.clone() {
                        // SAFETY: the rows and columns lie in the output, and no other task has
                        // any of them.
                        unsafe {
                            let place = first * self.outputs + panel * COLUMNS;
                            let to = Sums {
                                first: target.get().add(place),
                                stride: self.outputs,
                                onto: onto || slice.start > 0,
                            };
                            self.panel(packed, count, slice, panel, to);
                        }
                    }
                }
            });
        });
    }

    /// Some inputs' share of the products of `count` rows with one panel. `packed` are the rows'
    /// values for these inputs, by [`pack_slice`]. The bias comes with the first slice.
    ///
    /// # Safety
    /// `to` must be valid for `count` rows of the panel's outputs.
    pub(super) unsafe fn panel(
        &self,
        packed: &[f32],
        count: usize,
        Slice { start, depth }: Slice,
        panel: usize,
        to: Sums,
    ) {
        let at = (panel * self.inputs + start) * COLUMNS;
        let weights = &self.panels[at..at + depth * COLUMNS];
        let column = panel * COLUMNS;
        let bias = (start == 0).then(|| &self.bias[column..column + COLUMNS]);
        // The tiles fetch the next panel together.
        let mut ahead = weights.as_ptr().wrapping_add(self.inputs * COLUMNS);
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            let values = &packed[first * depth..(first + rows) * depth];
            // SAFETY: as for this function; the instructions are there, or `new` had refused.
            unsafe {
                let place = Place {
                    to: to.first.add(first * to.stride),
                    stride: to.stride,
                    width: COLUMNS.min(self.outputs - column),
                    onto: to.onto,
                };
                tile_of(rows, values, weights, bias, ahead, place);
            }
            ahead = ahead.wrapping_add(depth * AHEAD);
        }
    }
}

/// Inputs that products are added up over at a time.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    /// The first.
    pub(super) start: usize,
    /// How many.
    pub(super) depth: usize,
}

impl Slice {
    /// All of so many inputs.
    pub(super) fn each(inputs: usize) -> impl Iterator<Item = Self> {
        let starts = (0..inputs).step_by(DEPTH);
        starts.map(move |start| Self {
            start,
            depth: DEPTH.min(inputs - start),
        })
    }

    /// Where its values are among those of all slices of `count` rows.
    pub(super) fn of(self, count: usize) -> Range<usize> {
        self.start * count..(self.start + self.depth) * count
    }
}

/// Where the sums of some rows go.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// The first value of the first row.
    pub(super) first: *mut f32,
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// Whether they are added to what is there.
    pub(super) onto: bool,
}

/// Brings a slice of all `rows`, `stride` values each, into the order in which tiles read it: tile
/// by tile, input by input.
pub(super) fn pack_slice(rows: &[f32], stride: usize, slice: Slice, packed: &mut [f32]) {
    let Slice { start, depth } = slice;
    let count = packed.len() / depth;
    for first in (0..count).step_by(ROWS) {
        let tile = ROWS.min(count - first);
        let packed = &mut packed[first * depth..(first + tile) * depth];
        let rows = Rows {
            values: &rows[first * stride + start..],
            stride,
            count: tile,
            depth,
        };
        // SAFETY: only who has a matrix comes here, and there is none without the instructions.
        unsafe { pack(rows, packed, tile) };
    }
}

/// The output, of which tasks write disjoint parts.
struct Target(*mut f32);

impl Target {
    fn get(&self) -> *mut f32 {
        self.0
    }
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
        matrix.add_values(values(rows, layout)?, values_mut(sums, sums_layout)?);
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
