//! For benchmarks and tests only: an embedder that sleeps for a fixed time for each page instead of
//! computing. It stands for a GPU while the rest of the pipeline is measured or tested. Its vectors
//! are meaningless.

use std::time::Duration;

use super::{
    Batch, BatchContent, EmbedError, Embedder, MultiVector, PageInput, Prepared, PreparedContent,
};

/// Width of its vectors, the same as ColQwen's.
const DIMENSIONS: usize = 128;
/// Pages of a batch.
const BATCH: usize = 8;

/// For benchmarks and tests only: sleeps for a fixed time for each page.
pub struct Paced {
    page: Duration,
    panics_at: Option<String>,
}

impl Paced {
    /// Creates an embedder that sleeps for `page` for each page.
    #[must_use]
    pub fn new(page: Duration) -> Self {
        Self {
            page,
            panics_at: None,
        }
    }

    /// For tests only: the computation of a page that contains `text` panics, as a fault of a model
    /// would.
    #[must_use]
    pub fn panicking_at(self, text: Option<String>) -> Self {
        Self {
            panics_at: text,
            ..self
        }
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

    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        let panics_at = self.panics_at.as_deref();
        let panics = panics_at.is_some_and(|text| page.text.contains(text));
        // A passage marks the page.
        let passages = if panics { vec![Vec::new()] } else { Vec::new() };
        Ok(Prepared {
            tokens: 1,
            content: PreparedContent::Passages(passages),
        })
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        let passages = pages.iter().filter_map(|page| page.passages());
        Ok(Batch {
            pages: pages.len(),
            content: BatchContent::Passages(passages.map(<[_]>::to_vec).collect()),
        })
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let mut pages = batch.passages().unwrap_or_default().iter();
        assert!(
            pages.all(Vec::is_empty),
            "a page of a test makes this panic"
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(model: &Paced, text: &str) -> usize {
        let page = PageInput { text, pixels: None };
        let page = model.prepare(&page).unwrap();
        let batch = model.upload(&[&page, &page]).unwrap();
        model.forward(batch).unwrap().len()
    }

    #[test]
    fn only_the_computation_of_the_given_text_panics() {
        let model = Paced::new(Duration::ZERO).panicking_at(Some("bad".to_owned()));
        assert_eq!(compute(&model, "a good page"), 2);
        let computed = std::panic::catch_unwind(|| compute(&model, "a bad page"));
        assert!(computed.is_err());
    }
}
