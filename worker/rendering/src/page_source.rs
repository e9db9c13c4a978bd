//! The renderer's view of every document format: pages that can be drawn one by one.

use super::encode::Canvas;
use super::words::Word;
use super::{DocumentWarning, RenderError, Resolution};

/// Longest text of a page in bytes; the rest is cut off. A dense page has 10 KiB.
pub(super) const MAX_TEXT_BYTES: usize = 1024 * 1024;

pub(super) trait PageSource {
    /// Number of pages.
    fn pages(&self) -> u32;

    /// What a user should know about the document as a whole.
    fn warnings(&self) -> Vec<DocumentWarning> {
        Vec::new()
    }

    /// The words of a page (counted from 0) and where they are drawn; none for an image.
    fn words(&self, _page: u32) -> Vec<Word> {
        Vec::new()
    }

    /// Draws a page (counted from 0).
    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<Drawn, RenderError>;
}

/// What is known of a page that was drawn.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    pub(super) text: String,
    /// Width and height in points; `None` for an image.
    pub(super) points: Option<(f32, f32)>,
    /// How it was turned, as EXIF numbers it; 0 is not known.
    pub(super) orientation: u8,
    /// Scripts with letters that have no font.
    pub(super) missing_scripts: Vec<String>,
}
