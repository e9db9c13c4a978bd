//! An encoder in one go: sequences of tokens through all layers, on one core.
//!
//! Tokens lie in panels of 48, column by column (see [`tiles`]), from the first layer to the last,
//! and nothing is packed or turned between products. What follows attention is done for a few
//! panels at a time, so that what lies between these products stays in the core's cache.
#![expect(
    unsafe_code,
    reason = "functions with vector instructions; an encoder exists only where these are"
)]

mod attention;
mod functions;
mod tiles;
mod weights;

use std::cell::RefCell;

use attention::{Heads, Sight, attend};
use functions::{Norm, gelu};
use weights::{Sums, Weights};

use super::aligned::Aligned;
use super::pack::{LANES, Rows, pack};
use super::tile::COLUMNS;
use crate::kernels::encoder::{EncoderLayer, Parameters};

/// Values of a core's cache for states and inner values together: what it holds, nearly.
const CACHE: usize = 280 * 1024;

thread_local! {
    /// Memory of earlier calls: new memory must be cleared by the kernel.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a core works with, in panels.
#[derive(Default)]
struct Scratch {
    /// Of all tokens.
    states: Aligned,
    /// Queries of all tokens, then in their place what attention gives.
    queries: Aligned,
    keys: Aligned,
    values: Aligned,
    /// The inner values of the panels at hand.
    inner: Aligned,
    /// A head's scores for one panel.
    scores: Vec<f32>,
}

/// The layers.
pub(crate) struct Encoder {
    heads: Heads,
    /// Before the first layer.
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Weights,
    key: Weights,
    value: Weights,
    attended: Weights,
    attention_norm: Norm,
    inner: Weights,
    outer: Weights,
    output_norm: Norm,
}

impl Encoder {
    /// Whether this CPU has the instructions.
    pub(crate) fn available() -> bool {
        super::available()
    }

    /// Lays out the weights. The CPU must have the instructions.
    pub(crate) fn new(
        norm: Parameters,
        layers: Vec<EncoderLayer>,
        heads: usize,
        epsilon: f32,
    ) -> Self {
        assert!(Self::available(), "asked for before");
        let heads = Heads {
            count: heads,
            size: norm.bias.len() / heads,
        };
        let layers = layers.into_iter();
        Self {
            heads,
            norm: Norm::new(norm, epsilon),
            layers: layers
                .map(|layer| Layer::new(layer, heads, epsilon))
                .collect(),
        }
    }

    /// Layers.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// States after the last layer, `[tokens, width]`, from those before the first norm. Tokens of a
    /// sequence see each other; `lengths` are the sequences' numbers of tokens.
    pub(crate) fn forward(&self, rows: &[f32], lengths: &[usize]) -> Vec<f32> {
        SCRATCH.with_borrow_mut(|scratch| self.forward_in(scratch, rows, lengths))
    }

    /// The first layer's largest product alone, for about so many tokens, on this core. Returns
    /// how many.
    pub(crate) fn largest_product(&self, tokens: usize) -> usize {
        let weights = &self.layers[0].inner;
        let panel = self.heads.count * self.heads.size * COLUMNS;
        let at_hand = self.layers[0].at_hand();
        let groups = (tokens / COLUMNS).div_ceil(at_hand);
        SCRATCH.with_borrow_mut(|scratch| {
            let states = scratch.states.first(at_hand * panel);
            let inner = scratch.inner.first(at_hand * COLUMNS * weights.outputs());
            for _ in 0..groups {
                weights.multiply(states, Sums::Set, inner);
            }
        });
        groups * at_hand * COLUMNS
    }

    fn forward_in(&self, scratch: &mut Scratch, rows: &[f32], lengths: &[usize]) -> Vec<f32> {
        let width = self.heads.count * self.heads.size;
        let count: usize = lengths.iter().sum();
        assert_eq!(rows.len(), count * width);
        let panels = count.div_ceil(COLUMNS);
        // What fills the last panel sees only itself.
        let filling = panels * COLUMNS - count;
        let sights = Sight::each(&[lengths, &[filling]].concat());
        let length = panels * COLUMNS * width;
        let states = scratch.states.first(length);
        to_panels(rows, width, states);
        // SAFETY: there are weights only where the instructions are.
        unsafe { self.norm.apply(states) };
        for layer in &self.layers {
            layer.forward(self.heads, &sights, scratch);
        }
        to_rows(scratch.states.first(length), width, count)
    }
}

impl Layer {
    fn new(layer: EncoderLayer, heads: Heads, epsilon: f32) -> Self {
        let linear = |Parameters { weight, bias }| Weights::new(&weight, bias);
        // Scores are products of queries and keys by the root of their size; as powers of two they
        // are easier to raise.
        let scale = std::f32::consts::LOG2_E / (heads.size as f32).sqrt();
        let mut query = layer.query;
        for value in query.weight.iter_mut().chain(&mut query.bias) {
            *value *= scale;
        }
        Self {
            query: linear(query),
            key: linear(layer.key),
            value: linear(layer.value),
            attended: linear(layer.attended),
            attention_norm: Norm::new(layer.attention_norm, epsilon),
            inner: linear(layer.inner),
            outer: linear(layer.outer),
            output_norm: Norm::new(layer.output_norm, epsilon),
        }
    }

    /// Panels that are taken through what follows attention together.
    fn at_hand(&self) -> usize {
        (CACHE / COLUMNS / (self.outer.outputs() + self.inner.outputs())).max(1)
    }

    /// Takes all states through the layer, in their place.
    fn forward(&self, heads: Heads, sights: &[Sight], scratch: &mut Scratch) {
        let panel = self.outer.outputs() * COLUMNS;
        let length = sights.len() * panel;
        let states = scratch.states.first(length);
        let queries = scratch.queries.first(length);
        let (keys, values) = (scratch.keys.first(length), scratch.values.first(length));
        let at_hand = self.at_hand() * panel;
        let groups = (0..length).step_by(at_hand);
        for group in groups.map(|start| start..length.min(start + at_hand)) {
            let states = &states[group.clone()];
            self.query
                .multiply(states, Sums::Set, &mut queries[group.clone()]);
            self.key
                .multiply(states, Sums::Set, &mut keys[group.clone()]);
            self.value.multiply(states, Sums::Set, &mut values[group]);
        }
        attend(heads, sights, queries, keys, values, &mut scratch.scores);
        let groups = states.chunks_mut(at_hand).zip(queries.chunks(at_hand));
        for (states, attended) in groups {
            let inner = states.len() / self.outer.outputs() * self.inner.outputs();
            let inner = scratch.inner.first(inner);
            self.attended.multiply(attended, Sums::Add, states);
            // SAFETY: there are weights only where the instructions are.
            unsafe {
                self.attention_norm.apply(states);
                self.inner.multiply(states, Sums::Set, inner);
                gelu(inner);
                self.outer.multiply(inner, Sums::Add, states);
                self.output_norm.apply(states);
            }
        }
    }
}

/// Rows of `width` values, one for each token, to panels; zero where the last one is not full.
fn to_panels(rows: &[f32], width: usize, panels: &mut [f32]) {
    let panels = panels.chunks_exact_mut(COLUMNS * width);
    for (rows, panel) in rows.chunks(COLUMNS * width).zip(panels) {
        if rows.len() < panel.len() {
            panel.fill(0.0);
        }
        for (number, values) in rows.chunks(LANES * width).enumerate() {
            let rows = Rows {
                values,
                stride: width,
                count: values.len() / width,
                depth: width,
            };
            // SAFETY: there are weights only where the instructions are.
            unsafe { pack(rows, &mut panel[number * LANES..], COLUMNS) };
        }
    }
}

/// The first `count` tokens of panels, a row of `width` values each.
fn to_rows(panels: &[f32], width: usize, count: usize) -> Vec<f32> {
    let mut rows = vec![0.0; count * width];
    let panels = panels.chunks_exact(COLUMNS * width);
    for (rows, panel) in rows.chunks_mut(COLUMNS * width).zip(panels) {
        let tokens = rows.len() / width;
        for (number, values) in panel.chunks(LANES * COLUMNS).enumerate() {
            let columns = Rows {
                values,
                stride: COLUMNS,
                count: values.len() / COLUMNS,
                depth: tokens,
            };
            // SAFETY: there are weights only where the instructions are.
            unsafe { pack(columns, &mut rows[number * LANES..], width) };
        }
    }
    rows
}
