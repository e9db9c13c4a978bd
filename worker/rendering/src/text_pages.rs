//! Pages of text, drawn by `resvg` in the fonts of the image. Runs in the renderer.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use resvg::usvg::{FontFamily, FontResolver, Options, Tree};

use super::encode::Canvas;
use super::fonts::Fonts;
use super::page_source::{Drawn, PageSource};
use super::text_file::{self, TextKind};
use super::{RenderError, Resolution, epub, geometry, svg, text_layout};

/// A4, in points.
const PAGE: (f32, f32) = (595.0, 842.0);
/// Where the first line starts: its left end and its base line.
const ORIGIN: (f32, f32) = (57.0, 66.0);
/// Size of the letters: a column is 0.602 of it.
const FONT_SIZE: f32 = 10.0;
/// Between two lines.
const LEADING: f32 = 13.0;

/// An open text.
pub(super) struct TextSource {
    text: String,
    pages: Vec<Range<usize>>,
    fonts: Fonts,
    max_pixels: u64,
}

impl TextSource {
    pub(super) fn open(
        file: &Path,
        kind: TextKind,
        max_pages: u32,
        memory_limit_bytes: u64,
    ) -> Result<Self, RenderError> {
        Self::of(text_file::read(file, kind)?, max_pages, memory_limit_bytes)
    }

    /// A book, of which each chapter starts on a page of its own.
    pub(super) fn open_epub(
        file: &Path,
        max_pages: u32,
        memory_limit_bytes: u64,
    ) -> Result<Self, RenderError> {
        Self::of(epub::read(file)?, max_pages, memory_limit_bytes)
    }

    fn of(text: String, max_pages: u32, memory_limit_bytes: u64) -> Result<Self, RenderError> {
        // One more page is enough to know that there are too many.
        let pages = text_layout::pages(&text, max_pages as usize + 1);
        if pages.is_empty() {
            return Err(RenderError::Empty("it has no text".to_owned()));
        }
        Ok(Self {
            fonts: Fonts::load(&text),
            text,
            pages,
            max_pixels: geometry::max_pixels(memory_limit_bytes),
        })
    }

    /// A drawing of a page.
    fn drawing(&self, page: &str) -> String {
        let (width, height) = PAGE;
        let mut drawing = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' \
             font-size='{FONT_SIZE}' xml:space='preserve'>"
        );
        let (left, mut base) = ORIGIN;
        for line in text_layout::lines(page) {
            if !line.trim().is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(drawing, "<text x='{left}' y='{base}'>");
                self.draw_line(line, &mut drawing);
                drawing.push_str("</text>");
            }
            base += LEADING;
        }
        drawing.push_str("</svg>");
        drawing
    }

    /// The parts of a line, each in a font that has its letters.
    fn draw_line(&self, line: &str, drawing: &mut String) {
        let (mut column, mut font) = (0, None);
        for letter in line.chars() {
            let next = text_layout::next_column(column, letter);
            let found = match letter {
                // They are in all fonts.
                ' ' | '\t' => font.or(Some(0)),
                // What belongs to the letter before stays with it.
                _ if next == column && font.is_some() => font,
                letter => self.fonts.place_of(letter).or(font).or(Some(0)),
            };
            if found != font {
                if font.is_some() {
                    drawing.push_str("</tspan>");
                }
                let _ = write!(drawing, "<tspan font-family='f{}'>", found.unwrap_or(0));
                font = found;
            }
            match letter {
                '\t' => drawing.extend(std::iter::repeat_n('\u{a0}', next - column)),
                ' ' => drawing.push('\u{a0}'),
                '<' => drawing.push_str("&lt;"),
                '&' => drawing.push_str("&amp;"),
                '\u{fffe}' | '\u{ffff}' => drawing.push('\u{fffd}'),
                letter => drawing.push(letter),
            }
            column = next;
        }
        if font.is_some() {
            drawing.push_str("</tspan>");
        }
    }
}

impl PageSource for TextSource {
    fn pages(&self) -> u32 {
        u32::try_from(self.pages.len()).unwrap_or(u32::MAX)
    }

    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<Drawn, RenderError> {
        let range = self.pages.get(page as usize).cloned().unwrap_or_default();
        let text = &self.text[range];
        let fonts = &self.fonts;
        let options = Options {
            fontdb: fonts.database(),
            font_resolver: FontResolver {
                select_font: Box::new(|font, _| match font.families() {
                    [FontFamily::Named(name), ..] => {
                        fonts.id(name.strip_prefix('f')?.parse().ok()?)
                    }
                    _ => None,
                }),
                // Every letter has its font.
                select_fallback: Box::new(|_, _, _| None),
            },
            ..Options::default()
        };
        let tree = Tree::from_str(&self.drawing(text), &options).map_err(|error| {
            let detail = format!("its text cannot be drawn: {error}");
            RenderError::DamagedPage { page, detail }
        })?;
        // Letters of some scripts are wider than their columns.
        let (width, _) = PAGE;
        let right = tree.root().abs_bounding_box().right() + ORIGIN.0 / 2.0;
        svg::paint(
            &tree,
            (width / right).min(1.0),
            resolution,
            self.max_pixels,
            canvas,
            PAGE,
        )?;
        Ok(Drawn {
            missing_scripts: fonts.missing_scripts(text),
            text: text.trim_end().to_owned(),
            points: Some(PAGE),
            ..Drawn::default()
        })
    }
}
