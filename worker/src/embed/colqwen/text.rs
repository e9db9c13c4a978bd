//! The causal text tower: input vectors in, last hidden states out. It works on packed sequences
//! and keeps no cache: an embedder reads each token once.

use candle_core::Tensor;

use super::attention::{Direction, Heads, Layout};
use super::config::TextConfig;
use super::error::Result;
use super::grid::Segments;
use super::layers::{Linear, Loader, Norm};
use super::rope::RotaryTable;
use crate::embed::kernels::{self, Masks};

/// The text tower.
pub(super) struct TextTower {
    embeddings: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
}

impl TextTower {
    /// Reads the tower below `language_model.`.
    pub(super) fn load(loader: &Loader, config: &TextConfig) -> Result<Self> {
        let layers = (0..config.layers)
            .map(|number| {
                tracing::debug!(layer = number, of = config.layers, "loading text layer");
                Layer::load(&loader.at(format_args!("layers.{number}")), config)
            })
            .collect::<Result<Vec<_>>>()?;
        let embeddings = loader
            .at("embed_tokens")
            .tensor("weight", &[config.vocabulary, config.hidden])?;
        let norm = Norm::load_rms(&loader.at("norm"), config.hidden, config.epsilon)?;
        Ok(Self {
            embeddings,
            layers,
            norm,
        })
    }

    /// The vectors of text tokens, `[ids, hidden]`.
    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.embeddings.device())?;
        Ok(self.embeddings.index_select(&ids, 0)?)
    }

    /// The last hidden state of every token. `extra[k]`, of the same shape, is added after
    /// layer `k`.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        rotary: &RotaryTable,
        segments: &[Segments],
        extra: &[Tensor],
    ) -> Result<Tensor> {
        let masks = Masks::default();
        let layout = Layout {
            segments,
            direction: Direction::Causal,
            masks: &masks,
        };
        for (number, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(hidden, rotary, &layout)?;
            if let Some(extra) = extra.get(number) {
                hidden = (hidden + extra)?;
            }
        }
        self.norm.forward(&hidden)
    }
}

struct Layer {
    input_norm: Norm,
    qkv: Linear,
    /// Norms on each head of queries and of keys.
    head_norms: Option<(Norm, Norm)>,
    output: Linear,
    mlp_norm: Norm,
    gate_up: Linear,
    down: Linear,
    heads: usize,
    kv_heads: usize,
    head: usize,
}

impl Layer {
    fn load(loader: &Loader, config: &TextConfig) -> Result<Self> {
        let (hidden, inner, head) = (config.hidden, config.intermediate, config.head);
        let (q, kv) = (config.heads * head, config.kv_heads * head);
        let attention = loader.at("self_attn");
        let mlp = loader.at("mlp");
        let parts =
            [("q_proj", q), ("k_proj", kv), ("v_proj", kv)].map(|(n, out)| (attention.at(n), out));
        let head_norm = |name| Norm::load_rms(&attention.at(name), head, config.epsilon);
        let norm = |name| Norm::load_rms(&loader.at(name), hidden, config.epsilon);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            qkv: Linear::load_joined(&parts, hidden, config.qkv_bias)?,
            head_norms: if config.head_norm {
                Some((head_norm("q_norm")?, head_norm("k_norm")?))
            } else {
                None
            },
            output: Linear::load(&attention.at("o_proj"), q, hidden, config.output_bias)?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate_up: Linear::load_joined(
                &[(mlp.at("gate_proj"), inner), (mlp.at("up_proj"), inner)],
                hidden,
                false,
            )?,
            down: Linear::load(&mlp.at("down_proj"), inner, hidden, false)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head,
        })
    }

    fn forward(&self, hidden: Tensor, rotary: &RotaryTable, layout: &Layout<'_>) -> Result<Tensor> {
        let attended = self.attend(&self.input_norm.forward(&hidden)?, rotary, layout)?;
        let hidden = (hidden + self.output.forward(&attended)?)?;
        let inner = self.gate_up.forward(&self.mlp_norm.forward(&hidden)?)?;
        Ok((hidden + self.down.forward(&kernels::swiglu(&inner)?)?)?)
    }

    fn attend(&self, rows: &Tensor, rotary: &RotaryTable, layout: &Layout<'_>) -> Result<Tensor> {
        let (q, kv) = (self.heads, self.kv_heads);
        let qkv = self
            .qkv
            .forward(rows)?
            .reshape((rows.dim(0)?, q + 2 * kv, self.head))?;
        let qkv = qkv.transpose(0, 1)?.contiguous()?;
        let mut queries = qkv.narrow(0, 0, q)?;
        let mut keys = qkv.narrow(0, q, kv)?;
        if let Some((query_norm, key_norm)) = &self.head_norms {
            queries = query_norm.forward(&queries)?;
            keys = key_norm.forward(&keys)?;
        }
        Heads {
            queries: rotary.rotate(&queries)?,
            keys: rotary.rotate(&keys)?,
            values: qkv.narrow(0, q + kv, kv)?,
        }
        .attend(layout)
    }
}
