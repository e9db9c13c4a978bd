//! Matrix products with weights that are packed once, on load.

#![expect(
    clippy::inline_always,
    reason = "vectorised code needs everything that it calls inlined"
)]

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::path::Path;
use super::tile::{self, ROWS, Rows};

/// Inputs that are summed before the sums are stored: a panel's share of them stays in L1 for all
/// rows of a block.
const DEPTH: usize = 512;
/// Most rows of a block: with [`DEPTH`] inputs they take 576 KiB of L2.
const BLOCK: usize = 48 * ROWS;
/// Padding between copied rows. Without it, rows of 2 KiB would compete for few cache sets.
pub(super) const ROW_PADDING: usize = 16;
/// Values of a memory page. Rows with a stride of a multiple of it would compete for the same sets
/// of L1.
const PAGE: usize = 1024;

thread_local! {
    /// A core's copy of its rows, reused: the system must clear newly allocated memory.
    static COPY: RefCell<Aligned> = RefCell::default();
}

/// A matrix `[outputs, inputs]` in panels of a few outputs, with its bias. A panel holds its
/// weights input by input, padded with zeros behind the last output.
pub(super) struct PackedMatrix {
    path: Path,
    inputs: usize,
    outputs: usize,
    /// Number of outputs of a panel.
    width: usize,
    panels: Aligned,
    /// Padded like the panels.
    bias: Vec<f32>,
}

/// Destination of the sums.
pub(super) struct Sums<'a> {
    /// Starts with the first sum of the first row.
    pub(super) values: &'a mut [f32],
    /// Distance between rows.
    pub(super) stride: usize,
    /// Add the sums to the values instead of replacing them.
    pub(super) accumulate: bool,
}

impl PackedMatrix {
    /// Packs `weight`, `[outputs, inputs]` row by row. `None` on the portable path.
    pub(super) fn new(
        path: Path,
        weight: &[f32],
        inputs: usize,
        bias: Option<&[f32]>,
    ) -> Option<Self> {
        if !path.is_native() || inputs == 0 {
            return None;
        }
        let outputs = weight.len() / inputs;
        let width = path.run(PanelWidth);
        let mut panels = Aligned::zeros(outputs.div_ceil(width) * width * inputs);
        panels
            .par_chunks_mut(width * inputs)
            .zip(weight.par_chunks(width * inputs))
            .for_each(|(panel, rows)| transpose(rows, inputs, panel, width));
        let mut padded = vec![0.0; outputs.div_ceil(width) * width];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        Some(Self {
            path,
            inputs,
            outputs,
            width,
            panels,
            bias: padded,
        })
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The panels of these outputs, whose start must be the start of a panel.
    pub(super) fn panels(&self, outputs: &Range<usize>) -> Range<usize> {
        outputs.start / self.width..outputs.end.div_ceil(self.width)
    }

    /// `rows W^T + b`, row by row, on all cores; added to `sums` if `accumulate`.
    pub(super) fn multiply(&self, rows: &[f32], sums: &mut [f32], accumulate: bool) {
        let count = rows.len() / self.inputs;
        assert_eq!(sums.len(), count * self.outputs);
        if count == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        let panels = self.outputs.div_ceil(self.width);
        if count < threads * ROWS && panels > count.div_ceil(ROWS) {
            return self.multiply_few(rows, sums, accumulate);
        }
        let size = block(count, BLOCK, threads);
        sums.par_chunks_mut(size * self.outputs)
            .zip(rows.par_chunks(size * self.inputs))
            .for_each(|(sums, rows)| self.multiply_on_core(rows, sums, accumulate));
    }

    /// For few rows: cores divide the outputs instead of the rows.
    fn multiply_few(&self, rows: &[f32], sums: &mut [f32], accumulate: bool) {
        let panels = self.outputs.div_ceil(self.width);
        let share = panels.div_ceil(2 * rayon::current_num_threads()).max(1);
        let (count, source) = (rows.len() / self.inputs, self.rows(rows));
        let parts: Vec<Vec<f32>> = (0..panels.div_ceil(share))
            .into_par_iter()
            .map(|part| {
                let panels = part * share..panels.min((part + 1) * share);
                let outputs = self.outputs.min(panels.end * self.width) - panels.start * self.width;
                let mut sums = vec![0.0; count * outputs];
                let to = Sums {
                    values: &mut sums,
                    stride: outputs,
                    accumulate: false,
                };
                self.multiply_part(0..self.inputs, panels, source, count, to);
                sums
            })
            .collect();
        let mut first = 0;
        for part in parts {
            let outputs = part.len() / count.max(1);
            let to = sums.chunks_exact_mut(self.outputs);
            for (to, from) in to.zip(part.chunks_exact(outputs)) {
                let to = &mut to[first..first + outputs];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = if accumulate { *to + from } else { *from };
                }
            }
            first += outputs;
        }
    }

    /// [`multiply`](Self::multiply) on this core.
    pub(super) fn multiply_on_core(&self, rows: &[f32], sums: &mut [f32], accumulate: bool) {
        let panels = self.panels(&(0..self.outputs));
        let rows = rows.chunks(BLOCK * self.inputs);
        for (rows, sums) in rows.zip(sums.chunks_mut(BLOCK * self.outputs)) {
            let count = rows.len() / self.inputs;
            for inputs in slices(self.inputs) {
                COPY.with_borrow_mut(|copy| {
                    let copy = copy_rows(self.rows(rows), count, inputs.clone(), copy);
                    let to = Sums {
                        values: sums,
                        stride: self.outputs,
                        accumulate: accumulate || inputs.start > 0,
                    };
                    self.multiply_part(inputs, panels.clone(), copy, count, to);
                });
            }
        }
    }

    /// The share of some inputs in the products of `count` rows with some panels, on this core.
    /// `rows` start at the first of these inputs, `sums` at the first output of the first panel.
    /// The bias is added with the first input.
    pub(super) fn multiply_part(
        &self,
        inputs: Range<usize>,
        panels: Range<usize>,
        rows: Rows<'_>,
        count: usize,
        sums: Sums<'_>,
    ) {
        self.path.run(Multiply {
            matrix: self,
            inputs,
            panels,
            rows,
            count,
            sums,
        });
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Rows<'a> {
        Rows {
            values,
            stride: self.inputs,
        }
    }
}

/// Rows of a block, if the work is divided into whole tiles of about `most` rows or fewer, with the
/// same number of blocks of about the same size for each core.
pub(super) fn block(count: usize, most: usize, threads: usize) -> usize {
    let blocks = count.div_ceil(most).next_multiple_of(threads).max(1);
    count.div_ceil(blocks).next_multiple_of(ROWS)
}

/// Ranges of at most [`DEPTH`] inputs that cover all of them.
pub(super) fn slices(inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..inputs).step_by(DEPTH);
    starts.map(move |start| start..inputs.min(start + DEPTH))
}

/// Some inputs of the first `count` rows, copied if their stride would cause cache conflicts.
pub(super) fn copy_rows<'a>(
    rows: Rows<'a>,
    count: usize,
    inputs: Range<usize>,
    copy: &'a mut Aligned,
) -> Rows<'a> {
    if !rows.stride.is_multiple_of(PAGE) {
        return Rows {
            values: &rows.values[inputs.start..],
            ..rows
        };
    }
    let stride = inputs.len() + ROW_PADDING;
    let values = copy.first(count * stride);
    for (number, to) in values.chunks_exact_mut(stride).enumerate() {
        let row = &rows.values[number * rows.stride..];
        to[..inputs.len()].copy_from_slice(&row[inputs.clone()]);
    }
    Rows { values, stride }
}

/// Transposes `rows` of `inputs` values into a panel with `width` columns.
fn transpose(rows: &[f32], inputs: usize, panel: &mut [f32], width: usize) {
    for (column, row) in rows.chunks_exact(inputs).enumerate() {
        for (value, place) in row.iter().zip(panel.chunks_exact_mut(width)) {
            place[column] = *value;
        }
    }
}

/// Returns the number of columns of a panel.
pub(super) struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        tile::panel_registers::<S>() * S::F32_LANES
    }
}

struct Multiply<'a> {
    matrix: &'a PackedMatrix,
    inputs: Range<usize>,
    panels: Range<usize>,
    rows: Rows<'a>,
    count: usize,
    sums: Sums<'a>,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            matrix,
            inputs,
            panels,
            rows,
            count,
            sums,
        } = self;
        let (width, depth) = (matrix.width, inputs.len());
        let before = panels.start * width;
        for panel in panels {
            let first = panel * width;
            let weights = &matrix.panels[(panel * matrix.inputs + inputs.start) * width..];
            let weights = &weights[..depth * width];
            let bias = &matrix.bias[first..first + width];
            let bias = (inputs.start == 0).then_some(bias);
            for row in (0..count).step_by(ROWS) {
                let rows_here = ROWS.min(count - row);
                let sums_here = &mut sums.values[row * sums.stride + first - before..];
                for row in 0..rows_here {
                    let end = width.min(matrix.outputs - first);
                    tile::prefetch(&sums_here[row * sums.stride..][..end]);
                }
                tile::multiply(
                    simd,
                    rows.from(row),
                    rows_here,
                    weights,
                    width,
                    #[inline(always)]
                    |row: usize, column: usize, mut sum: S::f32s| {
                        if let Some(bias) = bias {
                            sum = simd.add_f32s(sum, S::as_simd_f32s(&bias[column..]).0[0]);
                        }
                        let remaining = matrix.outputs.saturating_sub(first + column);
                        if remaining >= S::F32_LANES {
                            let place = &mut sums_here[row * sums.stride + column..];
                            let place = &mut S::as_mut_simd_f32s(&mut place[..S::F32_LANES]).0[0];
                            if sums.accumulate {
                                sum = simd.add_f32s(sum, *place);
                            }
                            *place = sum;
                        } else if remaining > 0 {
                            let place = &mut sums_here[row * sums.stride + column..][..remaining];
                            if sums.accumulate {
                                sum = simd.add_f32s(sum, simd.partial_load_f32s(place));
                            }
                            simd.partial_store_f32s(place, sum);
                        }
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::testing::{by_definition, random};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn products_match_their_definition(
            count in 0..300_usize,
            // Rows with a stride of a multiple of a page are copied first.
            inputs in prop_oneof![1..1200_usize, Just(1024), Just(2048)],
            outputs in 1..200_usize,
        ) {
            let (rows, weight) = (random(count * inputs), random(outputs * inputs));
            let bias = random(outputs);
            let expected = by_definition(&rows, &weight, inputs, &bias);
            // Another order of summation rounds differently.
            let tolerance = 4e-5 * (inputs as f32).sqrt();
            for path in Path::all() {
                let Some(matrix) = PackedMatrix::new(path, &weight, inputs, Some(&bias)) else {
                    continue;
                };
                let mut sums = vec![7.0; count * outputs];
                matrix.multiply(&rows, &mut sums, false);
                for (found, expected) in sums.iter().zip(&expected) {
                    prop_assert!((found - expected).abs() < tolerance, "{path:?}");
                }
                matrix.multiply(&rows, &mut sums, true);
                for (found, expected) in sums.iter().zip(&expected) {
                    prop_assert!((found - 2.0 * expected).abs() < 2.0 * tolerance, "{path:?}");
                }
            }
        }
    }

    #[test]
    fn every_core_gets_the_same_number_of_blocks() {
        assert_eq!(block(3072, 144, 2), 144);
        assert_eq!(block(100, 144, 2), 54);
        assert_eq!(block(0, 144, 2), 0_usize.next_multiple_of(ROWS));
    }
}
