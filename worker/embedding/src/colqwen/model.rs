//! Both towers and the projection: a packed batch in, a matrix of unit vectors for each sequence
//! out.

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
    /// Width of the vectors.
    pub(super) width: usize,
    dtype: DType,
    device: Device,
}

/// Number of rows of the projection, and how many of them are used for the vectors.
pub(super) fn width(
    directory: &Path,
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<(usize, usize)> {
    let rows = checkpoint.rows("custom_text_proj.weight")?;
    let width = config.width.unwrap_or(rows);
    // Ops-Colqwen3 truncates the projection's output before normalising it.
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
        let unquantised = Loader {
            quantisation: Quantisation::None,
            ..loader.clone()
        };
        let projection = Linear::load(
            &unquantised.at("custom_text_proj"),
            config.text.hidden,
            rows,
            true,
        )?;
        let vision = VisionTower::load(&loader.at("visual"), &config.vision)?;
        let text = TextTower::load(&loader.at("language_model"), &config.text)?;
        // On a GPU, the work of different threads is not ordered.
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

    /// The vectors of each page of a batch: `[tokens, width]`, f32, on the host.
    pub(super) fn embed_pages(
        &self,
        pixels: &Tensor,
        vision: &VisionPlan,
        text: &TextPlan,
    ) -> Result<Vec<Tensor>> {
        let visual = self.run_vision(pixels, vision)?;
        self.run_text(Some(&visual), text)
    }

    /// Copies the plan's rows to the device. The copy is complete when this returns, so that
    /// another thread can use it on a GPU.
    pub(super) fn upload(&self, plan: &VisionPlan) -> Result<Tensor> {
        let patches = plan.positions.len();
        let shape = (patches, plan.rows.len() / patches);
        // Cast before the upload: half the width means half the bytes.
        let pixels = Tensor::from_slice(&plan.rows, shape, &Device::Cpu)?;
        let pixels = pixels.to_dtype(self.dtype)?.to_device(&self.device)?;
        self.device.synchronize()?;
        Ok(pixels)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Type of the activations.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The vectors of a query: `[tokens, width]`, f32, on the host.
    pub(super) fn embed_query(&self, text: &TextPlan) -> Result<Tensor> {
        let mut vectors = self.run_text(None, text)?;
        Ok(vectors.swap_remove(0))
    }

    /// The vectors of each query: `[tokens, width]`, f32, on the host.
    pub(super) fn embed_queries(&self, text: &TextPlan) -> Result<Vec<Tensor>> {
        self.run_text(None, text)
    }

    /// The vision tower's output for a batch.
    pub(super) fn run_vision(&self, pixels: &Tensor, plan: &VisionPlan) -> Result<VisualTokens> {
        self.vision.forward(pixels, plan)
    }

    /// The vectors of each sequence of a batch.
    fn run_text(&self, visual: Option<&VisualTokens>, plan: &TextPlan) -> Result<Vec<Tensor>> {
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

    /// Inputs that are added after the first text layers: zero for text tokens.
    fn deepstack(&self, visual: &VisualTokens, plan: &TextPlan) -> Result<Vec<Tensor>> {
        let zero = Tensor::zeros((1, self.config.text.hidden), self.dtype, &self.device)?;
        visual
            .deepstack
            .iter()
            .map(|rows| self.gather(&zero, rows, plan, |_| 0))
            .collect()
    }

    /// One row for each token: text tokens from `words`, at the row that `text` returns, and visual
    /// tokens from `visual`.
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
