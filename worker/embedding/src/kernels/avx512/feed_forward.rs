//! Two layers in one go: a core takes some rows through both, a slice of the inner width after the
//! other, so that what is between the layers never leaves its cache.
#![expect(
    unsafe_code,
    reason = "products write to memory sized beside the calls"
)]

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::matrix::{Matrix, Slice, Sums, pack_slice};
use super::tile::{COLUMNS, ROWS};
use crate::kernels::{Activation, Gelu, gate, values, values_mut};

/// Inner values that are computed, and used, together.
const SLICE: usize = 6 * COLUMNS;
/// Values of the rows that a core takes at a time: half of what its cache holds, or less.
const BLOCK_VALUES: usize = 128 * 1024;
/// Tiles of the rows that a core takes at a time. With fewer the weights' way from memory takes
/// longer than the products.
const BLOCK_TILES: std::ops::RangeInclusive<usize> = 6..=12;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a core works with.
#[derive(Default)]
struct Scratch {
    /// The rows as tiles read them.
    rows: Aligned,
    /// A slice of the inner values, `SLICE` apart from row to row, and of their gates.
    inner: Aligned,
    gates: Aligned,
    /// The slice as tiles read it.
    slice: Aligned,
}

/// The layers' weights.
pub(crate) struct FeedForward {
    first: First,
    second: Matrix,
}

enum First {
    Gelu(Matrix, Gelu),
    SwiGlu { gates: Matrix, values: Matrix },
}

impl FeedForward {
    /// Lays out the weights, if this CPU has the instructions and the weights are of a kind for
    /// them.
    pub(crate) fn new(
        (weight, bias): &(Tensor, Option<Tensor>),
        activation: Activation,
        second: &(Tensor, Option<Tensor>),
    ) -> Result<Option<Self>> {
        let part = |from: usize, count: usize| {
            let bias = bias.as_ref().map(|bias| bias.narrow(0, from, count));
            Matrix::new(&weight.narrow(0, from, count)?, bias.transpose()?.as_ref())
        };
        let outputs = weight.dim(0)?;
        let first = match activation {
            Activation::Gelu(gelu) => part(0, outputs)?.map(|matrix| First::Gelu(matrix, gelu)),
            Activation::SwiGlu => {
                let half = outputs / 2;
                let gates = part(0, half)?.zip(part(half, half)?);
                gates.map(|(gates, values)| First::SwiGlu { gates, values })
            }
        };
        let second = Matrix::new(&second.0, second.1.as_ref())?;
        Ok(first
            .zip(second)
            .map(|(first, second)| Self { first, second }))
    }

    /// Adds the layers' result for each of `rows`, `[count, width]`, to `sums`, of the same shape.
    pub(crate) fn add(&self, rows: &Tensor, sums: &Tensor) -> Result<()> {
        sums.inplace_op2(&rows.contiguous()?, &Add(self))
    }

    fn add_values(&self, rows: &[f32], sums: &mut [f32]) {
        let (inputs, outputs) = (self.first.inputs(), self.second.outputs());
        let (count, threads) = (sums.len() / outputs, rayon::current_num_threads());
        if count < threads * BLOCK_TILES.start() * ROWS {
            return self.add_one_after_the_other(rows, sums);
        }
        let tiles = BLOCK_VALUES / inputs / ROWS;
        let most = tiles.clamp(*BLOCK_TILES.start(), *BLOCK_TILES.end()) * ROWS;
        // As many blocks for each core, of nearly the same size.
        let blocks = count.div_ceil(most).next_multiple_of(threads);
        let size = count.div_ceil(blocks).next_multiple_of(ROWS);
        sums.par_chunks_mut(size * outputs)
            .enumerate()
            .for_each(|(block, sums)| {
                let count = sums.len() / outputs;
                let rows = &rows[block * size * inputs..][..count * inputs];
                SCRATCH.with_borrow_mut(|scratch| self.block(rows, sums, scratch));
            });
    }

    /// For few rows: all cores share each layer's columns.
    fn add_one_after_the_other(&self, rows: &[f32], sums: &mut [f32]) {
        let inner = match &self.first {
            First::Gelu(matrix, gelu) => {
                let mut inner = matrix.product(rows);
                gelu.apply(&mut inner);
                inner
            }
            First::SwiGlu { gates, values } => {
                let mut inner = values.product(rows);
                gate(&mut inner, &gates.product(rows));
                inner
            }
        };
        self.second.add_values(&inner, sums);
    }

    /// Both layers for the rows of one core.
    fn block(&self, rows: &[f32], sums: &mut [f32], scratch: &mut Scratch) {
        let (inputs, outputs) = (self.first.inputs(), self.second.outputs());
        let count = sums.len() / outputs;
        assert_eq!(rows.len(), count * inputs);
        let packed = scratch.rows.first(count * inputs);
        for slice in Slice::each(inputs) {
            pack_slice(rows, inputs, slice, &mut packed[slice.of(count)]);
        }
        for start in (0..self.second.inputs()).step_by(SLICE) {
            let depth = SLICE.min(self.second.inputs() - start);
            let inner = scratch.inner.first(count * SLICE);
            match &self.first {
                First::Gelu(matrix, gelu) => {
                    product(matrix, packed, count, start..start + depth, inner);
                    for row in inner.chunks_exact_mut(SLICE) {
                        gelu.apply(&mut row[..depth]);
                    }
                }
                First::SwiGlu { gates, values } => {
                    let gated = scratch.gates.first(count * SLICE);
                    product(gates, packed, count, start..start + depth, gated);
                    product(values, packed, count, start..start + depth, inner);
                    let gated = gated.chunks_exact(SLICE);
                    for (row, gates) in inner.chunks_exact_mut(SLICE).zip(gated) {
                        gate(&mut row[..depth], &gates[..depth]);
                    }
                }
            }
            let whole = Slice { start: 0, depth };
            let packed = scratch.slice.first(count * depth);
            pack_slice(inner, SLICE, whole, packed);
            let slice = Slice { start, depth };
            for panel in self.second.panels() {
                // SAFETY: the sums have a row of all outputs for each of `count`.
                unsafe {
                    let to = Sums {
                        first: sums.as_mut_ptr().add(panel * COLUMNS),
                        stride: outputs,
                        onto: true,
                    };
                    self.second.panel(packed, count, slice, panel, to);
                }
            }
        }
    }
}

impl First {
    fn inputs(&self) -> usize {
        match self {
            Self::Gelu(matrix, _) | Self::SwiGlu { values: matrix, .. } => matrix.inputs(),
        }
    }
}

/// Some outputs of a first layer, to the beginnings of rows of [`SLICE`] values.
fn product(
    matrix: &Matrix,
    packed: &[f32],
    count: usize,
    outputs: std::ops::Range<usize>,
    to: &mut [f32],
) {
    assert!(to.len() == count * SLICE && outputs.len() <= SLICE);
    for panel in outputs.start / COLUMNS..outputs.end.div_ceil(COLUMNS) {
        for slice in Slice::each(matrix.inputs()) {
            // SAFETY: there are `count` rows, which have room for whole panels.
            unsafe {
                let to = Sums {
                    first: to.as_mut_ptr().add(panel * COLUMNS - outputs.start),
                    stride: SLICE,
                    onto: slice.start > 0,
                };
                matrix.panel(&packed[slice.of(count)], count, slice, panel, to);
            }
        }
    }
}

struct Add<'a>(&'a FeedForward);

impl InplaceOp2 for Add<'_> {
    fn name(&self) -> &'static str {
        "add-feed-forward"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        rows: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (inputs, outputs) = (self.0.first.inputs(), self.0.second.outputs());
        let (count, width) = layout.shape().dims2()?;
        if width != inputs || sums_layout.shape().dims2()? != (count, outputs) {
            candle_core::bail!(
                "layers from {inputs} to {outputs} values: {layout:?}, {sums_layout:?}"
            );
        }
        let sums = values_mut(sums, sums_layout)?;
        self.0.add_values(values(rows, layout)?, sums);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::Product;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn both_layers_are_what_they_are_one_after_the_other(
            rows in 1..500_usize, width in 1..700_usize, inner in 1..1200_usize,
            (gated, biased) in (any::<bool>(), any::<bool>()),
        ) {
            let random = |shape: (usize, usize)| {
                Tensor::randn(0_f32, (shape.1 as f32).powf(-0.5), shape, &Device::Cpu).unwrap()
            };
            let bias = |count: usize| {
                biased.then(|| Tensor::randn(0_f32, 1.0, count, &Device::Cpu).unwrap())
            };
            let (activation, outputs) = if gated {
                (Activation::SwiGlu, 2 * inner)
            } else {
                (Activation::Gelu(Gelu::Tanh), inner)
            };
            let first = (random((outputs, width)), bias(outputs));
            let second = (random((width, inner)), bias(width));
            let Some(layers) = FeedForward::new(&first, activation, &second).unwrap() else {
                // This CPU takes the tensor library's products.
                return Ok(());
            };
            let input = Tensor::randn(0_f32, 1.0, (rows, width), &Device::Cpu).unwrap();
            let sums = Tensor::ones((rows, width), candle_core::DType::F32, &Device::Cpu).unwrap();
            layers.add(&input, &sums).unwrap();
            let plain = |(weight, bias)| Product::Plain { weight, bias };
            let inner = activation.of(plain(first).forward(&input).unwrap()).unwrap();
            let expected = (plain(second).forward(&inner).unwrap() + 1.0).unwrap();
            let worst = (sums - expected).unwrap().abs().unwrap().max_all().unwrap();
            let worst = worst.to_scalar::<f32>().unwrap();
            prop_assert!(worst < 2e-5, "off by {worst}");

        }
    }
}
