//! Both towers and the projection behind them: a packed batch in, one matrix of unit vectors a
//! sequence out. It reads no images and no text.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::checkpoint::Checkpoint;
use super::config::{Config, PromptStyle};
use super::error::{ColQwenError, Result};
use super::layers::{Linear, Loader, Quantisation, unit_length};
use super::packing::{Source, TextPlan, VisionPlan, indices};
use super::rope::RotaryTable;
use super::text::TextTower;
use super::vision::{VisionTower, VisualTokens};

/// A model on its device.
pub(super) struct Model {
    vision: VisionTower,
    text: TextTower,
    projection: Linear,
    config: Config,
    /// Values of a vector.
    pub(super) width: usize,
    dtype: DType,
    device: Device,
}

/// Rows of the projection, and how many of them make a vector.
pub(super) fn width(
    directory: &Path,
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<(usize, usize)> {
    let rows = checkpoint.rows("custom_text_proj.weight")?;
    let width = config.width.unwrap_or(rows);
    // Ops-Colqwen3 cuts the projection's output before it is normalised.
    if width > rows || (width < rows && config.prompts != PromptStyle::Assistant) {
        let reason = format!("vectors of {width} values, but the projection has {rows} rows");
        return Err(ColQwenError::config(&directory.join("config.json"), reason));
    }
    Ok((rows, width))
}

impl Model {
    /// Loads the weights.
    pub(super) fn load(
        directory: &Path,
        config: Config,
        checkpoint: &Checkpoint,
        dtype: DType,
        quantisation: Quantisation,
        device: &Device,
    ) -> Result<Self> {
        let prefix = String::new();
        let loader = Loader {
            checkpoint,
            device,
            dtype,
            quantisation,
            prefix,
        };
        let (rows, width) = width(directory, &config, checkpoint)?;
        let exact = Loader {
            quantisation: Quantisation::None,
            ..loader.clone()
        };
        let projection = Linear::load(
            &exact.at("custom_text_proj"),
            config.text.hidden,
            rows,
            true,
        )?;
        let vision = VisionTower::load(&loader.at("visual"), &config.vision)?;
        let text = TextTower::load(&loader.at("language_model"), &config.text)?;
        // Work of one thread is not ordered with that of another on a GPU.
        device.synchronize()?;
        Ok(Self {
            projection,
            vision,
            text,
            config,
            width,
            dtype,
            device: device.clone(),
        })
    }

    /// The vectors of every page of a batch: `[tokens, width]`, f32, on the host.
    pub(super) fn embed_pages(
        &self,
        pixels: &Tensor,
        vision: &VisionPlan,
        text: &TextPlan,
    ) -> Result<Vec<Tensor>> {
        let visual = self.see(pixels, vision)?;
        self.read(Some(&visual), text)
    }

    /// The plan's rows on the device, complete when this returns: on a GPU another thread may
    /// compute meanwhile, and may take them over.
    pub(super) fn upload(&self, plan: &VisionPlan) -> Result<Tensor> {
        let patches = plan.positions.len();
        let shape = (patches, plan.rows.len() / patches);
        // The cast comes first: half the upload for half the width.
        let pixels = Tensor::from_slice(&plan.rows, shape, &Device::Cpu)?;
        let pixels = pixels.to_dtype(self.dtype)?.to_device(&self.device)?;
        self.device.synchronize()?;
        Ok(pixels)
    }

    /// The shape of the model.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The type of its activations.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the model is.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The vectors of a query: `[tokens, width]`, f32, on the host.
    pub(super) fn embed_query(&self, text: &TextPlan) -> Result<Tensor> {
        let mut vectors = self.read(None, text)?;
        Ok(vectors.swap_remove(0))
    }

    /// The vision tower's output for a batch.
    pub(super) fn see(&self, pixels: &Tensor, plan: &VisionPlan) -> Result<VisualTokens> {
        self.vision.forward(pixels, plan)
    }

    fn read(&self, visual: Option<&VisualTokens>, plan: &TextPlan) -> Result<Vec<Tensor>> {
        let words = self.text.embed(&plan.text_ids)?;
        let (input, extra) = match visual {
            None => (words, Vec::new()),
            Some(visual) => (
                self.gather(&words, &visual.tokens, plan, |text| text)?,
                self.deepstack(visual, plan)?,
            ),
        };
        let config = &self.config.text;
        let (positions, head) = (&plan.positions, config.head);
        let rotary = RotaryTable::text(positions, &config.rope, head, self.dtype, &self.device)?;
        let hidden = self
            .text
            .forward(input, &rotary, &plan.segments(), &extra)?;
        let vectors = self.projection.forward(&hidden)?.narrow(1, 0, self.width)?;
        let vectors = unit_length(&vectors)?.to_device(&Device::Cpu)?;
        let mut start = 0;
        plan.lengths
            .iter()
            .map(|&length| {
                let page = vectors.narrow(0, start, length)?;
                start += length;
                Ok(page)
            })
            .collect()
    }

    /// What is added after the first text layers: zero for tokens that are text.
    fn deepstack(&self, visual: &VisualTokens, plan: &TextPlan) -> Result<Vec<Tensor>> {
        let nothing = Tensor::zeros((1, self.config.text.hidden), self.dtype, &self.device)?;
        visual
            .deepstack
            .iter()
            .map(|rows| self.gather(&nothing, rows, plan, |_| 0))
            .collect()
    }

    /// One row a token: `text` picks from the first tensor, visual tokens from the second.
    fn gather(
        &self,
        words: &Tensor,
        visual: &Tensor,
        plan: &TextPlan,
        text: impl Fn(usize) -> usize,
    ) -> Result<Tensor> {
        let first_visual = words.dim(0)?;
        let rows = indices(plan.sources.iter().map(|source| match *source {
            Source::Text(row) => text(row),
            Source::Visual(row) => first_visual + row,
        }));
        let rows = Tensor::new(rows, &self.device)?;
        Ok(Tensor::cat(&[words, visual], 0)?.index_select(&rows, 0)?)
    }
}
