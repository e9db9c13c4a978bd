//! What is asked about a page, and what it becomes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{PageFacts, encode};

/// A page to render, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The page, counted from 0.
    pub page: u32,
    /// Resolution. Pages of more than 40 million pixels, or 16 383 on a side, get a lower one.
    /// Images are scaled down to the long side of A4, and never up.
    pub resolution: Resolution,
    /// Format of the page image.
    pub format: ImageFormat,
    /// Quality of WebP, 1 to 100.
    pub quality: u8,
    /// Whether the pixels are needed, too.
    pub pixels: bool,
}

/// Format of a page image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageFormat {
    /// Lossless.
    Png,
    /// Lossy and smaller.
    WebP,
}

/// Resolution of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// Dots per inch.
    Dpi(u32),
    /// The lowest resolution that is legible and gives the model all pixels that it can use: 100 to
    /// 300 dots per inch.
    Auto {
        /// Largest number of pixels that the model uses; 0 for a model that reads text.
        pixels: u32,
    },
}

/// A page as image and text.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedPage {
    /// The page, counted from 0.
    pub page: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The page image as the bytes of a file.
    pub encoded: Bytes,
    /// The pixels, if they were requested: RGB, one byte each, row by row.
    pub pixels: Option<Bytes>,
    /// The text of the page, in the document's order; empty for images.
    pub text: String,
    /// What else is known of it.
    pub facts: PageFacts,
}

impl RenderedPage {
    /// Whether this is what was requested. The page was checked in itself before.
    pub(super) fn answers(&self, request: &PageRequest) -> bool {
        let format = encode::header(&self.encoded).map(|(format, _, _)| format);
        self.page == request.page
            && self.pixels.is_some() == request.pixels
            && format == Some(request.format)
    }
}
