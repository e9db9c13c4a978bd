//! The layers of a text encoder on one core: packed sequences in, hidden states out.

use std::cell::RefCell;

use super::Gelu;
use super::aligned::Aligned;
use super::attention::{Rows, SelfAttention, attend_on_core};
use super::matrix::PackedMatrix;
use super::norm::normalise_rows;
use super::path::Path;

/// Values of what follows attention that a core keeps in its cache: it takes as many rows at a time
/// as there is room for.
const CACHE: usize = 256 * 1024;

/// The layer of an encoder as its checkpoint has it, in f32: attention, then two layers with the
/// exact GELU between them, each added to what came in and then normalised.
pub(crate) struct EncoderLayer {
    /// Head by head, as keys and values.
    pub(crate) query: Parameters,
    pub(crate) key: Parameters,
    pub(crate) value: Parameters,
    /// What is made of the heads' results.
    pub(crate) attention_output: Parameters,
    pub(crate) attention_norm: Parameters,
    pub(crate) intermediate: Parameters,
    pub(crate) output: Parameters,
    pub(crate) output_norm: Parameters,
}

/// A linear layer's weights, row by row, or a norm's factors; and what is added.
pub(crate) struct Parameters {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// The layers, with packed weights.
pub(crate) struct FusedEncoder {
    path: Path,
    heads: usize,
    width: usize,
    epsilon: f32,
    /// Before the first layer.
    norm: Parameters,
    layers: Vec<Layer>,
}

struct Layer {
    /// Queries, keys and values side by side.
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

/// What a core works with, kept: new memory has to be cleared by the system.
#[derive(Default)]
struct Scratch {
    qkv: Aligned,
    attended: Aligned,
    intermediate: Aligned,
}

impl FusedEncoder {
    /// Packs the weights. None on the portable path.
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

    /// States after the last layer, `[tokens, width]`, from those before the first norm, in their
    /// place. Tokens of a sequence see each other; `lengths` are the sequences' numbers of tokens.
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
                self.layer(layer, attention, &mut states, scratch);
            }
        });
        states
    }

    /// Takes all states through a layer, in their place.
    fn layer(
        &self,
        layer: &Layer,
        attention: SelfAttention<'_>,
        states: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let width = self.width;
        let qkv = scratch.qkv.first(3 * states.len());
        layer.qkv.multiply_on_core(states, qkv, false);
        let attended = scratch.attended.first(states.len());
        let rows = Rows {
            attention,
            rotary: None,
            values: qkv,
        };
        attend_on_core(self.path, &rows, attended);
        let inner = layer.intermediate.outputs();
        let rows = (CACHE / (2 * width + inner)).max(1);
        let blocks = states.chunks_mut(rows * width);
        for (states, attended) in blocks.zip(attended.chunks(rows * width)) {
            let inner = scratch.intermediate.first(states.len() / width * inner);
            layer
                .attention_output
                .multiply_on_core(attended, states, true);
            self.normalise(&layer.attention_norm, states);
            layer.intermediate.multiply_on_core(states, inner, false);
            Gelu::Exact.apply(inner);
            layer.output.multiply_on_core(inner, states, true);
            self.normalise(&layer.output_norm, states);
        }
    }

    fn normalise(&self, norm: &Parameters, rows: &mut [f32]) {
        normalise_rows(rows, &norm.weight, &norm.bias, self.epsilon);
    }

    /// Layers.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The first layer's largest product alone, for so many tokens, on this core.
    pub(crate) fn largest_product(&self, tokens: usize) {
        let matrix = &self.layers[0].intermediate;
        SCRATCH.with_borrow_mut(|scratch| {
            let states = scratch.attended.first(tokens * matrix.inputs());
            let inner = scratch.intermediate.first(tokens * matrix.outputs());
            matrix.multiply_on_core(states, inner, false);
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
