//! ColQwen page embedders: an image of a page, or a query, to one unit vector a token, exactly as
//! colpali-engine computes them. It renders nothing, stores nothing and fetches nothing.
//!
//! # The way of a page
//! 1. [`processor`], `image_size`, `resize`, `patches`: settings of the checkpoint, the size,
//!    the resampling (bit for bit the reference's), rows of pixels in the tower's order.
//! 2. `grid`, `packing`, `tokenizer`: the order of patches, a batch of pages without padding,
//!    token ids, positions, who sees whom. Pure host code.
//! 3. `vision`, `text`, `model`: the towers, from `layers`, `attention`, `rope`, `kernels`.
//! 4. [`pool`]: fewer vectors a page, where wanted.
//!
//! Weights come from [`config`] (layouts of `config.json`), `names` (layouts of tensor names),
//! `weight_file`, `checkpoint` and `lora`.
//!
//! # Adding a family
//! 1. Name it in [`Family`] and map its `model_type` in `Config::from_raw`; keys that only it has
//!    go to `raw_config`.
//! 2. Say how its towers differ, as values of `VisionConfig` and `TextConfig`: towers never ask
//!    for the family, only for what it does (a norm, an MLP, windows, a table of positions).
//! 3. Add what is new as a variant there, and as a branch in `vision` or `text`.
//! 4. Map its tensor names in `names`, its prompts in `tokenizer`.
//! 5. Make a tiny checkpoint with random weights and the reference's outputs, put it under
//!    `tests/fixtures` and add it to the table in `tests/colqwen`. Hold vectors to 1e-5 in
//!    f32: a wrong kind of GELU moves them by no more than 4e-5.

mod attention;
mod checkpoint;
pub mod cli;
pub mod config;
mod device;
mod embedder;
mod error;
mod grid;
mod image_size;
mod kernels;
mod layers;
mod lora;
mod model;
mod names;
mod packing;
mod patches;
mod pooling;
mod position_table;
pub mod processor;
mod raw_config;
mod resize;
mod rope;
mod text;
mod tokenizer;
mod vision;
mod weight_file;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use rayon::prelude::*;

pub use config::{Config, Family};
pub use device::{DeviceChoice, Precision};
pub use error::{ColQwenError, Result};
pub use image_size::Size;
pub use patches::RgbImage;
pub use pooling::pool;

use checkpoint::Checkpoint;
use model::Model;
use patches::PreparedPage;
use processor::ImageSettings;
use tokenizer::Prompts;

/// Tokens of a batch, where nothing else is asked for: eight pages of the usual size.
const BATCH_TOKENS: usize = 8 * 768;

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How it computes.
    pub precision: Precision,
    /// Directory of a LoRA adapter. None: the one beside the base's files, where there is one.
    pub adapter: Option<PathBuf>,
    /// Most visual tokens a page. None: as the checkpoint's processor says.
    pub max_visual_tokens: Option<usize>,
    /// Most tokens that are computed together.
    pub batch_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            precision: Precision::default(),
            adapter: None,
            max_visual_tokens: None,
            batch_tokens: BATCH_TOKENS,
        }
    }
}

/// A loaded model.
pub struct ColQwen {
    model: Model,
    family: Family,
    settings: ImageSettings,
    attention: config::VisionAttention,
    prompts: Prompts,
    batch_tokens: usize,
}

impl ColQwen {
    /// Loads the model in `directory`: `config.json`, `tokenizer.json`, the processor's settings
    /// and the weights. Errors name the file and the tensor at fault.
    pub fn load(directory: &Path, options: &Options) -> Result<Self> {
        let config = Config::read(directory)?;
        Self::load_config(directory, config, options)
    }

    /// Loads the model in `directory`, which must be of this family.
    pub fn load_family(family: Family, directory: &Path, options: &Options) -> Result<Self> {
        let config = Config::read(directory)?;
        config.expect_family(family, directory)?;
        Self::load_config(directory, config, options)
    }

    fn load_config(directory: &Path, config: Config, options: &Options) -> Result<Self> {
        let started = std::time::Instant::now();
        let mut settings = ImageSettings::read(directory, &config)?;
        if let Some(tokens) = options.max_visual_tokens {
            settings = settings.capped(tokens);
        }
        let prompts = Prompts::read(directory, &config)?;
        let beside = directory.join("adapter_config.json");
        let adapter = options
            .adapter
            .as_deref()
            .or_else(|| beside.exists().then_some(directory));
        let checkpoint = Checkpoint::open(directory, adapter)?;
        let device = options.device.open()?;
        let dtype = options.precision.dtype(&device);
        let quantisation = options.precision.quantisation();
        let (family, attention) = (config.family, config.vision.attention.clone());
        let model = Model::load(directory, config, &checkpoint, dtype, quantisation, &device)?;
        tracing::info!(
            %family,
            device = ?device.location(),
            precision = ?options.precision,
            adapter = adapter.is_some(),
            width = model.width,
            seconds = started.elapsed().as_secs_f64(),
            "model loaded"
        );
        let batch_tokens = options.batch_tokens;
        Ok(Self {
            model,
            family,
            settings,
            attention,
            prompts,
            batch_tokens,
        })
    }

    /// Values of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.model.width
    }

    /// The family of the checkpoint.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The vectors of every page, in the order given: `[tokens, width]` each, f32, on the host.
    pub fn embed_pages(&self, pages: &[RgbImage<'_>]) -> Result<Vec<Tensor>> {
        let prepared = pages
            .par_iter()
            .map(|page| PreparedPage::new(*page, &self.settings, &self.attention))
            .collect::<Result<Vec<_>>>()?;
        let tokens: Vec<usize> = prepared
            .iter()
            .map(|page| self.prompts.page_tokens(page.grid.units()))
            .collect();
        let mut prepared = prepared.into_iter();
        let mut vectors = Vec::with_capacity(pages.len());
        for size in packing::batches(&tokens, self.batch_tokens) {
            let batch = prepared.by_ref().take(size).collect();
            let (vision, text) = packing::pack_pages(batch, &self.prompts);
            vectors.extend(self.model.embed_pages(&vision, &text)?);
        }
        Ok(vectors)
    }

    /// The vectors of a query: `[tokens, width]`, f32, on the host.
    pub fn embed_query(&self, text: &str) -> Result<Tensor> {
        self.model
            .embed_query(&packing::pack_query(&self.prompts.query(text)?))
    }

    /// The image as the model sees it (RGB, row-major), for comparison with a reference.
    pub fn resize(&self, image: RgbImage<'_>) -> Result<(Vec<u8>, Size)> {
        patches::resize_image(image, &self.settings)
    }

    /// What each step of the way gives for one page, for comparison with a reference.
    pub fn trace_page(&self, image: RgbImage<'_>) -> Result<Trace> {
        let page = PreparedPage::new(image, &self.settings, &self.attention)?;
        let pixels_order = page.grid.patch_positions().collect();
        let places = packing::indices(page.grid.places());
        let (vision, text) = packing::pack_pages(vec![page], &self.prompts);
        let seen = self.model.see(&vision)?;
        let by_row = |rows: &Tensor| -> Result<Tensor> {
            Ok(rows.index_select(&Tensor::new(places.as_slice(), rows.device())?, 0)?)
        };
        let ids = text.sources.iter().map(|source| match source {
            packing::Source::Text(row) => text.text_ids[*row],
            packing::Source::Visual(_) => self.prompts.image_token,
        });
        Ok(Trace {
            ids: ids.collect(),
            positions: text.positions.clone(),
            pixels: vision.rows.clone(),
            pixels_order,
            visual: by_row(&seen.tokens)?,
            deepstack: seen.deepstack.iter().map(by_row).collect::<Result<_>>()?,
        })
    }

    /// The token ids of a query.
    pub fn query_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.prompts.query(text)
    }
}

/// The steps of one page, for comparison with a reference.
pub struct Trace {
    /// Token ids of the prompt.
    pub ids: Vec<u32>,
    /// Time, row and column of every token.
    pub positions: Vec<[usize; 3]>,
    /// Normalised pixels, one row (channel, y, x) a patch.
    pub pixels: Vec<f32>,
    /// Row and column of the patch that each row of pixels is.
    pub pixels_order: Vec<(usize, usize)>,
    /// The vision tower's output, row by row: `[visual tokens, hidden]`.
    pub visual: Tensor,
    /// What reaches the first text layers, in the order of `visual`.
    pub deepstack: Vec<Tensor>,
}
