//! The causal text tower: input vectors in, last hidden states out. It processes packed sequences
//! and has no KV cache, because an embedder processes each token once.

use candle_core::Tensor;

use super::attention::{Direction, Layout, SelfAttention};
use super::config::TextConfig;
use super::error::Result;
use super::grid::Segments;
use super::layers::{FeedForward, Linear, Loader, Norm};
use super::rope::RotaryTable;
use crate::kernels::{Activation, MaskCache};

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

    /// Embeddings of text tokens, `[ids, hidden]`.
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
        let masks = MaskCache::default();
        let layout = Layout {
            segments,
            direction: Direction::Causal,
            rotary,
            masks: &masks,
        };
        for (number, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(hidden, &layout)?;
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
    attention: SelfAttention,
    output: Linear,
    mlp_norm: Norm,
    mlp: FeedForward,
}

impl Layer {
    fn load(loader: &Loader, config: &TextConfig) -> Result<Self> {
        let (hidden, intermediate, head) = (config.hidden, config.intermediate, config.head);
        let (q, kv) = (config.heads * head, config.kv_heads * head);
        let attention = loader.at("self_attn");
        let mlp = loader.at("mlp");
        let parts =
            [("q_proj", q), ("k_proj", kv), ("v_proj", kv)].map(|(n, out)| (attention.at(n), out));
        let head_norm = |name| Norm::load_rms(&attention.at(name), head, config.epsilon);
        let norms = if config.head_norm {
            Some((head_norm("q_norm")?, head_norm("k_norm")?))
        } else {
            None
        };
        let norm = |name| Norm::load_rms(&loader.at(name), hidden, config.epsilon);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            qkv: Linear::load_joined(&parts, hidden, config.qkv_bias)?,
            attention: SelfAttention::new(config.heads, config.kv_heads, head, norms)?,
            output: Linear::load(&attention.at("o_proj"), q, hidden, config.output_bias)?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: FeedForward::load(
                &["gate_proj", "up_proj"].map(|name| (mlp.at(name), intermediate)),
                Activation::SwiGlu,
                mlp.at("down_proj"),
                hidden,
                false,
            )?,
        })
    }

    fn forward(&self, hidden: Tensor, layout: &Layout<'_>) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.input_norm.forward(&hidden)?)?;
        let heads = self.attention.forward(&qkv, layout)?;
        let hidden = self.output.add_to(hidden, &heads)?;
        let rows = self.mlp_norm.forward(&hidden)?;
        self.mlp.add_to(hidden, &rows)
    }
}
