//! PDF documents, drawn by PDFium. Runs in the renderer: a process can have one instance of PDFium.
//!
//! Pages are drawn on white with annotations and form fields, as in a viewer.

use std::path::Path;

use pdfium_render::prelude::*;

use super::encode::Canvas;
use super::page_source::{MAX_TEXT_BYTES, PageSource};
use super::source::{DocumentFile, ReadFailure};
use super::{RenderError, Resolution, geometry};

/// Binds to the PDFium library at `path`.
pub(super) fn bind(path: &Path) -> Result<Pdfium, RenderError> {
    match Pdfium::bind_to_library(path) {
        Ok(bindings) => Ok(Pdfium::new(bindings)),
        Err(error) => Err(RenderError::Unavailable(format!(
            "the PDFium library {} cannot be loaded: {error}",
            path.display()
        ))),
    }
}

/// An open PDF.
pub(super) struct PdfSource<'a> {
    document: PdfDocument<'a>,
    max_pixels: u64,
    /// The bitmap that PDFium draws on, reused from page to page.
    bitmap: Vec<u8>,
    failure: ReadFailure,
}

impl<'a> PdfSource<'a> {
    /// Opens a PDF. It is read as needed while pages are drawn.
    pub(super) fn open(
        pdfium: &'a Pdfium,
        file: &Path,
        memory_limit_bytes: u64,
    ) -> Result<Self, RenderError> {
        let file = DocumentFile::open(file)?;
        let failure = file.failure();
        let document = pdfium
            .load_pdf_from_reader(file, None)
            .map_err(|error| match error {
                PdfiumError::PdfiumLibraryInternalError(PdfiumInternalError::PasswordError) => {
                    RenderError::Encrypted
                }
                PdfiumError::PdfiumLibraryInternalError(PdfiumInternalError::SecurityError) => {
                    RenderError::Unsupported("unknown encryption method".to_owned())
                }
                _ => RenderError::Damaged("no PDF structure found".to_owned()),
            })
            .map_err(|error| failure.or(error))?;
        let max_pixels = geometry::max_pixels(memory_limit_bytes);
        Ok(Self {
            document,
            max_pixels,
            bitmap: Vec::new(),
            failure,
        })
    }

    fn draw_page(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<String, RenderError> {
        let damaged = |detail: &str| RenderError::DamagedPage {
            page,
            detail: detail.to_owned(),
        };
        let index = i32::try_from(page).map_err(|_| damaged("the page number is too high"))?;
        let page = self
            .document
            .pages()
            .get(index)
            .map_err(|_| damaged("it cannot be loaded"))?;
        let points = |side: PdfPoints| f64::from(side.value);
        let (width, height) = (points(page.width()), points(page.height()));
        let dpi = geometry::dpi(resolution, width / 72.0, height / 72.0);
        let (width, height) = geometry::page_size(width, height, dpi, self.max_pixels);

        let bytes = 4 * width as usize * height as usize;
        self.bitmap.clear();
        self.bitmap
            .try_reserve_exact(bytes)
            .map_err(|_| RenderError::OutOfMemory)?;
        self.bitmap.resize(bytes, 0xff);
        let (columns, rows) = (width.cast_signed(), height.cast_signed());
        let mut bitmap =
            PdfBitmap::from_bytes(columns, rows, PdfBitmapFormat::BGRx, &mut self.bitmap)
                .map_err(|_| RenderError::OutOfMemory)?;
        // The bitmap is already white. PDFium's "reversed" byte order is RGB.
        let config = PdfRenderConfig::new()
            .set_fixed_size(columns, rows)
            .set_format(PdfBitmapFormat::BGRx)
            .set_reverse_byte_order(true)
            .clear_before_rendering(false);
        page.render_into_bitmap_with_config(&mut bitmap, &config)
            .map_err(|_| damaged("it cannot be rendered"))?;
        drop(bitmap);

        canvas.width = width;
        canvas.height = height;
        without_fourth_byte(&self.bitmap, &mut canvas.rgb)?;
        Ok(text(&page))
    }
}

impl PageSource for PdfSource<'_> {
    fn pages(&self) -> u32 {
        u32::try_from(self.document.pages().len()).unwrap_or(0)
    }

    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<String, RenderError> {
        // PDFium leaves out what it cannot read, and reports success.
        let drawn = self.draw_page(page, resolution, canvas);
        self.failure.check()?;
        drawn
    }
}

fn without_fourth_byte(rgbx: &[u8], rgb: &mut Vec<u8>) -> Result<(), RenderError> {
    let (pixels, _) = rgbx.as_chunks::<4>();
    rgb.clear();
    rgb.try_reserve_exact(3 * pixels.len())
        .map_err(|_| RenderError::OutOfMemory)?;
    rgb.resize(3 * pixels.len(), 0);
    let (places, _) = rgb.as_chunks_mut::<3>();
    for (place, [red, green, blue, _]) in places.iter_mut().zip(pixels) {
        *place = [*red, *green, *blue];
    }
    Ok(())
}

/// The page's text in the order in which the document draws it; empty if it cannot be read, because
/// the image is still good.
fn text(page: &PdfPage<'_>) -> String {
    let Ok(text) = page.text() else {
        return String::new();
    };
    let units = text.chars();
    cleaned(units.iter().map(|unit| unit.unicode_value()))
}

/// Decodes UTF-16 units or code points: pairs surrogates, drops control characters, ends lines with
/// one `\n`, and joins words that were hyphenated at the end of a line.
fn cleaned(units: impl Iterator<Item = u32>) -> String {
    /// PDFium's code points for a hyphen at the end of a line.
    const LINE_END_HYPHENS: [char; 2] = ['\u{2}', '\u{fffe}'];
    let units = units.flat_map(|unit| {
        let mut pair = [0; 2];
        let code = char::from_u32(unit).map(|code| &*code.encode_utf16(&mut pair));
        match code {
            Some([one]) => [Some(*one), None],
            Some([high, low]) => [Some(*high), Some(*low)],
            _ => [u16::try_from(unit).ok(), None],
        }
    });
    let characters = char::decode_utf16(units.flatten()).map(|unit| unit.unwrap_or('\u{fffd}'));

    let mut text = String::new();
    let mut hyphenated = false;
    for character in characters {
        if text.len() + 4 > MAX_TEXT_BYTES {
            break;
        }
        match character {
            hyphen if LINE_END_HYPHENS.contains(&hyphen) => hyphenated = true,
            '\n' | '\r' if hyphenated => {}
            '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\n' => {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
            '\t' => text.push(' '),
            control if control.is_control() => {}
            other => {
                hyphenated = false;
                text.push(other);
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        cleaned(text.chars().map(u32::from))
    }

    #[test]
    fn lines_end_with_one_line_feed() {
        assert_eq!(clean("one\r\ntwo\r\n\r\nthree\r\n"), "one\ntwo\nthree");
    }

    #[test]
    fn hyphenated_words_are_joined() {
        assert_eq!(clean("inter\u{2}\r\nnational"), "international");
        assert_eq!(clean("inter\u{fffe}\r\nnational"), "international");
    }

    #[test]
    fn surrogate_pairs_become_one_character() {
        assert_eq!(cleaned([0xd83d, 0xde00, 0x41].into_iter()), "😀A");
        assert_eq!(cleaned([0x1f600, 0xd83d].into_iter()), "😀\u{fffd}");
    }

    #[test]
    fn control_characters_are_dropped() {
        assert_eq!(clean("a\0b\u{7}c"), "abc");
    }

    #[test]
    fn long_text_is_cut_off() {
        assert!(cleaned(std::iter::repeat_n(0x4e2d, MAX_TEXT_BYTES)).len() <= MAX_TEXT_BYTES);
    }
}
