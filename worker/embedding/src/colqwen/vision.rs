//! The vision tower of all families: patches of a [`VisionPlan`] in, visual tokens out.

use candle_core::Tensor;

use super::attention::{Direction, Layout, SelfAttention};
use super::config::{VisionAttention, VisionConfig, VisionMlp, VisionNorm};
use super::error::Result;
use super::grid::UNIT;
use super::layers::{FeedForward, Linear, Loader, Norm};
use super::packing::VisionPlan;
use super::position_table::PositionTable;
use super::rope::RotaryTable;
use crate::kernels::{Activation, Gelu, MaskCache, activate};

const EPSILON: f32 = 1e-6;
const CHANNELS: usize = 3;
/// Frames of a temporal patch; they are identical for a still image.
const FRAMES: usize = 2;

/// The vision tower.
pub(super) struct VisionTower {
    patch: Linear,
    positions: Option<PositionTable>,
    blocks: Vec<Block>,
    merger: Merger,
    /// Mergers after blocks whose output is added after the first text layers.
    deepstack: Vec<(usize, Merger)>,
    attention: VisionAttention,
    head: usize,
}

/// Output of the vision tower; rows are visual tokens in the tower's order.
pub(super) struct VisualTokens {
    /// `[tokens, hidden]`
    pub(super) tokens: Tensor,
    /// Inputs that are added after the first text layers, `[tokens, hidden]` each.
    pub(super) deepstack: Vec<Tensor>,
}

impl VisionTower {
    /// Reads the tower below `visual.`.
    pub(super) fn load(loader: &Loader, config: &VisionConfig) -> Result<Self> {
        let blocks = (0..config.depth)
            .map(|number| Block::load(&loader.at(format_args!("blocks.{number}")), config))
            .collect::<Result<Vec<_>>>()?;
        let deepstack = config.deepstack.iter().enumerate().map(|(number, &block)| {
            let loader = loader.at(format_args!("deepstack_merger_list.{number}"));
            Ok((block, Merger::load_deepstack(&loader, config)?))
        });
        Ok(Self {
            patch: load_patch(&loader.at("patch_embed.proj"), config)?,
            positions: config
                .position_table
                .map(|side| PositionTable::load(&loader.at("pos_embed"), side, config.width))
                .transpose()?,
            blocks,
            merger: Merger::load(&loader.at("merger"), config)?,
            deepstack: deepstack.collect::<Result<Vec<_>>>()?,
            attention: config.attention.clone(),
            head: config.head(),
        })
    }

    /// Runs the tower on `pixels`, the plan's rows on the device.
    pub(super) fn forward(&self, pixels: &Tensor, plan: &VisionPlan) -> Result<VisualTokens> {
        let mut hidden = self.patch.forward(pixels)?;
        if let Some(positions) = &self.positions {
            hidden = (hidden + positions.at(plan)?)?;
        }
        let (dtype, device) = (hidden.dtype(), hidden.device().clone());
        let rotary = RotaryTable::vision(&plan.positions, self.head, dtype, &device)?;
        let masks = MaskCache::default();
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (number, block) in self.blocks.iter().enumerate() {
            let segments = match &self.attention {
                VisionAttention::Windowed { full_blocks, .. } if !full_blocks.contains(&number) => {
                    &plan.windows
                }
                _ => &plan.pages,
            };
            let layout = Layout {
                segments,
                direction: Direction::Bidirectional,
                rotary: &rotary,
                masks: &masks,
            };
            hidden = block.forward(hidden, &layout)?;
            for (_, merger) in self.deepstack.iter().filter(|(after, _)| *after == number) {
                deepstack.push(merger.forward(&hidden)?);
            }
        }
        Ok(VisualTokens {
            tokens: self.merger.forward(&hidden)?,
            deepstack,
        })
    }
}

/// The patch embedding: a convolution whose stride equals its kernel size is a matrix product, and
/// because both frames are equal, the kernel's frames can be added.
fn load_patch(loader: &Loader, config: &VisionConfig) -> Result<Linear> {
    let (width, side) = (config.width, config.patch);
    let kernel = loader.tensor("weight", &[width, CHANNELS, FRAMES, side, side])?;
    let weight = kernel.sum(2)?.reshape((width, CHANNELS * side * side))?;
    let bias = config
        .patch_bias
        .then(|| loader.tensor("bias", &[width]))
        .transpose()?;
    Linear::from_tensors(weight, bias)
}

struct Block {
    norm1: Norm,
    qkv: Linear,
    attention: SelfAttention,
    output: Linear,
    norm2: Norm,
    mlp: FeedForward,
}

impl Block {
    fn load(loader: &Loader, config: &VisionConfig) -> Result<Self> {
        let width = config.width;
        let norm = |name| load_norm(&loader.at(name), config, width);
        Ok(Self {
            norm1: norm("norm1")?,
            qkv: Linear::load(&loader.at("attn.qkv"), width, 3 * width, true)?,
            attention: SelfAttention::new(config.heads, config.heads, config.head(), None)?,
            output: Linear::load(&loader.at("attn.proj"), width, width, true)?,
            norm2: norm("norm2")?,
            mlp: load_mlp(&loader.at("mlp"), config)?,
        })
    }

    fn forward(&self, hidden: Tensor, layout: &Layout<'_>) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(&hidden)?)?;
        let heads = self.attention.forward(&qkv, layout)?;
        let hidden = self.output.add_to(hidden, &heads)?;
        let rows = self.norm2.forward(&hidden)?;
        self.mlp.add_to(hidden, &rows)
    }
}

fn load_norm(loader: &Loader, config: &VisionConfig, width: usize) -> Result<Norm> {
    match config.norm {
        VisionNorm::Rms => Norm::load_rms(loader, width, EPSILON.into()),
        VisionNorm::Layer => Norm::load_layer(loader, width, EPSILON),
    }
}

fn load_mlp(loader: &Loader, config: &VisionConfig) -> Result<FeedForward> {
    let (gates, first, activation, second) = match config.mlp {
        VisionMlp::SwiGlu => (
            Some("gate_proj"),
            "up_proj",
            Activation::SwiGlu,
            "down_proj",
        ),
        VisionMlp::QuickGelu => (None, "fc1", Activation::Gelu(Gelu::Quick), "fc2"),
        VisionMlp::TanhGelu => {
            let activation = Activation::Gelu(Gelu::Tanh);
            (None, "linear_fc1", activation, "linear_fc2")
        }
    };
    let parts = gates.into_iter().chain([first]);
    let parts: Vec<_> = parts
        .map(|name| (loader.at(name), config.intermediate))
        .collect();
    FeedForward::load(&parts, activation, loader.at(second), config.width, true)
}

/// Merges 2 x 2 patches into one token of the text tower's width.
struct Merger {
    norm: Norm,
    /// Whether the norm is applied to the joined patches instead of each patch.
    norm_after_join: bool,
    first: Linear,
    second: Linear,
}

impl Merger {
    fn load(loader: &Loader, config: &VisionConfig) -> Result<Self> {
        // Qwen3-VL renamed the layers.
        let (norm, first, second) = match config.mlp {
            VisionMlp::TanhGelu => ("norm", "linear_fc1", "linear_fc2"),
            VisionMlp::SwiGlu | VisionMlp::QuickGelu => ("ln_q", "mlp.0", "mlp.2"),
        };
        let joined = config.width * UNIT;
        Ok(Self {
            norm: load_norm(&loader.at(norm), config, config.width)?,
            norm_after_join: false,
            first: Linear::load(&loader.at(first), joined, joined, true)?,
            second: Linear::load(&loader.at(second), joined, config.output, true)?,
        })
    }

    fn load_deepstack(loader: &Loader, config: &VisionConfig) -> Result<Self> {
        let joined = config.width * UNIT;
        Ok(Self {
            norm: load_norm(&loader.at("norm"), config, joined)?,
            norm_after_join: true,
            first: Linear::load(&loader.at("linear_fc1"), joined, joined, true)?,
            second: Linear::load(&loader.at("linear_fc2"), joined, config.output, true)?,
        })
    }

    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let (patches, width) = rows.dims2()?;
        let joined = (patches / UNIT, width * UNIT);
        let rows = if self.norm_after_join {
            self.norm.forward(&rows.reshape(joined)?)?
        } else {
            self.norm.forward(rows)?.reshape(joined)?
        };
        let intermediate = activate(self.first.forward(&rows)?, Gelu::Exact)?;
        self.second.forward(&intermediate)
    }
}
