//! Attention over a packed batch: it stays within each segment, so the result of a page does not
//! depend on its neighbours. Scores are computed in blocks of queries and never exist for a whole
//! page at once. Projections are not part of this module.

use candle_core::Tensor;

use super::error::Result;
use super::grid::Segments;
use super::layers::Norm;
use super::rope::RotaryTable;
use crate::kernels::{self, AttentionMask, HeadNorm, MaskCache};

/// Scores of a block: a few megabytes fit in a CPU's cache; a GPU needs large launches.
const CPU_SCORES: usize = 1 << 20;
const GPU_SCORES: usize = 1 << 28;
/// Segments up to this length are computed in batches.
const SHORT: usize = 512;

/// Attention pattern within a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Every token attends to all tokens.
    Bidirectional,
    /// A token attends to itself and earlier tokens.
    Causal,
}

/// Attention inputs that all layers of a tower share for one batch.
pub(super) struct Layout<'a> {
    /// The batch's tokens, divided into segments.
    pub(super) segments: &'a [Segments],
    /// Pattern within each segment.
    pub(super) direction: Direction,
    /// Positions of the tokens.
    pub(super) rotary: &'a RotaryTable,
    /// Created once, used by every layer.
    pub(super) masks: &'a MaskCache,
}

/// A layer's attention.
pub(super) struct SelfAttention {
    heads: usize,
    groups: usize,
    head: usize,
    /// Applied to each query head and key head before rotation.
    norms: Option<(Norm, Norm)>,
    /// The same norms for the fused kernel.
    host_norms: Option<(HeadNorm, HeadNorm)>,
}

impl SelfAttention {
    /// Creates attention with `heads` query heads of width `head`, and `groups` key and value
    /// heads, each shared by the same number of neighbouring query heads.
    pub(super) fn new(
        heads: usize,
        groups: usize,
        head: usize,
        norms: Option<(Norm, Norm)>,
    ) -> Result<Self> {
        let host_norms = match &norms {
            Some((queries, keys)) => Some((queries.to_host()?, keys.to_host()?)),
            None => None,
        };
        Ok(Self {
            heads,
            groups,
            head,
            norms,
            host_norms,
        })
    }

    /// Concatenated results of the heads, `[tokens, heads * head]`, from rows with all query heads,
    /// then all key heads, then all value heads.
    pub(super) fn forward(&self, rows: &Tensor, layout: &Layout<'_>) -> Result<Tensor> {
        let (heads, groups, head) = (self.heads, self.groups, self.head);
        let segments: Vec<_> = layout.segments.iter().flat_map(|run| run.each()).collect();
        let fused = kernels::SelfAttention {
            heads,
            groups,
            head,
            norms: self.host_norms.as_ref(),
            segments: &segments,
            causal: layout.direction == Direction::Causal,
        };
        let (cosine, sine) = layout.rotary.angles();
        if let Some(result) = kernels::attention(rows, cosine, sine, fused)? {
            return Ok(result);
        }
        let rows = rows.reshape((rows.dim(0)?, heads + 2 * groups, head))?;
        let rows = rows.transpose(0, 1)?.contiguous()?;
        let queries_and_keys = match &self.norms {
            None => rows.narrow(0, 0, heads + groups)?,
            Some((query_norm, key_norm)) => {
                let queries = query_norm.forward(&rows.narrow(0, 0, heads)?)?;
                let keys = key_norm.forward(&rows.narrow(0, heads, groups)?)?;
                Tensor::cat(&[queries, keys], 0)?
            }
        };
        let rotated = layout.rotary.rotate(&queries_and_keys)?;
        Heads {
            queries: rotated.narrow(0, 0, heads)?,
            keys: rotated.narrow(0, heads, groups)?,
            values: rows.narrow(0, heads + groups, groups)?,
        }
        .attend(layout)
    }
}

/// Queries, keys and values, each `[heads, tokens, head]` and contiguous. Keys and values may have
/// fewer heads.
struct Heads {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
}

impl Heads {
    /// Concatenated results of the heads, `[tokens, heads * head]`.
    fn attend(&self, layout: &Layout<'_>) -> Result<Tensor> {
        let (heads, tokens, head) = self.queries.dims3()?;
        let mut parts = Vec::with_capacity(layout.segments.len());
        for &run in layout.segments {
            let bidirectional = layout.direction == Direction::Bidirectional;
            let batched = run.count > 1 && run.length <= SHORT && bidirectional;
            if batched && self.keys.dim(0)? == heads {
                parts.push(self.attend_run(run, layout.masks)?);
                continue;
            }
            for number in 0..run.count {
                let start = run.start + number * run.length;
                self.attend_one(start, run.length, layout, &mut parts)?;
            }
        }
        let joined = if parts.len() == 1 {
            parts.remove(0)
        } else {
            Tensor::cat(&parts, 0)?
        };
        Ok(joined.reshape((tokens, heads * head))?)
    }

    /// A run of segments of equal length, as one batch: `[tokens of the run, heads, head]`.
    fn attend_run(&self, run: Segments, masks: &MaskCache) -> Result<Tensor> {
        let (heads, _, head) = self.queries.dims3()?;
        let take = |tensor: &Tensor| -> Result<Tensor> {
            let rows = tensor.narrow(1, run.start, run.rows())?.contiguous()?;
            Ok(rows.reshape((heads * run.count, run.length, head))?)
        };
        let scores = take(&self.queries)?.matmul(&take(&self.keys)?.t()?)?;
        let weights = kernels::softmax(scores, scale(head), AttentionMask::Full, masks)?;
        let result = weights.matmul(&take(&self.values)?)?;
        Ok(result
            .reshape((heads, run.rows(), head))?
            .transpose(0, 1)?
            .contiguous()?)
    }

    /// One segment, in blocks of queries. Appends `[queries of the block, heads, head]` for each.
    fn attend_one(
        &self,
        start: usize,
        length: usize,
        layout: &Layout<'_>,
        parts: &mut Vec<Tensor>,
    ) -> Result<()> {
        let (heads, _, head) = self.queries.dims3()?;
        let groups = self.keys.dim(0)?;
        let max_scores = if self.queries.device().is_cpu() {
            CPU_SCORES
        } else {
            GPU_SCORES
        };
        let block = (max_scores / (heads * length)).clamp(16, length.max(16));
        for first in (0..length).step_by(block) {
            let block = block.min(length - first);
            let (keys, mask) = match layout.direction {
                Direction::Bidirectional => (length, AttentionMask::Full),
                Direction::Causal => (first + block, AttentionMask::Causal { first, block }),
            };
            let queries = self.queries.narrow(1, start + first, block)?.contiguous()?;
            // Query heads that share a key head become rows of one product.
            let queries = queries.reshape((groups, heads / groups * block, head))?;
            let values = self.values.narrow(1, start, keys)?;
            let keys = self.keys.narrow(1, start, keys)?;
            let scores = queries.matmul(&keys.t()?)?;
            let weights = kernels::softmax(scores, scale(head), mask, layout.masks)?;
            let result = weights.matmul(&values)?.reshape((heads, block, head))?;
            parts.push(result.transpose(0, 1)?.contiguous()?);
        }
        Ok(())
    }
}

fn scale(head: usize) -> f32 {
    1.0 / (head as f32).sqrt()
}
