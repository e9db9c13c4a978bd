//! What every format of document is to the renderer: pages that can be drawn, one after the other.

use super::encode::Canvas;
use super::{RenderError, Resolution};

/// Pages that can be drawn.
pub(super) trait PageSource {
    /// How many.
    fn pages(&self) -> u32;

    /// Draws a page (counted from 0); returns its text.
    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<String, RenderError>;
}
