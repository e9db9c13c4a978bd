//! An embedder that computes nothing and takes a fixed time for each page: it stands for a GPU when
//! the rest of the pipeline is measured. Its vectors mean nothing.

use std::time::Duration;

use super::{
    Batch, BatchContent, EmbedError, Embedder, MultiVector, PageInput, Prepared, PreparedContent,
};

/// Width of its vectors, that of ColQwen's.
const DIMENSIONS: usize = 128;
/// Pages of a batch.
const BATCH: usize = 8;

/// Takes its time.
pub struct Paced {
    page: Duration,
}

impl Paced {
    /// An embedder that takes `page` for each page.
    #[must_use]
    pub fn new(page: Duration) -> Self {
        Self { page }
    }
}

impl Embedder for Paced {
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn page_pixels(&self) -> Option<u32> {
        None
    }

    fn batch_tokens(&self) -> usize {
        BATCH
    }

    fn prepare(&self, _page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        Ok(Prepared {
            tokens: 1,
            content: PreparedContent::Passages(Vec::new()),
        })
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        Ok(Batch {
            pages: pages.len(),
            content: BatchContent::Passages(Vec::new()),
        })
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let pages = u32::try_from(batch.pages).unwrap_or(u32::MAX);
        std::thread::sleep(self.page * pages);
        Ok((0..batch.pages).map(|_| vector()).collect())
    }

    fn embed_query(&self, _text: &str) -> Result<MultiVector, EmbedError> {
        Ok(vector())
    }
}

/// One vector of length 1.
fn vector() -> MultiVector {
    let mut values = vec![0.0; DIMENSIONS];
    values[0] = 1.0;
    MultiVector::new(DIMENSIONS, values)
}
