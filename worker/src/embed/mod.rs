//! Pages to vectors. An embedder sees a batch of pages as text and, if it asks for them, pixels;
//! it does no I/O once it is loaded.

mod bert;
pub mod colqwen;
mod error;
mod gelu;
mod multi_vector;
mod passages;

pub mod minilm;

use std::path::Path;

use layra_crds::ModelFamily;

pub use error::EmbedError;
pub use multi_vector::MultiVector;

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
    /// The page's picture, when [`Embedder::needs_pixels`] asks for it.
    pub pixels: Option<Pixels<'a>>,
}

/// A loaded model. Calls compute on the calling thread and more; they block.
pub trait Embedder: Send + Sync {
    /// Width of every vector.
    fn dimensions(&self) -> usize;

    /// Whether pages must come with their pixels.
    fn needs_pixels(&self) -> bool;

    /// One multi-vector for each page, in the same order, each with at least one row. A page's
    /// vectors do not depend on the other pages of the batch.
    fn embed_pages(&self, pages: &[PageInput<'_>]) -> Result<Vec<MultiVector>, EmbedError>;

    /// The multi-vector of a question, to be compared with those of pages by `MaxSim`.
    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError>;
}

/// Loads a model from the directory with its files.
pub fn load(family: ModelFamily, directory: &Path) -> Result<Box<dyn Embedder>, EmbedError> {
    match family {
        ModelFamily::Minilm => Ok(Box::new(minilm::MiniLm::load(directory)?)),
        other => Err(EmbedError::Config {
            file: directory.to_owned(),
            detail: format!("this worker does not know the family {other}"),
        }),
    }
}
