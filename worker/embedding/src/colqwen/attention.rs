//! Attention over a packed batch: every segment sees itself and nothing else, so a page's result
//! does not depend on its neighbours. Scores are computed in blocks of queries and never exist
//! for a whole page at once. No projections.

use candle_core::Tensor;

use super::error::Result;
use super::grid::Segments;
use super::layers::Norm;
use super::rope::RotaryTable;
use crate::kernels::{self, HeadNorm, Masks, Visible};

/// Scores that exist at once: a few megabytes stay in a CPU's cache; a GPU wants large launches.
const CPU_SCORES: usize = 1 << 20;
const GPU_SCORES: usize = 1 << 28;
/// Segments up to this length are computed many at once.
const SHORT: usize = 512;

/// Who sees whom inside a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Everybody sees everybody.
    Both,
    /// A token sees itself and what is before it.
    Causal,
}

/// What all layers of a tower share for one batch.
pub(super) struct Layout<'a> {
    /// Who is in which segment.
    pub(super) segments: &'a [Segments],
    /// Who sees whom inside one.
    pub(super) direction: Direction,
    /// Where each token is.
    pub(super) rotary: &'a RotaryTable,
    /// Made once, used by every layer.
    pub(super) masks: &'a Masks,
}

/// A layer's attention.
pub(super) struct SelfAttention {
    heads: usize,
    groups: usize,
    head: usize,
    /// On each head of queries and of keys, before they are rotated.
    norms: Option<(Norm, Norm)>,
    /// The same for the fused kernel.
    host_norms: Option<(HeadNorm, HeadNorm)>,
}

impl SelfAttention {
    /// Attention with this number of query heads; keys and values have `groups`, each shared by as
    /// many neighbouring query heads, and every head has `head` values.
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

    /// The heads' results side by side, `[tokens, heads * head]`, from rows that hold the heads of
    /// the queries, then of the keys, then of the values.
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
        if let Some(attended) = kernels::attention(rows, cosine, sine, fused)? {
            return Ok(attended);
        }
        let rows = rows.reshape((rows.dim(0)?, heads + 2 * groups, head))?;
        let rows = rows.transpose(0, 1)?.contiguous()?;
        let turning = match &self.norms {
            None => rows.narrow(0, 0, heads + groups)?,
            Some((query_norm, key_norm)) => {
                let queries = query_norm.forward(&rows.narrow(0, 0, heads)?)?;
                let keys = key_norm.forward(&rows.narrow(0, heads, groups)?)?;
                Tensor::cat(&[queries, keys], 0)?
            }
        };
        let turned = layout.rotary.rotate(&turning)?;
        Heads {
            queries: turned.narrow(0, 0, heads)?,
            keys: turned.narrow(0, heads, groups)?,
            values: rows.narrow(0, heads + groups, groups)?,
        }
        .attend(layout)
    }
}

/// Queries, keys and values, each `[heads, tokens, head]` and contiguous; keys and values may
/// have fewer heads.
struct Heads {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
}

impl Heads {
    /// The heads' results side by side, `[tokens, heads * head]`.
    fn attend(&self, layout: &Layout<'_>) -> Result<Tensor> {
        let (heads, tokens, head) = self.queries.dims3()?;
        let mut parts = Vec::with_capacity(layout.segments.len());
        for &run in layout.segments {
            let both = layout.direction == Direction::Both;
            let batched = run.count > 1 && run.length <= SHORT && both;
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

    /// Segments of one length, together: `[tokens of the run, heads, head]`.
    fn attend_run(&self, run: Segments, masks: &Masks) -> Result<Tensor> {
        let (heads, _, head) = self.queries.dims3()?;
        let take = |tensor: &Tensor| -> Result<Tensor> {
            let rows = tensor.narrow(1, run.start, run.rows())?.contiguous()?;
            Ok(rows.reshape((heads * run.count, run.length, head))?)
        };
        let scores = take(&self.queries)?.matmul(&take(&self.keys)?.t()?)?;
        let weights = kernels::softmax(scores, scale(head), Visible::All, masks)?;
        let result = weights.matmul(&take(&self.values)?)?;
        Ok(result
            .reshape((heads, run.rows(), head))?
            .transpose(0, 1)?
            .contiguous()?)
    }

    /// One segment, block of queries by block: appends `[queries of the block, heads, head]`.
    fn attend_one(
        &self,
        start: usize,
        length: usize,
        layout: &Layout<'_>,
        parts: &mut Vec<Tensor>,
    ) -> Result<()> {
        let (heads, _, head) = self.queries.dims3()?;
        let groups = self.keys.dim(0)?;
        let scores_at_once = if self.queries.device().is_cpu() {
            CPU_SCORES
        } else {
            GPU_SCORES
        };
        let block = (scores_at_once / (heads * length)).clamp(16, length.max(16));
        for first in (0..length).step_by(block) {
            let block = block.min(length - first);
            let (seen, visible) = match layout.direction {
                Direction::Both => (length, Visible::All),
                Direction::Causal => (first + block, Visible::Causal { first, block }),
            };
            let queries = self.queries.narrow(1, start + first, block)?.contiguous()?;
            // Heads that share a key become rows of one product.
            let queries = queries.reshape((groups, heads / groups * block, head))?;
            let keys = self.keys.narrow(1, start, seen)?;
            let values = self.values.narrow(1, start, seen)?;
            let scores = queries.matmul(&keys.t()?)?;
            let weights = kernels::softmax(scores, scale(head), visible, layout.masks)?;
            let result = weights.matmul(&values)?.reshape((heads, block, head))?;
            parts.push(result.transpose(0, 1)?.contiguous()?);
        }
        Ok(())
    }
}

fn scale(head: usize) -> f32 {
    1.0 / (head as f32).sqrt()
}
