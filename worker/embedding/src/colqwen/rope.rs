//! Rotary position embeddings: tables of cosines and sines of positions. Computed on the host in
//! the reference's precision, once for each batch; the tensor library applies the rotation.

use candle_core::{DType, Device, Tensor};

use super::config::TextRope;
use super::error::Result;

/// Cosines and sines, `[tokens, head / 2]` each, in the model's type, on its device.
pub(super) struct RotaryTable {
    cosine: Tensor,
    sine: Tensor,
}

/// Base of the vision towers' frequencies, in every family.
const VISION_THETA: f64 = 10_000.0;

impl RotaryTable {
    /// Angles of patches: the first half of the frequencies rotates by the row, the second half by
    /// the column.
    pub(super) fn vision(
        positions: &[(usize, usize)],
        head: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = frequencies(VISION_THETA, head / 2);
        let angles = positions.iter().flat_map(|&(row, column)| {
            let frequencies = &frequencies;
            [row, column]
                .into_iter()
                .flat_map(move |axis| frequencies.iter().map(move |f| axis as f32 * f))
        });
        Self::new(angles, positions.len(), dtype, device)
    }

    /// Angles of tokens of the text tower, whose positions are time, row and column.
    pub(super) fn text(
        positions: &[[usize; 3]],
        rope: &TextRope,
        head: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = frequencies(rope.theta, head);
        let axes = axes(rope);
        let angles = positions.iter().flat_map(|position| {
            let axes = axes.iter().map(|&axis| position[axis] as f32);
            axes.zip(&frequencies)
                .map(|(position, frequency)| position * frequency)
        });
        Self::new(angles, positions.len(), dtype, device)
    }

    fn new(
        angles: impl Iterator<Item = f32>,
        tokens: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (sine, cosine): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let table = |values: Vec<f32>| -> Result<Tensor> {
            let width = values.len() / tokens;
            let table = Tensor::from_vec(values, (tokens, width), &Device::Cpu)?;
            Ok(table.to_dtype(dtype)?.to_device(device)?)
        };
        Ok(Self {
            cosine: table(cosine)?,
            sine: table(sine)?,
        })
    }

    /// Cosines and sines.
    pub(super) fn angles(&self) -> (&Tensor, &Tensor) {
        (&self.cosine, &self.sine)
    }

    /// Rotates `heads`, `[heads, tokens, head]` and contiguous, by the tokens' positions.
    pub(super) fn rotate(&self, heads: &Tensor) -> Result<Tensor> {
        let rotated = candle_nn::rotary_emb::rope(&heads.unsqueeze(0)?, &self.cosine, &self.sine)?;
        Ok(rotated.squeeze(0)?)
    }
}

/// `theta ^ (-2j / width)` for j below half the width.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the reference stores frequencies in f32"
)]
fn frequencies(theta: f64, width: usize) -> Vec<f32> {
    let exponent = |j: usize| (2 * j) as f64 / width as f64;
    (0..width / 2)
        .map(|j| theta.powf(-exponent(j)) as f32)
        .collect()
}

/// The axis (0 time, 1 row, 2 column) of each frequency.
fn axes(rope: &TextRope) -> Vec<usize> {
    let [time, rows, columns] = rope.sections;
    if !rope.interleaved {
        return [vec![0; time], vec![1; rows], vec![2; columns]].concat();
    }
    (0..time + rows + columns)
        .map(|j| match j % 3 {
            1 if j < 3 * rows => 1,
            2 if j < 3 * columns => 2,
            _ => 0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_sections_or_alternate() {
        let rope = |interleaved| TextRope {
            theta: 1e6,
            sections: [4, 2, 2],
            interleaved,
        };
        assert_eq!(axes(&rope(false)), [0, 0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(axes(&rope(true)), [0, 1, 2, 0, 1, 2, 0, 0]);
    }
}
