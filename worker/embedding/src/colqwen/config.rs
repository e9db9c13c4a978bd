//! Architecture of a model, from `config.json` in every layout of published checkpoints: nested,
//! flat (2024-25) and wrapped (`vlm_config`).

use std::path::Path;

use super::error::{ColQwenError, Result};
use super::raw_config::{RawConfig, RawRope, RawText, RawVision};

/// A family of models: one vision tower and one text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// On Qwen2-VL.
    ColQwen2,
    /// On Qwen2.5-VL.
    ColQwen2_5,
    /// On Qwen3-VL.
    ColQwen3,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ColQwen2 => "colqwen2",
            Self::ColQwen2_5 => "colqwen2_5",
            Self::ColQwen3 => "colqwen3",
        })
    }
}

/// The settings of `config.json` that the model needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family.
    pub family: Family,
    /// The text tower.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Width of the vectors, if configured. Default: the rows of the projection.
    pub width: Option<usize>,
    /// Id of the token that represents 2 x 2 patches of the image.
    pub image_token: u32,
    /// How prompts are built.
    pub prompts: PromptStyle,
}

/// The causal text tower.
#[derive(Clone, Debug)]
pub struct TextConfig {
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head: usize,
    /// Epsilon of all RMS norms.
    pub epsilon: f64,
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether each query and key head has an RMS norm.
    pub head_norm: bool,
    /// Rotary position embeddings.
    pub rope: TextRope,
}

/// Rotary position embeddings of the text tower, with frequencies for time, row and column.
#[derive(Clone, Debug)]
pub struct TextRope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Numbers of frequencies for time, row and column; they add up to half a head.
    pub sections: [usize; 3],
    /// Whether the axes alternate from one frequency to the next. If not, each has its own section.
    pub interleaved: bool,
}

/// The vision tower.
#[derive(Clone, Debug)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width of the hidden state.
    pub width: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Number of heads, the same for queries, keys and values.
    pub heads: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of the merger's output: the text tower's hidden width.
    pub output: usize,
    /// Norm of the blocks.
    pub norm: VisionNorm,
    /// MLP of the blocks.
    pub mlp: VisionMlp,
    /// Attention pattern.
    pub attention: VisionAttention,
    /// Side of the table of learned position embeddings, if the family has one.
    pub position_table: Option<usize>,
    /// Blocks whose output is also added after the first text layers, in order.
    pub deepstack: Vec<usize>,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
}

/// Norm of the vision tower, with an epsilon of 1e-6 in all families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionNorm {
    /// RMS norm, without bias.
    Rms,
    /// Layer norm, with bias.
    Layer,
}

/// MLP of the vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionMlp {
    /// `down(silu(gate(x)) * up(x))`
    SwiGlu,
    /// `fc2(x * sigmoid(1.702 x))` after `fc1`
    QuickGelu,
    /// `linear_fc2(gelu(x))` after `linear_fc1`, with the tanh approximation
    TanhGelu,
}

/// Attention pattern of the vision tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VisionAttention {
    /// Every patch attends to all patches of its page.
    Full,
    /// Patches attend to their own window, except in some blocks.
    Windowed {
        /// Side of a window, in merged patches (2 x 2).
        window: usize,
        /// Blocks with full attention.
        full_blocks: Vec<usize>,
    },
}

/// How the prompts of a checkpoint are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptStyle {
    /// As in colpali-engine.
    Engine,
    /// As in the engine, with whitespace around a query removed (the `TomoroAI` models).
    Stripped,
    /// A page's prompt ends with an assistant turn, and a query has no padding (`Ops-Colqwen3`).
    Assistant,
}

/// Patches are merged 2 x 2 in every family.
pub const MERGE: usize = 2;

impl Config {
    /// Reads `config.json` of `directory`.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ColQwenError::io(&path))?;
        let raw: RawConfig = serde_json::from_str(&text)
            .map_err(|error| ColQwenError::config(&path, error.to_string()))?;
        Self::from_raw(&raw, &path)
    }

    fn from_raw(raw: &RawConfig, path: &Path) -> Result<Self> {
        let inner = raw.vlm_config.as_deref().unwrap_or(raw);
        let family = match inner.model_type.as_str() {
            "qwen2_vl" => Family::ColQwen2,
            "qwen2_5_vl" => Family::ColQwen2_5,
            "qwen3_vl" | "colqwen3" | "ops_colqwen3" => Family::ColQwen3,
            other => {
                return Err(ColQwenError::UnknownModel {
                    path: path.to_owned(),
                    model_type: other.to_owned(),
                });
            }
        };
        let invalid = |reason: String| ColQwenError::config(path, reason);
        let flat: &RawText = &inner.flat_text;
        let text = TextConfig::from_raw(inner.text_config.as_ref().unwrap_or(flat), family)
            .map_err(invalid)?;
        let vision = inner.vision_config.clone().unwrap_or_default();
        let vision = VisionConfig::from_raw(&vision, family, text.hidden).map_err(invalid)?;
        if vision.output != text.hidden {
            return Err(invalid(format!(
                "the vision tower's output width ({}) differs from the text tower's width ({})",
                vision.output, text.hidden
            )));
        }
        let image_token = inner
            .image_token_id
            .or(raw.image_token_id)
            .ok_or_else(|| invalid("image_token_id is missing".to_owned()))?;
        let prompts = match raw.model_type.as_str() {
            "colqwen3" => PromptStyle::Stripped,
            "ops_colqwen3" => PromptStyle::Assistant,
            _ => PromptStyle::Engine,
        };
        let width = raw.embed_dim.or(raw.dims).or(raw.embedding_dim).or(raw.dim);
        Ok(Self {
            family,
            text,
            vision,
            width,
            image_token,
            prompts,
        })
    }

    /// Refuses a checkpoint of another family than `wanted`.
    pub fn expect_family(&self, wanted: Family, directory: &Path) -> Result<()> {
        if self.family == wanted {
            return Ok(());
        }
        Err(ColQwenError::FamilyMismatch {
            path: directory.join("config.json"),
            wanted,
            found: self.family,
        })
    }
}

impl TextConfig {
    fn from_raw(raw: &RawText, family: Family) -> std::result::Result<Self, String> {
        let need = |value: Option<usize>, name: &str| positive(value, name, "text");
        let hidden = need(raw.hidden_size, "hidden_size")?;
        let heads = need(raw.num_attention_heads, "num_attention_heads")?;
        let kv_heads = need(
            raw.num_key_value_heads.or(Some(heads)),
            "num_key_value_heads",
        )?;
        let qwen3 = family == Family::ColQwen3;
        let head = match raw.head_dim {
            Some(head) => head,
            None if qwen3 => 128,
            None => hidden / heads,
        };
        if !heads.is_multiple_of(kv_heads) || head == 0 || !head.is_multiple_of(2) {
            return Err(format!(
                "{heads} heads of width {head} do not match {kv_heads} key heads"
            ));
        }
        let rope = TextRope::from_raw(raw, qwen3);
        if rope.sections.iter().sum::<usize>() != head / 2 {
            let sections = rope.sections;
            return Err(format!(
                "mrope_section {sections:?} must add up to {}",
                head / 2
            ));
        }
        Ok(Self {
            vocabulary: need(raw.vocab_size, "vocab_size")?,
            hidden,
            intermediate: need(raw.intermediate_size, "intermediate_size")?,
            layers: need(raw.num_hidden_layers, "num_hidden_layers")?,
            heads,
            kv_heads,
            head,
            epsilon: raw.rms_norm_eps.unwrap_or(if qwen3 { 1e-6 } else { 1e-5 }),
            qkv_bias: if qwen3 {
                raw.attention_bias.unwrap_or(false)
            } else {
                true
            },
            output_bias: qwen3 && raw.attention_bias.unwrap_or(false),
            head_norm: qwen3,
            rope,
        })
    }
}

impl TextRope {
    fn from_raw(raw: &RawText, qwen3: bool) -> Self {
        let empty = RawRope::default();
        let rope = raw
            .rope_parameters
            .as_ref()
            .or(raw.rope_scaling.as_ref())
            .unwrap_or(&empty);
        let default_theta = if qwen3 { 5e6 } else { 1e6 };
        let default_sections = if qwen3 { [24, 20, 20] } else { [16, 24, 24] };
        Self {
            theta: rope.rope_theta.or(raw.rope_theta).unwrap_or(default_theta),
            sections: rope.mrope_section.unwrap_or(default_sections),
            interleaved: qwen3,
        }
    }
}

impl VisionConfig {
    /// Values that `config.json` omits are the reference implementation's defaults: older versions
    /// of it only wrote values that differ.
    fn from_raw(
        raw: &RawVision,
        family: Family,
        text_hidden: usize,
    ) -> std::result::Result<Self, String> {
        let need = |value: Option<usize>, default: usize, name: &str| {
            positive(value.or(Some(default)), name, "vision")
        };
        if need(raw.spatial_merge_size, MERGE, "spatial_merge_size")? != MERGE
            || need(raw.temporal_patch_size, 2, "temporal_patch_size")? != 2
        {
            return Err("spatial_merge_size and temporal_patch_size must be 2".to_owned());
        }
        let patch_default = if family == Family::ColQwen3 { 16 } else { 14 };
        let patch = need(
            raw.patch_size.or(raw.spatial_patch_size),
            patch_default,
            "patch_size",
        )?;
        let heads = need(raw.num_heads, 16, "num_heads")?;
        let common = Self {
            depth: need(raw.depth, 32, "depth")?,
            width: 0,
            intermediate: 0,
            heads,
            patch,
            output: text_hidden,
            norm: VisionNorm::Layer,
            mlp: VisionMlp::QuickGelu,
            attention: VisionAttention::Full,
            position_table: None,
            deepstack: Vec::new(),
            patch_bias: false,
        };
        let vision = match family {
            Family::ColQwen2 => {
                let width = need(raw.embed_dim, 1280, "embed_dim")?;
                let ratio = raw.mlp_ratio.unwrap_or(4.0);
                Self {
                    width,
                    intermediate: scaled(width, ratio)?,
                    output: need(raw.hidden_size, text_hidden, "hidden_size")?,
                    ..common
                }
            }
            Family::ColQwen2_5 => Self {
                width: need(raw.hidden_size, 1280, "hidden_size")?,
                intermediate: need(raw.intermediate_size, 3420, "intermediate_size")?,
                output: need(raw.out_hidden_size, text_hidden, "out_hidden_size")?,
                norm: VisionNorm::Rms,
                mlp: VisionMlp::SwiGlu,
                attention: VisionAttention::Windowed {
                    window: need(raw.window_size, 112, "window_size")? / MERGE / patch,
                    full_blocks: raw
                        .fullatt_block_indexes
                        .clone()
                        .unwrap_or_else(|| vec![7, 15, 23, 31]),
                },
                ..common
            },
            Family::ColQwen3 => {
                let entries = need(raw.num_position_embeddings, 2304, "num_position_embeddings")?;
                let side = entries.isqrt();
                if side * side != entries {
                    return Err(format!("num_position_embeddings {entries} is not a square"));
                }
                Self {
                    depth: need(raw.depth, 27, "depth")?,
                    width: need(raw.hidden_size, 1152, "hidden_size")?,
                    intermediate: need(raw.intermediate_size, 4304, "intermediate_size")?,
                    output: need(raw.out_hidden_size, text_hidden, "out_hidden_size")?,
                    mlp: VisionMlp::TanhGelu,
                    position_table: Some(side),
                    deepstack: raw
                        .deepstack_visual_indexes
                        .clone()
                        .unwrap_or_else(|| vec![8, 16, 24]),
                    patch_bias: true,
                    ..common
                }
            }
        };
        vision.check()?;
        Ok(vision)
    }

    /// Width of a head.
    #[must_use]
    pub fn head(&self) -> usize {
        self.width / self.heads
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !self.width.is_multiple_of(self.heads * 4) {
            return Err(format!(
                "vision width {} is not a multiple of 4 x {} heads",
                self.width, self.heads
            ));
        }
        if matches!(self.attention, VisionAttention::Windowed { window: 0, .. }) {
            return Err("window_size is smaller than a merged patch".to_owned());
        }
        if let Some(block) = self.deepstack.iter().find(|block| **block >= self.depth) {
            return Err(format!(
                "deepstack_visual_indexes contains {block}, the tower has {} blocks",
                self.depth
            ));
        }
        Ok(())
    }
}

fn positive(value: Option<usize>, name: &str, tower: &str) -> std::result::Result<usize, String> {
    match value {
        Some(0) => Err(format!("{name} of the {tower} tower is 0")),
        Some(value) => Ok(value),
        None => Err(format!("{name} of the {tower} tower is missing")),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the reference truncates; the range is checked"
)]
fn scaled(width: usize, ratio: f64) -> std::result::Result<usize, String> {
    let product = width as f64 * ratio;
    if (1.0..1e9).contains(&product) {
        Ok(product as usize)
    } else {
        Err(format!("mlp_ratio {ratio} is out of range"))
    }
}
