//! Learned position embeddings of ColQwen3's vision tower: a square table, interpolated bilinearly
//! over each page's grid of patches, with aligned corners.

use candle_core::{Device, Tensor};

use super::error::Result;
use super::layers::Loader;
use super::packing::{VisionPlan, indices};

/// The table `[side * side, width]`.
pub(super) struct PositionTable {
    table: Tensor,
    side: usize,
}

/// The two neighbouring entries of a position, and the weight of the second.
struct Neighbours {
    low: usize,
    high: usize,
    share: f32,
}

impl PositionTable {
    /// Reads the table.
    pub(super) fn load(loader: &Loader, side: usize, width: usize) -> Result<Self> {
        Ok(Self {
            table: loader.tensor("weight", &[side * side, width])?,
            side,
        })
    }

    /// Position embeddings for every patch of a plan, `[patches, width]`.
    pub(super) fn at(&self, plan: &VisionPlan) -> Result<Tensor> {
        let mut corners: [(Vec<usize>, Vec<f32>); 4] = std::array::from_fn(|_| (vec![], vec![]));
        for (&(row, column), &(rows, columns)) in plan.positions.iter().zip(&plan.sides) {
            let y = self.neighbours(row, rows);
            let x = self.neighbours(column, columns);
            let all = [
                (y.low, x.low, (1.0 - y.share) * (1.0 - x.share)),
                (y.low, x.high, (1.0 - y.share) * x.share),
                (y.high, x.low, y.share * (1.0 - x.share)),
                (y.high, x.high, y.share * x.share),
            ];
            for ((entries, weights), (row, column, weight)) in corners.iter_mut().zip(all) {
                entries.push(row * self.side + column);
                weights.push(weight);
            }
        }
        let parts = corners.into_iter().map(|part| self.weighted(part));
        let [a, b, c, d] =
            <[_; 4]>::try_from(parts.collect::<Result<Vec<_>>>()?).expect("there are four corners");
        Ok((((a + b)? + c)? + d)?)
    }

    fn weighted(&self, (entries, weights): (Vec<usize>, Vec<f32>)) -> Result<Tensor> {
        let (count, device) = (entries.len(), self.table.device());
        let weights = Tensor::from_vec(weights, (count, 1), &Device::Cpu)?;
        let weights = weights.to_dtype(self.table.dtype())?.to_device(device)?;
        let rows = self
            .table
            .index_select(&Tensor::from_vec(indices(entries), count, device)?, 0)?;
        Ok(rows.broadcast_mul(&weights)?)
    }

    /// Neighbouring entries of patch `position` of `length`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below the side"
    )]
    fn neighbours(&self, position: usize, length: usize) -> Neighbours {
        let last = self.side - 1;
        let step = last as f32 / (length.max(2) - 1) as f32;
        let exact = position as f32 * step;
        let low = (exact as usize).min(last);
        Neighbours {
            low,
            high: (low + 1).min(last),
            share: exact - low as f32,
        }
    }
}
