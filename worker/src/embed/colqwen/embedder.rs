//! The model behind the worker's trait: pages as pictures, vectors as plain numbers.

use candle_core::Tensor;

use super::{ColQwen, ColQwenError, RgbImage};
use crate::embed::{EmbedError, Embedder, MultiVector, PageInput};

impl Embedder for ColQwen {
    fn dimensions(&self) -> usize {
        self.width()
    }

    fn needs_pixels(&self) -> bool {
        true
    }

    fn embed_pages(&self, pages: &[PageInput<'_>]) -> Result<Vec<MultiVector>, EmbedError> {
        let images = pages.iter().map(image).collect::<Result<Vec<_>, _>>()?;
        let vectors = Self::embed_pages(self, &images)?;
        vectors.iter().map(rows).collect()
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        rows(&Self::embed_query(self, text)?)
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
            reason: "the page has no picture",
        }),
    }
}

fn rows(vectors: &Tensor) -> Result<MultiVector, EmbedError> {
    let width = vectors.dim(1)?;
    Ok(MultiVector::new(width, vectors.flatten_all()?.to_vec1()?))
}
