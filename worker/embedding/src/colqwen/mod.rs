//! ColQwen embedders: one unit vector for each token of a page image or of a query, exactly as
//! colpali-engine computes them. No rendering, no storage, no network.
//!
//! # From a page to its vectors
//! 1. [`processor`], `image_size`, `resize`, `resample`, `patches`: the checkpoint's settings, the
//!    target size, resampling (bit-exact with the reference), patches in the tower's order.
//! 2. `grid`, `packing`, `tokenizer`: the order of patches, a batch of pages without padding, token
//!    ids, positions and attention segments. Pure host code.
//! 3. `vision`, `text`, `model`: the towers, built from `layers`, `attention`, `rope`, `kernels`.
//! 4. [`pool`]: optionally, fewer vectors for each page.
//!
//! Weights are read through [`config`] (layouts of `config.json`), `names` (layouts of tensor
//! names), `weight_file`, `checkpoint` and `lora`. `device` selects device and precision;
//! `embedder` implements the worker's trait; `cli` and `bench` are commands.
//!
//! # Adding a family
//! Towers never check the family, only its features: a norm, an MLP, windows, a position table. In
//! this order, file by file:
//! 1. `config.rs`: a variant of [`Family`], its `model_type` in `Config::from_raw`, and the
//!    features of its towers as values of `VisionConfig` and `TextConfig`. New keys of
//!    `config.json` go to `raw_config.rs`.
//! 2. `vision.rs`, `text.rs`: a branch for each new feature. New values of existing features need
//!    none.
//! 3. `names.rs`: maps its tensor names, in every published layout, to the bare ones. `lora.rs`
//!    needs no change: adapters are read through the same names.
//! 4. `tokenizer.rs`: its prompts for pages and for queries. `processor.rs`: defaults of settings
//!    that its processor omits.
//! 5. `flops.rs`, if its layers have other matrix products: the benchmark divides by it.
//! 6. Outside this module: a variant of `ModelFamily` in `settings.rs` and its arm in `visual_family`
//!    of `lib.rs`; a variant of `ModelFamily` in `crds/src/embedding.rs` (the definition is
//!    generated again by the test that fails) and its arm in the worker's
//!    `model_files/embedding.rs`.
//! 7. `tests/fixtures/NAME`: a tiny checkpoint with random weights, `reference.json` and
//!    `reference.safetensors` with the reference implementation's outputs under the names of the
//!    others; then `NAME` in `FIXTURES` of `tests/colqwen/fixture.rs`. All tests of parity, packing
//!    and bad input then run for it, too. Vectors must match within 1e-5 in f32: a wrong variant of
//!    GELU changes them by at most 4e-5. If they differ, `ColQwen::trace_page` returns the
//!    intermediate steps, and `parity.rs` compares each.

mod attention;
pub mod bench;
mod checkpoint;
pub mod cli;
pub mod config;
mod device;
mod embedder;
mod error;
mod flops;
mod grid;
mod image_size;
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
mod resample;
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
pub use device::DeviceChoice;
pub use embedder::PageEmbedder;
pub use error::{ColQwenError, Result};
pub use image_size::Size;
pub use patches::RgbImage;
pub use pooling::pool;

pub(super) use checkpoint::shard_names;
pub(super) use embedder::dimensions;
pub(super) use patches::PreparedPage;

use checkpoint::Checkpoint;
use model::Model;
use packing::{TextPlan, VisionPlan};
use processor::ImageSettings;
use tokenizer::Prompts;

use crate::Precision;

/// Default tokens of a batch: eight pages of the usual size.
const BATCH_TOKENS: usize = 8 * 768;

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Default: bf16 on a GPU, f32 on a CPU.
    pub precision: Option<Precision>,
    /// Directory of a LoRA adapter. Default: the checkpoint's directory, if it contains one.
    pub adapter: Option<PathBuf>,
    /// Largest number of visual tokens of a page. Default: the setting of the checkpoint's
    /// processor.
    pub max_visual_tokens: Option<usize>,
    /// Largest number of tokens of a batch.
    pub batch_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            precision: None,
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
        crate::kernels::check_path().map_err(ColQwenError::Kernels)?;
        let started = std::time::Instant::now();
        let mut settings = ImageSettings::read(directory, &config)?;
        if let Some(tokens) = options.max_visual_tokens {
            settings = settings.capped(tokens);
        }
        let prompts = Prompts::read(directory, &config)?;
        let adapter = adapter_of(directory, options.adapter.as_deref());
        let checkpoint = Checkpoint::open(directory, adapter)?;
        let device = options.device.open()?;
        let precision = device::precision_on(&device, options.precision);
        let dtype = device::activations(precision, &device);
        let quantisation = device::quantisation(precision);
        let (family, attention) = (config.family, config.vision.attention.clone());
        tracing::info!(
            %family,
            device = ?device.location(),
            ?precision,
            adapter = adapter.is_some(),
            bytes = checkpoint.bytes(),
            "loading the model"
        );
        let model = Model::load(directory, config, &checkpoint, dtype, quantisation, &device)?;
        tracing::info!(
            %family,
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

    /// Width of the vectors.
    #[must_use]
    pub fn width(&self) -> usize {
        self.model.width
    }

    /// The family of the checkpoint.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Largest number of tokens that a page can have.
    fn max_tokens(&self) -> usize {
        let side = self.settings.side();
        self.prompts
            .page_tokens(self.settings.max_pixels / (side * side))
    }

    /// Largest number of pixels of a page that are used.
    fn max_pixels(&self) -> usize {
        self.settings.max_pixels
    }

    /// Resizes and normalises an image and splits it into patches, on the calling thread.
    fn prepare(&self, image: RgbImage<'_>) -> Result<PreparedPage> {
        PreparedPage::new(image, &self.settings, &self.attention)
    }

    /// Tokens of a prepared page.
    fn tokens(&self, page: &PreparedPage) -> usize {
        self.prompts.page_tokens(page.grid.units())
    }

    /// Number of operations of the matrix products for a page.
    fn flops(&self, page: &PreparedPage) -> f64 {
        let tokens = self.tokens(page);
        flops::Flops::of_page(self.model.config(), self.width(), &page.grid, tokens).total()
    }

    /// Packs pages into one batch on the device.
    fn upload(&self, pages: &[&PreparedPage]) -> Result<PageBatch> {
        let (mut vision, text) = packing::pack_pages(pages, &self.prompts);
        let pixels = self.model.upload(&vision)?;
        vision.rows = Vec::new();
        Ok(PageBatch {
            pixels,
            vision,
            text,
        })
    }

    /// The vectors of each page of a batch: `[tokens, width]`, f32, on the host.
    fn forward(&self, batch: &PageBatch) -> Result<Vec<Tensor>> {
        self.model
            .embed_pages(&batch.pixels, &batch.vision, &batch.text)
    }

    /// The vectors of each page, in the given order: `[tokens, width]`, f32, on the host.
    pub fn embed_pages(&self, pages: &[RgbImage<'_>]) -> Result<Vec<Tensor>> {
        let prepared = pages
            .par_iter()
            .map(|page| self.prepare(*page))
            .collect::<Result<Vec<_>>>()?;
        let mut vectors = Vec::with_capacity(pages.len());
        let mut rest: Vec<&PreparedPage> = prepared.iter().collect();
        while !rest.is_empty() {
            let tokens = rest.iter().map(|page| self.tokens(page));
            let size = super::batch_size(tokens, self.batch_tokens);
            let batch: Vec<&PreparedPage> = rest.drain(..size).collect();
            vectors.extend(self.forward(&self.upload(&batch)?)?);
        }
        Ok(vectors)
    }

    /// Memory in use on the GPU by all processes, in bytes; `None` on a CPU.
    #[must_use]
    pub fn gpu_memory_bytes(&self) -> Option<u64> {
        device::memory(self.model.device()).map(|memory| memory.used)
    }

    /// The whole memory of the GPU, in bytes; `None` on a CPU.
    #[must_use]
    pub fn gpu_memory_total_bytes(&self) -> Option<u64> {
        device::memory(self.model.device()).map(|memory| memory.total)
    }

    /// Waits for the device and frees its cached memory.
    fn release_memory(&self) {
        device::release_memory(self.model.device());
    }

    /// The vectors of a query: `[tokens, width]`, f32, on the host.
    pub fn embed_query(&self, text: &str) -> Result<Tensor> {
        self.model
            .embed_query(&packing::pack_query(&self.prompts.query(text)?))
    }

    /// The same for several queries, in order, in one batch.
    pub fn embed_queries(&self, texts: &[&str]) -> Result<Vec<Tensor>> {
        let ids = texts.iter().map(|text| self.prompts.query(text));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        self.model.embed_queries(&packing::pack_queries(&ids))
    }

    /// The resized image (RGB, row-major), for comparison with a reference.
    pub fn resize(&self, image: RgbImage<'_>) -> Result<(Vec<u8>, Size)> {
        patches::resize_image(image, &self.settings)
    }

    /// Intermediate results for one page, for comparison with a reference.
    pub fn trace_page(&self, image: RgbImage<'_>) -> Result<Trace> {
        let page = self.prepare(image)?;
        let pixels_order = page.grid.patch_positions().collect();
        let order = packing::indices(page.grid.sequence_indices());
        let (vision, text) = packing::pack_pages(&[&page], &self.prompts);
        let visual = self
            .model
            .run_vision(&self.model.upload(&vision)?, &vision)?;
        let by_row = |rows: &Tensor| -> Result<Tensor> {
            Ok(rows.index_select(&Tensor::new(order.as_slice(), rows.device())?, 0)?)
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
            visual: by_row(&visual.tokens)?,
            deepstack: visual.deepstack.iter().map(by_row).collect::<Result<_>>()?,
        })
    }

    /// The token ids of a query.
    pub fn query_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.prompts.query(text)
    }
}

/// Packed pages on the device.
pub(super) struct PageBatch {
    pixels: Tensor,
    /// Without its rows, which are `pixels`.
    vision: VisionPlan,
    text: TextPlan,
}

/// The requested adapter, else the one in the checkpoint's directory, if any.
fn adapter_of<'a>(directory: &'a Path, requested: Option<&'a Path>) -> Option<&'a Path> {
    let included = || {
        directory
            .join("adapter_config.json")
            .exists()
            .then_some(directory)
    };
    requested.or_else(included)
}

/// Intermediate results for one page, for comparison with a reference.
pub struct Trace {
    /// Token ids of the prompt.
    pub ids: Vec<u32>,
    /// Time, row and column of each token.
    pub positions: Vec<[usize; 3]>,
    /// Normalised pixels, one row (channel, y, x) for each patch.
    pub pixels: Vec<f32>,
    /// Row and column of the patch in each row of `pixels`.
    pub pixels_order: Vec<(usize, usize)>,
    /// The vision tower's output, row by row: `[visual tokens, hidden]`.
    pub visual: Tensor,
    /// Inputs that are added after the first text layers, in the order of `visual`.
    pub deepstack: Vec<Tensor>,
}
