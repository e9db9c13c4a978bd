//! Pages to vectors. An embedder sees a batch of pages as text or as pixels, whichever it asks
//! for; it does no I/O once it is loaded. It knows no server and no pipeline: files, images and
//! text go in, vectors come out.

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

/// The picture of a page: RGB, one byte each, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: &'a [u8],
}

/// A page as an embedder sees it.
#[derive(Clone, Copy, Debug)]
pub struct PageInput<'a> {
    /// The page's text; empty for a page that is only a picture.
    pub text: &'a str,
    /// The page's picture, when [`Embedder::page_pixels`] asks for it.
    pub pixels: Option<Pixels<'a>>,
}

/// A page that is ready for the model, in memory of the host.
pub struct Prepared {
    /// What it counts in a batch.
    pub tokens: usize,
    content: PreparedContent,
}

enum PreparedContent {
    Passages(minilm::Passages),
    Picture(colqwen::PreparedPage),
}

impl Prepared {
    /// A page as passages of token ids, for an embedder that reads text.
    #[must_use]
    pub fn from_passages(passages: Vec<Vec<u32>>) -> Self {
        Self {
            tokens: passages.iter().map(Vec::len).sum(),
            content: PreparedContent::Passages(passages),
        }
    }

    /// The page's passages; none for a picture.
    #[must_use]
    pub fn passages(&self) -> Option<&[Vec<u32>]> {
        match &self.content {
            PreparedContent::Passages(passages) => Some(passages),
            PreparedContent::Picture(_) => None,
        }
    }
}

/// A batch of pages in memory of the device.
pub struct Batch {
    /// Pages in it.
    pub pages: usize,
    content: BatchContent,
}

enum BatchContent {
    Passages(Vec<minilm::Passages>),
    Pictures(colqwen::PageBatch),
}

impl Batch {
    /// Pages as passages of token ids, for an embedder that reads text.
    #[must_use]
    pub fn from_passages(pages: Vec<Vec<Vec<u32>>>) -> Self {
        Self {
            pages: pages.len(),
            content: BatchContent::Passages(pages),
        }
    }

    /// The passages of each page; none for pictures.
    #[must_use]
    pub fn passages(&self) -> Option<&[Vec<Vec<u32>>]> {
        match &self.content {
            BatchContent::Passages(pages) => Some(pages),
            BatchContent::Pictures(_) => None,
        }
    }
}

/// A loaded model. Calls compute on the calling thread and more; they block.
///
/// A page goes through four steps: [`prepare`](Self::prepare) on any thread, many pages at once;
/// [`upload`](Self::upload) lays out a batch and brings it to the device, beside the computation
/// of another one; [`forward`](Self::forward) computes it; [`finish`](Self::finish) is the rest,
/// on any thread again.
pub trait Embedder: Send + Sync {
    /// Width of every vector.
    fn dimensions(&self) -> usize;

    /// Most pixels of a page that the model looks at: what comes with more is scaled down. None
    /// for a model that needs no pixels.
    fn page_pixels(&self) -> Option<u32>;

    /// Most tokens of a batch.
    fn batch_tokens(&self) -> usize;

    /// What can be done of a page without the device.
    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError>;

    /// Lays pages out for one pass and brings them to the device. [`EmbedError::is_out_of_memory`]
    /// tells that fewer pages may fit.
    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError>;

    /// One multi-vector for each page of a batch, in the same order, each with at least one row. A
    /// page's vectors do not depend on the other pages of the batch.
    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError>;

    /// What is left to do with a page's vectors before they are stored.
    fn finish(&self, vectors: MultiVector) -> MultiVector {
        vectors
    }

    /// The multi-vector of a question, to be compared with those of pages by `MaxSim`.
    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError>;

    /// Bytes in use of the memory of the GPU that the model runs on, by whomever; none on a CPU.
    fn gpu_memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Gives memory of the device back that is kept for later batches.
    fn release_memory(&self) {}

    /// All four steps for pages that may make several batches.
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

/// How many of the first pages make a batch of at most `budget` tokens; a page that is larger is
/// alone. 0 only for no pages.
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

/// Loads a model from its files. The environment variable `LAYRA_KERNELS` picks the CPU kernels:
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

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Width of its vectors.
    pub dimensions: u32,
}

/// Reads what a checkpoint says of itself, without its weights' data. A checkpoint of another
/// family, or one that lacks files, is an error.
pub fn describe(family: ModelFamily, files: &CheckpointFiles) -> Result<Description, EmbedError> {
    let dimensions = match visual_family(family) {
        None => minilm::dimensions(&files.directory)?,
        Some(family) => colqwen::dimensions(family, &files.directory, files.adapter.as_deref())?,
    };
    let dimensions = u32::try_from(dimensions).unwrap_or(u32::MAX);
    Ok(Description { dimensions })
}

/// Names of the files that the index of a sharded checkpoint names.
pub fn shards(directory: &Path) -> Result<Vec<String>, EmbedError> {
    Ok(colqwen::shard_names(directory)?)
}

/// The family as the page embedders know it; none for one that reads text.
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
    fn a_batch_keeps_to_its_budget_and_holds_a_page_at_least() {
        assert_eq!(batch_size([10, 20, 30], 30), 2);
        assert_eq!(batch_size([100, 1], 30), 1);
        assert_eq!(batch_size([], 30), 0);
        assert_eq!(batch_size([usize::MAX, usize::MAX], usize::MAX), 2);
    }
}
