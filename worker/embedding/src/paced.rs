//! For benchmarks only: an embedder that sleeps for a fixed time for each page instead of
//! computing. It stands for a GPU while the rest of the pipeline is measured. Its vectors are
//! meaningless.

use std::time::Duration;

use super::{
    Batch, BatchContent, EmbedError, Embedder, MultiVector, PageInput, Prepared, PreparedContent,
};

/// Width of its vectors, the same as ColQwen's.
const DIMENSIONS: usize = 128;
/// Pages of a batch.
const BATCH: usize = 8;

/// For benchmarks only: sleeps for a fixed time for each page.
pub struct Paced {
    page: Duration,
}

impl Paced {
    /// Creates an embedder that sleeps for `page` for each page.
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
