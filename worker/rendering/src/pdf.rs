//! PDF documents, drawn by PDFium. Runs in the renderer: a process can have one instance of PDFium.
//!
//! Pages are drawn on white with annotations and form fields, as in a viewer.

use std::cell::OnceCell;
use std::path::Path;

use pdfium_render::prelude::*;

use super::encode::Canvas;
use super::page_source::{Drawn, PageSource};
use super::pdf_copy::PdfCopy;
use super::pdf_structure::{self, Structure};
use super::pdf_text::{self, DrawnPixels};
use super::source::{DocumentFile, ReadFailure};
use super::words::{self, Word};
use super::{DocumentWarning, RenderError, Resolution, encode, geometry};

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
    pdfium: &'a Pdfium,
    document: PdfDocument<'a>,
    file: DocumentFile,
    structure: Structure,
    /// For the text of pages of which not everything is seen, or more than the page's content.
    copy: OnceCell<Option<PdfCopy<'a>>>,
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
            .load_pdf_from_reader(file.clone(), None)
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
        let pages = usize::try_from(document.pages().len()).unwrap_or(0);
        let structure = Structure::read(&file, pages);
        failure.check()?;
        Ok(Self {
            pdfium,
            document,
            file,
            structure,
            copy: OnceCell::new(),
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
    ) -> Result<Drawn, RenderError> {
        let damaged = |detail: &str| RenderError::DamagedPage {
            page,
            detail: detail.to_owned(),
        };
        let unit = self.structure.units.get(page as usize);
        let unit = unit.copied().unwrap_or(1.0);
        let index = i32::try_from(page).map_err(|_| damaged("the page number is too high"))?;
        let page = self
            .document
            .pages()
            .get(index)
            .map_err(|_| damaged("it cannot be loaded"))?;
        let points = |side: PdfPoints| f64::from(side.value);
        let (width, height) = (unit * points(page.width()), unit * points(page.height()));
        #[allow(
            clippy::cast_possible_truncation,
            reason = "it is no longer than a page's size"
        )]
        let size = (width as f32, height as f32);
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
        encode::give_back(&mut self.bitmap);
        let drawn = DrawnPixels {
            config: &config,
            width,
            height,
            rgb: &canvas.rgb,
        };
        let text = pdf_text::text(&page, self.seen_text(index, &page));
        let missing_scripts = if pdf_text::may_lack_glyphs(&text) {
            pdf_text::missing_scripts(&page, &drawn)
        } else {
            Vec::new()
        };
        Ok(Drawn {
            points: Some(size).filter(|(width, height)| (width + height).is_finite()),
            orientation: match page.rotation() {
                Ok(PdfPageRenderRotation::Degrees90) => 6,
                Ok(PdfPageRenderRotation::Degrees180) => 3,
                Ok(PdfPageRenderRotation::Degrees270) => 8,
                _ => 1,
            },
            missing_scripts,
            text,
        })
    }

    /// The text of a page without its form fields, where it is not simply that of its content.
    fn seen_text(&self, index: i32, page: &PdfPage<'_>) -> Option<Vec<u32>> {
        let hidden = &self.structure.hidden_layers;
        if hidden.is_empty() && !pdf_text::has_worded_annotations(page) {
            return None;
        }
        let open = || PdfCopy::open(self.pdfium, pdf_structure::whole(&self.file)?);
        self.copy.get_or_init(open).as_ref()?.text(index, hidden)
    }
}

impl PageSource for PdfSource<'_> {
    fn pages(&self) -> u32 {
        u32::try_from(self.document.pages().len()).unwrap_or(0)
    }

    fn warnings(&self) -> Vec<DocumentWarning> {
        let form = self.document.form().map(PdfForm::form_type);
        let is_xfa = form == Some(PdfFormType::XfaFull);
        is_xfa
            .then_some(DocumentWarning::XfaForm)
            .into_iter()
            .collect()
    }

    fn words(&self, page: u32) -> Vec<Word> {
        // PDFium's text has what hidden layers hold.
        if !self.structure.hidden_layers.is_empty() {
            return Vec::new();
        }
        let index = i32::try_from(page).unwrap_or(i32::MAX);
        let page = self.document.pages().get(index);
        page.map(|page| words::of_page(&page)).unwrap_or_default()
    }

    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<Drawn, RenderError> {
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
