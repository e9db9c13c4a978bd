//! Implements [`Embedder`] for ColQwen: page images in, plain vectors out.

use std::path::Path;

use candle_core::Tensor;

use super::patches::PreparedPage;
use super::{ColQwen, ColQwenError, Config, Family, Options, RgbImage, checkpoint, model, pool};
use crate::{
    Batch, BatchContent, CheckpointFiles, EmbedError, Embedder, MultiVector, PageGrid, PageInput,
    Prepared, PreparedContent, Settings,
};

/// A model with the pipeline's settings.
pub struct PageEmbedder {
    model: ColQwen,
    pool_factor: usize,
}

impl PageEmbedder {
    /// Loads a checkpoint, which must be of this family.
    pub fn load(
        family: Family,
        settings: &Settings,
        files: &CheckpointFiles,
    ) -> Result<Self, ColQwenError> {
        let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let options = Options {
            device: settings.device,
            precision: settings.precision,
            adapter: files.adapter.clone(),
            max_visual_tokens: settings.max_visual_tokens.map(number),
            ..Options::default()
        };
        let mut model = ColQwen::load_family(family, &files.directory, &options)?;
        model.batch_tokens = number(settings.batch_pages).saturating_mul(model.max_tokens());
        Ok(Self {
            model,
            pool_factor: number(settings.pool_factor),
        })
    }
}

/// Width of the vectors of the checkpoint in `directory`. The checkpoint must be of this family and
/// complete, and an adapter must match its weights.
pub(crate) fn dimensions(
    family: Family,
    directory: &Path,
    adapter: Option<&Path>,
) -> Result<usize, ColQwenError> {
    let config = Config::read(directory)?;
    config.expect_family(family, directory)?;
    let checkpoint =
        checkpoint::Checkpoint::open(directory, super::adapter_of(directory, adapter))?;
    Ok(model::width(directory, &config, &checkpoint)?.1)
}

impl Embedder for PageEmbedder {
    fn dimensions(&self) -> usize {
        self.model.width()
    }

    fn page_pixels(&self) -> Option<u32> {
        Some(u32::try_from(self.model.max_pixels()).unwrap_or(u32::MAX))
    }

    fn batch_tokens(&self) -> usize {
        self.model.batch_tokens
    }

    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        let page = self.model.prepare(image(page)?)?;
        Ok(Prepared {
            tokens: self.model.tokens(&page),
            content: PreparedContent::Image(page),
        })
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        let images = pages.iter().map(|page| match &page.content {
            PreparedContent::Image(page) => Ok(page),
            PreparedContent::Passages(_) => Err(EmbedError::ForeignPage),
        });
        let images = images.collect::<Result<Vec<&PreparedPage>, _>>()?;
        Ok(Batch {
            pages: pages.len(),
            content: BatchContent::Images(self.model.upload(&images)?),
        })
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let BatchContent::Images(batch) = batch.content else {
            return Err(EmbedError::ForeignPage);
        };
        self.model.forward(&batch)?.iter().map(rows).collect()
    }

    fn finish(&self, vectors: MultiVector) -> MultiVector {
        if self.pool_factor <= 1 {
            return vectors;
        }
        let width = vectors.dimensions();
        MultiVector::new(width, pool(vectors.values(), width, self.pool_factor))
    }

    fn grid(&self, page: &Prepared) -> Option<PageGrid> {
        // A pooled vector is that of tiles from anywhere on the page.
        let PreparedContent::Image(page) = &page.content else {
            return None;
        };
        let number = |value: usize| u32::try_from(value).ok();
        (self.pool_factor <= 1).then_some(PageGrid {
            first: number(self.model.prompts.before_image.len())?,
            columns: number(page.grid.columns)?,
            rows: number(page.grid.rows)?,
        })
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        rows(&self.model.embed_query(text)?)
    }

    fn embed_queries(&self, texts: &[&str]) -> Result<Vec<MultiVector>, EmbedError> {
        self.model.embed_queries(texts)?.iter().map(rows).collect()
    }

    fn gpu_memory_bytes(&self) -> Option<u64> {
        self.model.gpu_memory_bytes()
    }

    fn gpu_memory_total_bytes(&self) -> Option<u64> {
        self.model.gpu_memory_total_bytes()
    }

    fn release_memory(&self) {
        self.model.release_memory();
    }
}

fn image<'a>(page: &PageInput<'a>) -> Result<RgbImage<'a>, ColQwenError> {
    let side = |pixels: u32| usize::try_from(pixels).unwrap_or(usize::MAX);
    match page.pixels {
        Some(pixels) => {
            let (width, height) = (side(pixels.width), side(pixels.height));
            Ok(RgbImage {
                width,
                height,
                rgb: pixels.rgb,
            })
        }
        None => Err(ColQwenError::Image {
            width: 0,
            height: 0,
            reason: "the page has no image",
        }),
    }
}

fn rows(vectors: &Tensor) -> Result<MultiVector, EmbedError> {
    let width = vectors.dim(1)?;
    Ok(MultiVector::new(width, vectors.flatten_all()?.to_vec1()?))
}
