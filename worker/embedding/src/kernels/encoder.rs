//! A fused text encoder: takes packed sequences through all layers on one core.

use std::cell::RefCell;

use super::Gelu;
use super::aligned::Aligned;
use super::attention::{Rows, SelfAttention, attend_on_core};
use super::matrix::PackedMatrix;
use super::norm::normalise_rows;
use super::path::Path;

/// Activations behind attention that fit in a core's cache; determines the rows of a block.
const CACHE_VALUES: usize = 256 * 1024;

/// Weights of one encoder layer as in the checkpoint, in f32: attention, then a feed-forward
/// network with exact GELU, each with a residual connection followed by a layer norm.
pub(crate) struct EncoderLayer {
    /// Rows are grouped by head, as in `key` and `value`.
    pub(crate) query: Parameters,
    pub(crate) key: Parameters,
    pub(crate) value: Parameters,
    /// Projection of the concatenated heads.
    pub(crate) attention_output: Parameters,
    pub(crate) attention_norm: Parameters,
    pub(crate) intermediate: Parameters,
    pub(crate) output: Parameters,
    pub(crate) output_norm: Parameters,
}

/// Weights (row by row) and bias of a linear layer, or scale and bias of a norm.
pub(crate) struct Parameters {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// An encoder with packed weights.
pub(crate) struct FusedEncoder {
    path: Path,
    heads: usize,
    width: usize,
    epsilon: f32,
    /// Applied before the first layer.
    norm: Parameters,
    layers: Vec<Layer>,
}

struct Layer {
    /// Projections to queries, keys and values, concatenated.
    qkv: PackedMatrix,
    attention_output: PackedMatrix,
    attention_norm: Parameters,
    intermediate: PackedMatrix,
    output: PackedMatrix,
    output_norm: Parameters,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a core, reused: the system must clear newly allocated memory.
#[derive(Default)]
struct Scratch {
    qkv: Aligned,
    heads: Aligned,
    intermediate: Aligned,
}

impl FusedEncoder {
    /// Packs the weights. `None` on the portable path.
    pub(crate) fn new(
        path: Path,
        norm: Parameters,
        layers: Vec<EncoderLayer>,
        heads: usize,
        epsilon: f32,
    ) -> Option<Self> {
        let width = norm.bias.len();
        let layers = layers.into_iter().map(|layer| Layer::new(path, layer));
        Some(Self {
            path,
            heads,
            width,
            epsilon,
            norm,
            layers: layers.collect::<Option<_>>()?,
        })
    }

    /// Transforms embeddings into the hidden states after the last layer, `[tokens, width]`, in
    /// place. `lengths` are the numbers of tokens of the sequences; attention stays within each.
    pub(crate) fn forward(&self, mut states: Vec<f32>, lengths: &[usize]) -> Vec<f32> {
        let segments: Vec<_> = lengths
            .iter()
            .scan(0, |end, &length| {
                *end += length;
                Some((*end - length, length))
            })
            .collect();
        let attention = SelfAttention {
            heads: self.heads,
            groups: self.heads,
            head: self.width / self.heads,
            norms: None,
            segments: &segments,
            causal: false,
        };
        self.normalise(&self.norm, &mut states);
        SCRATCH.with_borrow_mut(|scratch| {
            for layer in &self.layers {
                self.forward_layer(layer, attention, &mut states, scratch);
            }
        });
        states
    }

    /// Applies one layer to all states, in place.
    fn forward_layer(
        &self,
        layer: &Layer,
        attention: SelfAttention<'_>,
        states: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let width = self.width;
        let qkv = scratch.qkv.first(3 * states.len());
        layer.qkv.multiply_on_core(states, qkv, false);
        let heads = scratch.heads.first(states.len());
        let rows = Rows {
            attention,
            rotary: None,
            values: qkv,
        };
        attend_on_core(self.path, &rows, heads);
        let inner_width = layer.intermediate.outputs();
        let rows = (CACHE_VALUES / (2 * width + inner_width)).max(1);
        let blocks = states.chunks_mut(rows * width);
        for (states, heads) in blocks.zip(heads.chunks(rows * width)) {
            let intermediate = scratch
                .intermediate
                .first(states.len() / width * inner_width);
            layer.attention_output.multiply_on_core(heads, states, true);
            self.normalise(&layer.attention_norm, states);
            layer
                .intermediate
                .multiply_on_core(states, intermediate, false);
            Gelu::Exact.apply(intermediate);
            layer.output.multiply_on_core(intermediate, states, true);
            self.normalise(&layer.output_norm, states);
        }
    }

    fn normalise(&self, norm: &Parameters, rows: &mut [f32]) {
        normalise_rows(rows, &norm.weight, &norm.bias, self.epsilon);
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// For benchmarks only: computes the first layer's largest matrix product for `tokens` rows, on
    /// this core.
    pub(crate) fn largest_product(&self, tokens: usize) {
        let matrix = &self.layers[0].intermediate;
        SCRATCH.with_borrow_mut(|scratch| {
            let states = scratch.heads.first(tokens * matrix.inputs());
            let intermediate = scratch.intermediate.first(tokens * matrix.outputs());
            matrix.multiply_on_core(states, intermediate, false);
        });
    }
}

impl Layer {
    fn new(path: Path, layer: EncoderLayer) -> Option<Self> {
        let pack = |parameters: &Parameters| {
            let Parameters { weight, bias } = parameters;
            PackedMatrix::new(path, weight, weight.len() / bias.len(), Some(bias))
        };
        let qkv = [layer.query, layer.key, layer.value];
        let qkv = Parameters {
            weight: qkv.iter().flat_map(|part| &part.weight).copied().collect(),
            bias: qkv.iter().flat_map(|part| &part.bias).copied().collect(),
        };
        Some(Self {
            qkv: pack(&qkv)?,
            attention_output: pack(&layer.attention_output)?,
            attention_norm: layer.attention_norm,
            intermediate: pack(&layer.intermediate)?,
            output: pack(&layer.output)?,
            output_norm: layer.output_norm,
        })
    }
}
