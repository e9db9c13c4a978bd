//! The renderer's view of every document format: pages that can be drawn one by one.

use super::encode::Canvas;
use super::{RenderError, Resolution};

/// Longest text of a page in bytes; the rest is cut off. A dense page has 10 KiB.
pub(super) const MAX_TEXT_BYTES: usize = 1024 * 1024;

pub(super) trait PageSource {
    /// Number of pages.
    fn pages(&self) -> u32;

    /// Draws a page (counted from 0) and returns its text.
    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<String, RenderError>;
}
