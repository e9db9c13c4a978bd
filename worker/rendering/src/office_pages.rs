//! How many pages a text document or a presentation has at least, before LibreOffice lays it out:
//! slides and page breaks are counted, letters and paragraphs estimated so that no real document is
//! refused by mistake. Hidden slides count, too. Runs in the renderer.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};

use super::RenderError;
use super::office_archive::Archive;
use super::office_format::OfficeFormat;
use super::office_xml::{Tag, each_tag, text};

/// Letters on a page at most. A usual page has 3,000; seven points in one column are 16,000.
const PAGE_LETTERS: u64 = 20_000;
/// Paragraphs on a page at most, cells of tables included. A usual page has fifty.
const PAGE_PARAGRAPHS: u64 = 4000;

/// Checks the parts of an archive that have the pages. Other formats have none of them.
pub(super) fn check(
    archive: &mut Archive,
    format: OfficeFormat,
    max_pages: u32,
) -> Result<(), RenderError> {
    let part = match format {
        OfficeFormat::Docx => "word/document.xml",
        OfficeFormat::Odt
        | OfficeFormat::Odp
        | OfficeFormat::Odg
        | OfficeFormat::Sxw
        | OfficeFormat::Sxi
        | OfficeFormat::Sxd => "content.xml",
        OfficeFormat::Pptx => "ppt/presentation.xml",
        _ => return Ok(()),
    };
    match archive.reader(part) {
        Some(part) => check_markup(BufReader::new(part), format, max_pages),
        None => Ok(()),
    }
}

/// Checks the markup of a document's main part, or of a document in one file of XML.
pub(super) fn check_markup(
    markup: impl BufRead,
    format: OfficeFormat,
    max_pages: u32,
) -> Result<(), RenderError> {
    match format {
        OfficeFormat::Docx => check_docx(markup, max_pages),
        OfficeFormat::Odt | OfficeFormat::Fodt | OfficeFormat::Sxw => check_odt(markup, max_pages),
        OfficeFormat::Pptx => count_slides(markup, b"sldId", max_pages),
        OfficeFormat::Odp
        | OfficeFormat::Fodp
        | OfficeFormat::Odg
        | OfficeFormat::Fodg
        | OfficeFormat::Sxi
        | OfficeFormat::Sxd => count_slides(markup, b"page", max_pages),
        _ => Ok(()),
    }
}

/// What has been read of a text document.
pub(super) struct Length {
    max_pages: u32,
    breaks: u64,
    letters: u64,
    paragraphs: u64,
    /// Tables, frames and deleted passages around the present place: there, no break ends a page.
    inside: u64,
}

impl Length {
    pub(super) fn of(max_pages: u32) -> Self {
        Self {
            max_pages,
            breaks: 0,
            letters: 0,
            paragraphs: 0,
            inside: 0,
        }
    }

    pub(super) fn count_break(&mut self) -> Result<(), RenderError> {
        if self.inside == 0 {
            self.breaks = self.breaks.saturating_add(1);
        }
        self.check()
    }

    fn count_text(&mut self, text: &[u8]) -> Result<(), RenderError> {
        // In UTF-8, a letter has one byte that does not continue another one.
        let starts = |byte: &&u8| **byte & 0xc0 != 0x80 && !byte.is_ascii_whitespace();
        self.count_letters(text.iter().filter(starts).count() as u64)
    }

    pub(super) fn count_letters(&mut self, letters: u64) -> Result<(), RenderError> {
        self.letters = self.letters.saturating_add(letters);
        self.check()
    }

    pub(super) fn count_paragraph(&mut self) -> Result<(), RenderError> {
        self.paragraphs = self.paragraphs.saturating_add(1);
        self.check()
    }

    fn check(&self) -> Result<(), RenderError> {
        let estimates = [
            self.breaks,
            self.letters / PAGE_LETTERS,
            self.paragraphs / PAGE_PARAGRAPHS,
        ];
        too_many(estimates.into_iter().max().unwrap_or(0), self.max_pages)
    }
}

pub(super) fn too_many(pages: u64, limit: u32) -> Result<(), RenderError> {
    let pages = u32::try_from(pages).unwrap_or(u32::MAX);
    if pages > limit {
        return Err(RenderError::TooManyPages { pages, limit });
    }
    Ok(())
}

fn check_docx(markup: impl BufRead, max_pages: u32) -> Result<(), RenderError> {
    let mut length = Length::of(max_pages);
    let is_aside = |name: &[u8]| matches!(name, b"tbl" | b"txbxContent" | b"del" | b"Fallback");
    // Letters are in `w:t`. Instructions of fields are in others.
    let mut is_text = false;
    each_tag(markup, |tag| match tag {
        Tag::Start(element) if is_aside(element.local_name().as_ref()) => {
            length.inside = length.inside.saturating_add(1);
            Ok(())
        }
        Tag::End(name) => {
            if is_aside(&name) {
                length.inside = length.inside.saturating_sub(1);
            }
            is_text = false;
            Ok(())
        }
        Tag::Start(element) | Tag::Empty(element) => match element.local_name().as_ref() {
            b"p" => length.count_paragraph(),
            b"br" if text(&element, b"type").as_deref() == Some("page") => length.count_break(),
            name => {
                is_text = name == b"t";
                Ok(())
            }
        },
        Tag::Text(letters) if is_text => length.count_text(letters),
        Tag::Text(_) => Ok(()),
    })
}

fn check_odt(markup: impl BufRead, max_pages: u32) -> Result<(), RenderError> {
    let mut length = Length::of(max_pages);
    let is_aside = |name: &[u8]| matches!(name, b"table" | b"frame" | b"tracked-changes");
    // The style that is being defined, and those that begin a page. They come before the text.
    let (mut style, mut breaking) = (None, HashSet::new());
    // Paragraphs and headings around the present place.
    let mut paragraphs = 0_u64;
    each_tag(markup, |tag| match tag {
        Tag::Start(element) if is_aside(element.local_name().as_ref()) => {
            length.inside = length.inside.saturating_add(1);
            Ok(())
        }
        Tag::End(name) => {
            if is_aside(&name) {
                length.inside = length.inside.saturating_sub(1);
            }
            if matches!(name.as_slice(), b"p" | b"h") {
                paragraphs = paragraphs.saturating_sub(1);
            }
            Ok(())
        }
        Tag::Start(ref element) | Tag::Empty(ref element) => match element.local_name().as_ref() {
            // Default styles have no name.
            b"style" | b"default-style" => {
                style = text(element, b"name");
                Ok(())
            }
            // Of OpenDocument, and of OpenOffice.org 1.
            b"paragraph-properties" | b"properties" => {
                if text(element, b"break-before").as_deref() == Some("page") {
                    breaking.extend(style.take());
                }
                Ok(())
            }
            b"p" | b"h" => {
                if matches!(tag, Tag::Start(_)) {
                    paragraphs = paragraphs.saturating_add(1);
                }
                let style = text(element, b"style-name");
                if style.is_some_and(|style| breaking.contains(&style)) {
                    length.count_break()?;
                }
                length.count_paragraph()
            }
            _ => Ok(()),
        },
        Tag::Text(letters) if paragraphs > 0 => length.count_text(letters),
        Tag::Text(_) => Ok(()),
    })
}

fn count_slides(markup: impl BufRead, slide: &[u8], max_pages: u32) -> Result<(), RenderError> {
    let mut slides = 0_u64;
    each_tag(markup, |tag| {
        if let Tag::Start(element) | Tag::Empty(element) = tag
            && element.local_name().as_ref() == slide
        {
            slides = slides.saturating_add(1);
        }
        too_many(slides, max_pages)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(markup: &str, format: OfficeFormat, max_pages: u32) -> Result<(), RenderError> {
        check_markup(markup.as_bytes(), format, max_pages)
    }

    fn too_many(pages: u32, limit: u32) -> Result<(), RenderError> {
        Err(RenderError::TooManyPages { pages, limit })
    }

    #[test]
    fn page_breaks_of_word_are_pages() {
        let page = "<w:p><w:r><w:t>words</w:t><w:br w:type='page'/></w:r></w:p>";
        assert_eq!(check(&page.repeat(3), OfficeFormat::Docx, 3), Ok(()));
        assert_eq!(
            check(&page.repeat(4), OfficeFormat::Docx, 3),
            too_many(4, 3)
        );
        // Where they end no page.
        for (before, after) in [
            ("<w:tbl>", "</w:tbl>"),
            ("<w:txbxContent>", "</w:txbxContent>"),
            ("<w:del>", "</w:del>"),
            ("<mc:Fallback>", "</mc:Fallback>"),
        ] {
            let aside = format!("{before}{}{after}{}", page.repeat(9), page.repeat(2));
            assert_eq!(check(&aside, OfficeFormat::Docx, 2), Ok(()), "{before}");
        }
        let lines = "<w:p><w:r><w:br/><w:br w:type='column'/></w:r></w:p>".repeat(100);
        assert_eq!(check(&lines, OfficeFormat::Docx, 2), Ok(()));
    }

    #[test]
    fn more_letters_than_fit_are_pages() {
        // Three bytes each.
        let line = format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", "字".repeat(1000));
        assert_eq!(check(&line.repeat(59), OfficeFormat::Docx, 2), Ok(()));
        assert_eq!(
            check(&line.repeat(60), OfficeFormat::Docx, 2),
            too_many(3, 2)
        );
        let hidden = line.replace("w:t>", "w:instrText>").repeat(60);
        assert_eq!(check(&hidden, OfficeFormat::Docx, 2), Ok(()));
        let paragraphs = "<w:p/>".repeat(12_000);
        assert_eq!(check(&paragraphs, OfficeFormat::Docx, 2), too_many(3, 2));
        let line = format!(
            "<text:p>a<text:span>{}</text:span></text:p>",
            "x".repeat(999)
        );
        assert_eq!(check(&line.repeat(59), OfficeFormat::Odt, 2), Ok(()));
        assert_eq!(
            check(&line.repeat(60), OfficeFormat::Fodt, 2),
            too_many(3, 2)
        );
    }

    #[test]
    fn styles_of_opendocument_begin_pages() {
        let styles = "<style:style style:name='P1'><style:paragraph-properties \
            fo:break-before='page'/></style:style><style:style style:name='P2'>\
            <style:paragraph-properties fo:break-before='auto'/></style:style>";
        let page = "<text:h text:style-name='P1'>words</text:h><text:p text:style-name='P2'/>";
        let text = |pages| format!("{styles}{}", page.repeat(pages));
        assert_eq!(check(&text(3), OfficeFormat::Odt, 3), Ok(()));
        assert_eq!(check(&text(4), OfficeFormat::Odt, 3), too_many(4, 3));
        let table = format!("{styles}<table:table>{}</table:table>", page.repeat(9));
        assert_eq!(check(&table, OfficeFormat::Odt, 3), Ok(()));
    }

    #[test]
    fn slides_are_pages() {
        let slides = "<p:sldIdLst><p:sldId id='256' r:id='rId2'/><p:sldId id='257'/></p:sldIdLst>";
        assert_eq!(check(slides, OfficeFormat::Pptx, 2), Ok(()));
        assert_eq!(check(slides, OfficeFormat::Pptx, 1), too_many(2, 1));
        let drawing =
            "<style:master-page/><draw:page><draw:page-thumbnail/></draw:page><draw:page/>";
        for format in [OfficeFormat::Odp, OfficeFormat::Odg, OfficeFormat::Fodp] {
            assert_eq!(check(drawing, format, 2), Ok(()));
            assert_eq!(check(drawing, format, 1), too_many(2, 1));
        }
    }
}
