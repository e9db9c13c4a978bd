//! A document of the worker's own: whether renderers work at all is known before any task is taken.

use super::{ImageFormat, OFFICE_PREFIX, PageRequest, RenderError, Renderer, Resolution};

/// A page of 108 x 72 points with the word "Ready", and a red square in the lower left corner.
const DOCUMENT: &[u8] = include_bytes!("self_test.pdf");

impl Renderer {
    /// Renders a built-in document. An error says what is wrong with the image, the node or the
    /// sandbox.
    pub async fn self_test(&self) -> Result<(), RenderError> {
        let io = |error: std::io::Error| RenderError::Io(error.to_string());
        let scratch = &self.options.scratch;
        std::fs::create_dir_all(scratch).map_err(io)?;
        // Of a worker that dies, the next one removes directories with this prefix.
        let directory = tempfile::Builder::new()
            .prefix(OFFICE_PREFIX)
            .tempdir_in(scratch)
            .map_err(io)?;
        let file = directory.path().join("self-test");
        std::fs::write(&file, DOCUMENT).map_err(io)?;
        let drawn = async {
            let mut document = self.open(&file).await?;
            let request = PageRequest {
                page: 0,
                resolution: Resolution::Dpi(72),
                format: ImageFormat::Png,
                quality: 100,
                pixels: true,
            };
            document.render(request).await
        };
        let page = drawn.await.map_err(RenderError::before_the_document)?;
        let pixels = page.pixels.as_deref().unwrap_or_default();
        let first_of_last_row = pixels.get(3 * 108 * 71..).and_then(<[u8]>::first_chunk);
        if (page.width, page.height) != (108, 72) || first_of_last_row != Some(&[255, 0, 0]) {
            let message = "the built-in document is drawn wrongly".to_owned();
            return Err(RenderError::Unavailable(message));
        }
        Ok(())
    }
}
