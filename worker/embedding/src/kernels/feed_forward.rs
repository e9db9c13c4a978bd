//! Feed-forward network: two linear layers with an activation between them, and the residual.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::matrix::{PackedMatrix, ROW_PADDING, Sums, block, copy_rows, slices};
use super::path::Path;
use super::product::pack;
use super::tile::{ROWS, Rows};
use super::{Gelu, Product, TASK, activate, gate, swiglu, values, values_mut};

/// Intermediate values that a core computes and consumes together: whole panels on every path.
const SLICE: usize = 384;
/// Input values of a block: at most half of a core's L2.
const BLOCK_VALUES: usize = 128 * 1024;
/// Rows of a block. With fewer, reading the weights from memory would take longer than the
/// products.
const BLOCK: std::ops::RangeInclusive<usize> = 8 * ROWS..=24 * ROWS;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a core, reused: the system must clear newly allocated memory.
#[derive(Default)]
struct Scratch {
    rows: Aligned,
    /// A slice of the intermediate values, and of their gates.
    inner: Aligned,
    gates: Aligned,
}

/// The activation between the layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    /// GELU of each value.
    Gelu(Gelu),
    /// `silu(gate) * up`: the first layer computes the gates, followed by as many `up` values.
    SwiGlu,
}

impl Activation {
    /// `[rows, width]` to `[rows, width]`, or to half the width for `SwiGlu`.
    pub(crate) fn apply(self, values: Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu(gelu) => activate(values, gelu),
            Self::SwiGlu => swiglu(&values),
        }
    }
}

/// A feed-forward network.
pub(crate) enum FeedForward {
    /// A core takes a block of rows through both layers, so that intermediate values never leave
    /// its cache.
    Fused(FusedLayers),
    /// One layer after the other.
    LayerByLayer {
        /// From the width of the rows to the intermediate width, twice that with gates.
        first: Product,
        activation: Activation,
        /// Back to the width of the rows.
        second: Product,
    },
}

impl FeedForward {
    /// Creates the network from weights and biases of both layers.
    pub(crate) fn new(
        first: (Tensor, Option<Tensor>),
        activation: Activation,
        second: (Tensor, Option<Tensor>),
    ) -> Result<Self> {
        let fused = FusedLayers::new(Path::chosen(), &first, activation, &second)?;
        Ok(match fused {
            Some(fused) => Self::Fused(fused),
            None => Self::LayerByLayer {
                first: Product::new(first.0, first.1)?,
                activation,
                second: Product::new(second.0, second.1)?,
            },
        })
    }

    /// `sums`, changed in place if possible, plus the result for `rows`.
    pub(crate) fn add_to(&self, sums: Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused(layers) => {
                let sums = sums.contiguous()?;
                sums.inplace_op2(&rows.contiguous()?, layers)?;
                Ok(sums)
            }
            Self::LayerByLayer {
                first,
                activation,
                second,
            } => second.add_to(sums, &activation.apply(first.forward(rows)?)?),
        }
    }
}

/// Packed weights of both layers.
pub(crate) struct FusedLayers {
    first: FirstLayer,
    second: PackedMatrix,
}

enum FirstLayer {
    Gelu(PackedMatrix, Gelu),
    SwiGlu {
        gates: PackedMatrix,
        values: PackedMatrix,
    },
}

impl FusedLayers {
    /// Packs the weights; `None` if the kernels do not support them.
    fn new(
        path: Path,
        (weight, bias): &(Tensor, Option<Tensor>),
        activation: Activation,
        second: &(Tensor, Option<Tensor>),
    ) -> Result<Option<Self>> {
        let part = |from: usize, count: usize| {
            let bias = bias.as_ref().map(|bias| bias.narrow(0, from, count));
            pack(
                path,
                &weight.narrow(0, from, count)?,
                bias.transpose()?.as_ref(),
            )
        };
        let outputs = weight.dim(0)?;
        let first = match activation {
            Activation::Gelu(gelu) => {
                part(0, outputs)?.map(|matrix| FirstLayer::Gelu(matrix, gelu))
            }
            Activation::SwiGlu => {
                let half = outputs / 2;
                let gates = part(0, half)?.zip(part(half, half)?);
                gates.map(|(gates, values)| FirstLayer::SwiGlu { gates, values })
            }
        };
        let second = pack(path, &second.0, second.1.as_ref())?;
        Ok(first
            .zip(second)
            .map(|(first, second)| Self { first, second }))
    }

    fn add(&self, rows: &[f32], sums: &mut [f32]) {
        let (inputs, outputs) = (self.first.inputs(), self.second.outputs());
        let (count, threads) = (sums.len() / outputs, rayon::current_num_threads());
        if count == 0 {
            return;
        }
        if count < threads * BLOCK.start() {
            return self.add_layer_by_layer(rows, sums);
        }
        let most = (BLOCK_VALUES / inputs).clamp(*BLOCK.start(), *BLOCK.end());
        let size = block(count, most, threads);
        sums.par_chunks_mut(size * outputs)
            .zip(rows.par_chunks(size * inputs))
            .for_each(|(sums, rows)| {
                SCRATCH.with_borrow_mut(|scratch| self.add_block(rows, sums, scratch));
            });
    }

    /// For few rows: all cores divide the outputs of each layer.
    fn add_layer_by_layer(&self, rows: &[f32], sums: &mut [f32]) {
        let product = |matrix: &PackedMatrix| {
            let mut product = vec![0.0; rows.len() / matrix.inputs() * matrix.outputs()];
            matrix.multiply(rows, &mut product, false);
            product
        };
        let inner = match &self.first {
            FirstLayer::Gelu(matrix, gelu) => {
                let mut inner = product(matrix);
                inner.par_chunks_mut(TASK).for_each(|task| gelu.apply(task));
                inner
            }
            FirstLayer::SwiGlu { gates, values } => {
                let (mut inner, gated) = (product(values), product(gates));
                inner
                    .par_chunks_mut(TASK)
                    .zip(gated.par_chunks(TASK))
                    .for_each(|(inner, gated)| gate(inner, gated));
                inner
            }
        };
        self.second.multiply(&inner, sums, true);
    }

    /// Both layers for one block of rows, on this core.
    fn add_block(&self, rows: &[f32], sums: &mut [f32], scratch: &mut Scratch) {
        const STRIDE: usize = SLICE + ROW_PADDING;
        let (inputs, outputs) = (self.first.inputs(), self.second.outputs());
        let count = sums.len() / outputs;
        let Scratch {
            rows: copy,
            inner,
            gates: gated,
        } = scratch;
        let rows = Rows {
            values: rows,
            stride: inputs,
        };
        let rows = copy_rows(rows, count, 0..inputs, copy);
        let inner = inner.first(count * STRIDE);
        for start in (0..self.second.inputs()).step_by(SLICE) {
            let slice = start..self.second.inputs().min(start + SLICE);
            match &self.first {
                FirstLayer::Gelu(matrix, gelu) => {
                    product(matrix, rows, count, slice.clone(), inner);
                    for row in inner.chunks_exact_mut(STRIDE) {
                        gelu.apply(&mut row[..slice.len()]);
                    }
                }
                FirstLayer::SwiGlu { gates, values } => {
                    let gated = gated.first(count * STRIDE);
                    product(gates, rows, count, slice.clone(), gated);
                    product(values, rows, count, slice.clone(), inner);
                    let gated = gated.chunks_exact(STRIDE);
                    for (row, gates) in inner.chunks_exact_mut(STRIDE).zip(gated) {
                        gate(&mut row[..slice.len()], &gates[..slice.len()]);
                    }
                }
            }
            let inner = Rows {
                values: inner,
                stride: STRIDE,
            };
            let sums = Sums {
                values: sums,
                stride: outputs,
                accumulate: true,
            };
            let panels = self.second.panels(&(0..outputs));
            self.second.multiply_part(slice, panels, inner, count, sums);
        }
    }
}

impl FirstLayer {
    fn inputs(&self) -> usize {
        match self {
            Self::Gelu(matrix, _) | Self::SwiGlu { values: matrix, .. } => matrix.inputs(),
        }
    }
}

/// Some outputs of a first layer, written to rows of [`SLICE`] values plus padding.
fn product(
    matrix: &PackedMatrix,
    rows: Rows<'_>,
    count: usize,
    outputs: Range<usize>,
    to: &mut [f32],
) {
    for inputs in slices(matrix.inputs()) {
        let sums = Sums {
            values: to,
            stride: SLICE + ROW_PADDING,
            accumulate: inputs.start > 0,
        };
        let rows = Rows {
            values: &rows.values[inputs.start..],
            ..rows
        };
        matrix.multiply_part(inputs, matrix.panels(&outputs), rows, count, sums);
    }
}

impl InplaceOp2 for FusedLayers {
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
        let (inputs, outputs) = (self.first.inputs(), self.second.outputs());
        let (count, width) = layout.shape().dims2()?;
        if width != inputs || sums_layout.shape().dims2()? != (count, outputs) {
            candle_core::bail!(
                "rows of {layout:?} and sums of {sums_layout:?}, expected {inputs} and {outputs} \
                 columns"
            );
        }
        let sums = values_mut(sums, sums_layout)?;
        self.add(values(rows, layout)?, sums);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn fused_layers_equal_one_layer_after_the_other(
            rows in 1..500_usize,
            width in prop_oneof![1..700_usize, Just(1024)],
            inner in 1..1200_usize,
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
            let input = Tensor::randn(0_f32, 1.0, (rows, width), &Device::Cpu).unwrap();
            let plain = |(weight, bias)| Product::Plain { weight, bias };
            let between = activation.apply(plain(first.clone()).forward(&input).unwrap()).unwrap();
            let expected = (plain(second.clone()).forward(&between).unwrap() + 1.0).unwrap();
            for path in Path::all() {
                let layers = FusedLayers::new(path, &first, activation, &second).unwrap();
                let Some(layers) = layers else {
                    continue;
                };
                let sums = Tensor::ones((rows, width), DType::F32, &Device::Cpu).unwrap();
                sums.inplace_op2(&input, &layers).unwrap();
                let worst = (&sums - &expected).unwrap().abs().unwrap().max_all().unwrap();
                let worst = worst.to_scalar::<f32>().unwrap();
                prop_assert!(worst < 2e-5, "{path:?}: off by {worst}");
            }
        }
    }
}
