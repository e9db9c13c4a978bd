//! The raw keys of `config.json` in all published layouts, all optional. [`super::config`]
//! interprets them.

use serde::Deserialize;

/// The whole file, or its `vlm_config`.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) model_type: String,
    pub(super) image_token_id: Option<u32>,
    pub(super) text_config: Option<RawText>,
    pub(super) vision_config: Option<RawVision>,
    /// Configuration of the base model, in the `transformers` library's ColQwen2.
    pub(super) vlm_config: Option<Box<RawConfig>>,
    pub(super) embed_dim: Option<usize>,
    pub(super) dims: Option<usize>,
    pub(super) embedding_dim: Option<usize>,
    pub(super) dim: Option<usize>,
    /// The flat layout has the text tower's keys at the top level.
    #[serde(flatten)]
    pub(super) flat_text: RawText,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawText {
    pub(super) vocab_size: Option<usize>,
    pub(super) hidden_size: Option<usize>,
    pub(super) intermediate_size: Option<usize>,
    pub(super) num_hidden_layers: Option<usize>,
    pub(super) num_attention_heads: Option<usize>,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) attention_bias: Option<bool>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_parameters: Option<RawRope>,
    pub(super) rope_scaling: Option<RawRope>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawRope {
    pub(super) rope_theta: Option<f64>,
    pub(super) mrope_section: Option<[usize; 3]>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawVision {
    pub(super) depth: Option<usize>,
    pub(super) embed_dim: Option<usize>,
    pub(super) hidden_size: Option<usize>,
    pub(super) intermediate_size: Option<usize>,
    pub(super) mlp_ratio: Option<f64>,
    pub(super) num_heads: Option<usize>,
    pub(super) out_hidden_size: Option<usize>,
    pub(super) patch_size: Option<usize>,
    pub(super) spatial_patch_size: Option<usize>,
    pub(super) spatial_merge_size: Option<usize>,
    pub(super) temporal_patch_size: Option<usize>,
    pub(super) window_size: Option<usize>,
    pub(super) fullatt_block_indexes: Option<Vec<usize>>,
    pub(super) num_position_embeddings: Option<usize>,
    pub(super) deepstack_visual_indexes: Option<Vec<usize>>,
}
