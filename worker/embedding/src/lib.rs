//! Embeds pages and queries as vectors. An embedder reads pages as text or as pixels, depending on
//! the model, and does no I/O after loading. No servers and no pipeline are involved: files, images
//! and text go in, vectors come out.

mod bert;
pub mod colqwen;
mod error;
mod kernels;
mod multi_vector;
mod paced;
mod passages;

pub mod minilm;

mod settings;

use std::path::Path;

use rayon::prelude::*;

pub use colqwen::DeviceChoice;
pub use error::EmbedError;
pub use multi_vector::MultiVector;
pub use paced::Paced;
pub use settings::{CheckpointFiles, ModelFamily, Precision, Settings};

/// The image of a page: RGB, one byte each, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: &'a [u8],
}

/// A page as input of an embedder.
#[derive(Clone, Copy, Debug)]
pub struct PageInput<'a> {
    /// The page's text; empty for a page that is only an image.
    pub text: &'a str,
    /// The page's image, if [`Embedder::page_pixels`] requires it.
    pub pixels: Option<Pixels<'a>>,
}

/// A page that is ready for the model, in host memory.
pub struct Prepared {
    /// Number of tokens that it adds to a batch.
    pub tokens: usize,
    content: PreparedContent,
}

/// Where the vectors of a page lie on it: some are those of tiles of equal size, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageGrid {
    /// The vector of the first tile; those before belong to no tile.
    pub first: u32,
    /// Tiles in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

enum PreparedContent {
    Passages(minilm::Passages),
    Image(colqwen::PreparedPage),
}

impl Prepared {
    /// Creates a page from passages of token ids, for an embedder that reads text.
    #[must_use]
    pub fn from_passages(passages: Vec<Vec<u32>>) -> Self {
        Self {
            tokens: passages.iter().map(Vec::len).sum(),
            content: PreparedContent::Passages(passages),
        }
    }

    /// The page's passages; `None` for an image.
    #[must_use]
    pub fn passages(&self) -> Option<&[Vec<u32>]> {
        match &self.content {
            PreparedContent::Passages(passages) => Some(passages),
            PreparedContent::Image(_) => None,
        }
    }
}

/// A batch of pages in device memory.
pub struct Batch {
    /// Number of pages.
    pub pages: usize,
    content: BatchContent,
}

enum BatchContent {
    Passages(Vec<minilm::Passages>),
    Images(colqwen::PageBatch),
}

impl Batch {
    /// Creates a batch from pages of passages of token ids, for an embedder that reads text.
    #[must_use]
    pub fn from_passages(pages: Vec<Vec<Vec<u32>>>) -> Self {
        Self {
            pages: pages.len(),
            content: BatchContent::Passages(pages),
        }
    }

    /// The passages of each page; `None` for images.
    #[must_use]
    pub fn passages(&self) -> Option<&[Vec<Vec<u32>>]> {
        match &self.content {
            BatchContent::Passages(pages) => Some(pages),
            BatchContent::Images(_) => None,
        }
    }
}

/// A loaded model. Calls block, and may use more threads than the calling one.
///
/// A page goes through four steps: [`prepare`](Self::prepare) runs on any thread, for many pages in
/// parallel; [`upload`](Self::upload) packs a batch and copies it to the device, possibly while
/// another batch is computed; [`forward`](Self::forward) runs the model;
/// [`finish`](Self::finish) postprocesses, again on any thread.
pub trait Embedder: Send + Sync {
    /// Width of every vector.
    fn dimensions(&self) -> usize;

    /// Largest number of pixels that the model uses of a page; larger images are scaled down.
    /// `None` for a model that reads text.
    fn page_pixels(&self) -> Option<u32>;

    /// Largest number of tokens of a batch.
    fn batch_tokens(&self) -> usize;

    /// Preprocesses a page on the CPU.
    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError>;

    /// Packs pages into a batch and copies it to the device. If [`EmbedError::is_out_of_memory`],
    /// fewer pages may fit.
    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError>;

    /// Computes one multi-vector with at least one row for each page of a batch, in the same order.
    /// The vectors of a page do not depend on the other pages of the batch.
    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError>;

    /// Postprocesses a page's vectors before they are stored.
    fn finish(&self, vectors: MultiVector) -> MultiVector {
        vectors
    }

    /// Where the vectors of a prepared page lie on it; `None` if they do not lie on a grid.
    fn grid(&self, _page: &Prepared) -> Option<PageGrid> {
        None
    }

    /// The multi-vector of a query, for comparison with those of pages by `MaxSim`.
    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError>;

    /// The multi-vectors of several queries, in order, computed at once where that is faster. They
    /// do not depend on each other; an error may be about any of them.
    fn embed_queries(&self, texts: &[&str]) -> Result<Vec<MultiVector>, EmbedError> {
        texts.iter().map(|text| self.embed_query(text)).collect()
    }

    /// Memory in use on the model's GPU by all processes, in bytes; `None` on a CPU.
    fn gpu_memory_bytes(&self) -> Option<u64> {
        None
    }

    /// The whole memory of the model's GPU, in bytes; `None` on a CPU.
    fn gpu_memory_total_bytes(&self) -> Option<u64> {
        None
    }

    /// Frees device memory that is cached for later batches.
    fn release_memory(&self) {}

    /// Runs all four steps, in as many batches as needed.
    fn embed_pages(&self, pages: &[PageInput<'_>]) -> Result<Vec<MultiVector>, EmbedError> {
        let prepared = pages
            .par_iter()
            .map(|page| self.prepare(page))
            .collect::<Result<Vec<_>, _>>()?;
        let mut vectors = Vec::with_capacity(pages.len());
        let mut rest: Vec<&Prepared> = prepared.iter().collect();
        while !rest.is_empty() {
            let size = batch_size(rest.iter().map(|page| page.tokens), self.batch_tokens());
            let batch: Vec<&Prepared> = rest.drain(..size).collect();
            vectors.extend(self.forward(self.upload(&batch)?)?);
        }
        Ok(vectors
            .into_par_iter()
            .map(|page| self.finish(page))
            .collect())
    }
}

/// Number of leading pages that fit into a batch of `budget` tokens. A page above the budget is a
/// batch by itself. 0 only if there are no pages.
pub fn batch_size(tokens: impl IntoIterator<Item = usize>, budget: usize) -> usize {
    let mut sum = 0_usize;
    let mut size = 0;
    for count in tokens {
        sum = sum.saturating_add(count);
        if size > 0 && sum > budget {
            break;
        }
        size += 1;
    }
    size
}

/// Loads a model from its files. The environment variable `LAYRA_KERNELS` selects the CPU kernels:
/// `auto` (the default), `avx512`, `avx2` or `portable`.
pub fn load(settings: &Settings, files: &CheckpointFiles) -> Result<Box<dyn Embedder>, EmbedError> {
    match visual_family(settings.family) {
        None => Ok(Box::new(minilm::MiniLm::load(&files.directory)?)),
        Some(family) => {
            let embedder = colqwen::PageEmbedder::load(family, settings, files)?;
            Ok(Box::new(embedder))
        }
    }
}

/// Properties of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Width of its vectors.
    pub dimensions: u32,
}

/// Reads the properties of a checkpoint without loading its weights. A checkpoint of another
/// family, or one with missing files, is an error.
pub fn describe(family: ModelFamily, files: &CheckpointFiles) -> Result<Description, EmbedError> {
    let dimensions = match visual_family(family) {
        None => minilm::dimensions(&files.directory)?,
        Some(family) => colqwen::dimensions(family, &files.directory, files.adapter.as_deref())?,
    };
    let dimensions = u32::try_from(dimensions).unwrap_or(u32::MAX);
    Ok(Description { dimensions })
}

/// Names of the weight files of a checkpoint: those in the index of a sharded one.
pub fn shards(directory: &Path) -> Result<Vec<String>, EmbedError> {
    Ok(colqwen::shard_names(directory)?)
}

/// The family as the page embedders define it; `None` for one that reads text.
fn visual_family(family: ModelFamily) -> Option<colqwen::Family> {
    match family {
        ModelFamily::Minilm => None,
        ModelFamily::ColQwen2 => Some(colqwen::Family::ColQwen2),
        ModelFamily::ColQwen2_5 => Some(colqwen::Family::ColQwen2_5),
        ModelFamily::ColQwen3 => Some(colqwen::Family::ColQwen3),
    }
}

#[cfg(test)]
mod tests {
    use super::batch_size;

    #[test]
    fn a_batch_fits_its_budget_and_has_at_least_one_page() {
        assert_eq!(batch_size([10, 20, 30], 30), 2);
        assert_eq!(batch_size([100, 1], 30), 1);
        assert_eq!(batch_size([], 30), 0);
        assert_eq!(batch_size([usize::MAX, usize::MAX], usize::MAX), 2);
    }
}
