//! Detects the format of a file from its first bytes. File names are never used.
//!
//! The crate `file-format` was tried instead: it misses a PDF header behind other bytes, and does
//! not detect encryption, so ZIP and OLE would be parsed twice.

use image::ImageFormat as RasterFormat;

use super::epub;
use super::office_format::OfficeFormat;
use super::text_file::{self, TextKind};

/// Number of leading bytes that is enough to detect a format.
pub(super) const SNIFF_BYTES: usize = 1024;

/// Format of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DocumentFormat {
    /// A PDF document.
    Pdf,
    /// An image: a document of one page.
    Raster(RasterFormat),
    /// A JPEG 2000 picture.
    Jpeg2000,
    /// A drawing in SVG.
    Svg,
    /// A text.
    Text(TextKind),
    /// A book.
    Epub,
    /// A container that may hold an office document.
    Container(Container),
}

/// Containers of office documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    /// Office Open XML, `OpenDocument`.
    Zip,
    /// The binary formats of Office 97 to 2003.
    Ole,
    /// `OpenDocument` in one file of XML.
    Flat,
    /// No container, but a format that LibreOffice converts as well.
    Single(OfficeFormat),
}

impl DocumentFormat {
    /// The name that users know it by. What is in a container is known later.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Raster(format) => format.extensions_str().first().copied().unwrap_or("image"),
            Self::Jpeg2000 => "jp2",
            Self::Svg => "svg",
            Self::Text(kind) => kind.name(),
            Self::Epub => "epub",
            Self::Container(Container::Zip) => "zip",
            Self::Container(Container::Ole) => "ole",
            Self::Container(Container::Flat) => "fodt",
            Self::Container(Container::Single(format)) => format.extension(),
        }
    }
}

/// Whether the name is one of a picture's format.
pub(super) fn is_picture(name: &str) -> bool {
    let rasters = RASTERS.into_iter().map(DocumentFormat::Raster);
    let mut pictures = rasters.chain([DocumentFormat::Jpeg2000, DocumentFormat::Svg]);
    pictures.any(|picture| picture.name() == name)
}

/// Supported image formats; `image` may be able to read more.
const RASTERS: [RasterFormat; 7] = [
    RasterFormat::Png,
    RasterFormat::Jpeg,
    RasterFormat::WebP,
    RasterFormat::Tiff,
    RasterFormat::Gif,
    RasterFormat::Bmp,
    RasterFormat::Ico,
];

/// Beginnings of TIFF files with 64-bit offsets.
const BIG_TIFF: [&[u8]; 2] = [b"II\x2b\0\x08\0", b"MM\0\x2b\0\x08"];

/// The format of a file that starts with these bytes, or a description of what it seems to be.
pub(super) fn sniff(start: &[u8]) -> Result<DocumentFormat, &'static str> {
    // PDF readers accept a header anywhere within the first KiB.
    if contains(start, b"%PDF-") {
        return Ok(DocumentFormat::Pdf);
    }
    if let Ok(format) = image::guess_format(start)
        && RASTERS.contains(&format)
        // The two letters that a BMP starts with are those of a car maker, too.
        && !(format == RasterFormat::Bmp && text_file::sniff(start).is_some())
    {
        return Ok(DocumentFormat::Raster(format));
    }
    // `image` knows the file format, but not its beginning.
    if BIG_TIFF.iter().any(|magic| start.starts_with(magic)) {
        return Ok(DocumentFormat::Raster(RasterFormat::Tiff));
    }
    if JPEG_2000.iter().any(|magic| start.starts_with(magic)) {
        return Ok(DocumentFormat::Jpeg2000);
    }
    if is_svg(start) {
        return Ok(DocumentFormat::Svg);
    }
    if let Some(picture) = foreign_picture(start) {
        return Err(picture);
    }
    if epub::is_epub(start) {
        return Ok(DocumentFormat::Epub);
    }
    for (magic, container) in [
        (b"PK\x03\x04".as_slice(), Container::Zip),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Container::Ole),
        (b"{\\rtf", Container::Single(OfficeFormat::Rtf)),
        (b"\xffWPC", Container::Single(OfficeFormat::Wpd)),
        (b"HWP Document File V", Container::Single(OfficeFormat::Hwp)),
        // A metafile with a header that places it, and without.
        (b"\xd7\xcd\xc6\x9a", Container::Single(OfficeFormat::Wmf)),
        (b"\x01\0\x09\0\0\x03", Container::Single(OfficeFormat::Wmf)),
    ] {
        if start.starts_with(magic) {
            return Ok(DocumentFormat::Container(container));
        }
    }
    if start.starts_with(b"\x01\0\0\0") && start.get(40..44) == Some(b" EMF") {
        let format = OfficeFormat::Emf;
        return Ok(DocumentFormat::Container(Container::Single(format)));
    }
    if start.trim_ascii_start().starts_with(b"<") && contains(start, b"<office:document ") {
        return Ok(DocumentFormat::Container(Container::Flat));
    }
    if start.starts_with(b"%!PS") {
        return Err("PostScript: save it as PDF");
    }
    text_file::sniff(start)
        .map(DocumentFormat::Text)
        .ok_or("it is neither text nor a document, picture or drawing of a known format")
}

/// Beginnings of JPEG 2000 files: with boxes, and without.
const JPEG_2000: [&[u8]; 2] = [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"];

/// Whether markup is a drawing, and not a page of HTML with a drawing in it.
fn is_svg(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let start = start.trim_ascii_start().to_ascii_lowercase();
    let place = |word: &[u8]| start.windows(word.len()).position(|part| part == word);
    let Some(drawing) = place(b"<svg").or_else(|| place(b":svg")) else {
        return false;
    };
    start.starts_with(b"<") && place(b"<html").is_none_or(|page| page > drawing)
}

/// What to do about a picture that no kept decoder reads.
fn foreign_picture(start: &[u8]) -> Option<&'static str> {
    let brand = start.get(4..12)?.strip_prefix(b"ftyp")?;
    match brand {
        b"avif" | b"avis" => {
            Some("this is an AVIF picture, which the worker cannot read: save it as JPEG or PNG")
        }
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
            Some("this is a HEIC picture, which the worker cannot read: save it as JPEG or PNG")
        }
        _ => None,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_from_content() {
        let converted = |format| DocumentFormat::Container(Container::Single(format));
        let cases: [(&[u8], DocumentFormat); 20] = [
            (b"%PDF-1.7\n", DocumentFormat::Pdf),
            (b"\xef\xbb\xbfjunk\r\n%PDF-1.4", DocumentFormat::Pdf),
            (
                b"\x89PNG\r\n\x1a\n",
                DocumentFormat::Raster(RasterFormat::Png),
            ),
            (
                b"\xff\xd8\xff\xe0",
                DocumentFormat::Raster(RasterFormat::Jpeg),
            ),
            (
                b"RIFF\x00\x00\x00\x00WEBP",
                DocumentFormat::Raster(RasterFormat::WebP),
            ),
            (b"II*\x00", DocumentFormat::Raster(RasterFormat::Tiff)),
            (
                b"II\x2b\0\x08\0",
                DocumentFormat::Raster(RasterFormat::Tiff),
            ),
            (
                b"MM\0\x2b\0\x08",
                DocumentFormat::Raster(RasterFormat::Tiff),
            ),
            (b"GIF89a", DocumentFormat::Raster(RasterFormat::Gif)),
            (b"BM\x00\x00", DocumentFormat::Raster(RasterFormat::Bmp)),
            (
                b"\x00\x00\x01\x00",
                DocumentFormat::Raster(RasterFormat::Ico),
            ),
            (b"PK\x03\x04\x14", DocumentFormat::Container(Container::Zip)),
            (
                b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
                DocumentFormat::Container(Container::Ole),
            ),
            (b"{\\rtf1", converted(OfficeFormat::Rtf)),
            (b"\xffWPC\x10\0\0\0", converted(OfficeFormat::Wpd)),
            (
                b"HWP Document File V3.00 \x1a",
                converted(OfficeFormat::Hwp),
            ),
            (b"\xd7\xcd\xc6\x9a\0\0", converted(OfficeFormat::Wmf)),
            (b"\x01\0\x09\0\0\x03", converted(OfficeFormat::Wmf)),
            (
                &[b"\x01\0\0\0".as_slice(), &[7; 36], b" EMF"].concat(),
                converted(OfficeFormat::Emf),
            ),
            (
                b"<?xml version='1.0'?>\n<office:document xmlns:office='x'>",
                DocumentFormat::Container(Container::Flat),
            ),
        ];
        for (start, format) in cases {
            assert_eq!(sniff(start), Ok(format), "{start:?}");
        }
    }

    #[test]
    fn drawings_are_told_from_pages_with_drawings() {
        for start in [
            "<svg xmlns='http://www.w3.org/2000/svg'>",
            "\u{feff}\n<?xml version='1.0'?>\n<!-- a drawing --><svg>",
            "<?xml version='1.0'?><s:svg xmlns:s='http://www.w3.org/2000/svg'>",
        ] {
            assert_eq!(sniff(start.as_bytes()), Ok(DocumentFormat::Svg), "{start}");
        }
        for start in [
            "<html><body><svg>",
            "<!DOCTYPE HTML><HTML><svg>",
            "use <svg>",
        ] {
            let found = sniff(start.as_bytes());
            assert!(matches!(found, Ok(DocumentFormat::Text(_))), "{start}");
        }
        let jp2 = b"\0\0\0\x0cjP  \r\n\x87\n\0\0";
        assert_eq!(sniff(jp2), Ok(DocumentFormat::Jpeg2000));
        assert_eq!(sniff(b"\xff\x4f\xff\x51\0"), Ok(DocumentFormat::Jpeg2000));
    }

    #[test]
    fn texts_are_told_from_pictures_and_from_each_other() {
        for (start, kind) in [
            ("BMW and others", TextKind::Plain),
            ("# Title", TextKind::Plain),
            ("<?xml version='1.0'?><order/>", TextKind::Plain),
            ("fn main() {}", TextKind::Plain),
            ("<html><body>", TextKind::Html),
            ("From: a@example.org\nSubject: Offer\n\n", TextKind::Mail),
        ] {
            let found = sniff(start.as_bytes());
            assert_eq!(found, Ok(DocumentFormat::Text(kind)), "{start}");
        }
    }

    #[test]
    fn unsupported_formats_are_named() {
        assert!(sniff(b"%!PS-Adobe-3.0").unwrap_err().contains("PostScript"));
        for (brand, name) in [(b"avif", "AVIF"), (b"heic", "HEIC"), (b"mif1", "HEIC")] {
            let start = [b"\0\0\0\x1cftyp".as_slice(), brand].concat();
            assert!(sniff(&start).unwrap_err().contains(name));
        }
        assert!(sniff(&[0, 1, 2, 250]).unwrap_err().contains("neither text"));
    }

    #[test]
    fn a_pdf_header_after_the_first_kibibyte_is_ignored() {
        let mut file = vec![7; SNIFF_BYTES];
        file.extend_from_slice(b"%PDF-1.7");
        assert!(sniff(&file[..SNIFF_BYTES]).is_err());
    }
}
