//! Variants of the office formats and files of other programs, converted by the real LibreOffice:
//! templates, macros, flat XML, drawings, old formats; and documents that are refused before.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::io::{Cursor, Write};

use common::documents::{Part, zip};
use common::renderer::{at, file, options};
use layra_rendering::{RenderError, RenderOptions, Renderer};

/// A sheet with a value in the first and in the very last cell.
const LAST_CELL: &[u8] = include_bytes!("../../tests/fieldfiles/files/last-cell.xlsx");

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/office/", $name)).as_slice()
    };
}

#[tokio::test]
async fn variants_of_office_formats_become_pages() {
    become_pages(&[
        ("docx", fixture!("text.docm"), "Quarterly report"),
        ("docx", fixture!("text.dotx"), "Quarterly report"),
        ("fodt", fixture!("text.fodt"), "Quarterly report"),
        ("xlsx", fixture!("sheet.xlsm"), "Apples"),
        ("fods", fixture!("sheet.fods"), "Apples"),
        ("pptx", fixture!("slide.pptm"), "Roadmap"),
        ("pptx", fixture!("slide.ppsx"), "Roadmap"),
        ("fodp", fixture!("slide.fodp"), "Roadmap"),
        ("odg", fixture!("drawing.odg"), ""),
    ])
    .await;
}

/// Their sources are in `fixtures/office/README.md`.
#[tokio::test]
async fn files_of_other_programs_become_pages() {
    become_pages(&[
        ("xlsb", fixture!("sheet.xlsb"), "Record"),
        ("xls", fixture!("sheet-95.xls"), "their Squares"),
        ("doc", fixture!("text-95.doc"), "The quick brown fox"),
        ("vsd", fixture!("drawing.vsd"), "Some random text"),
        ("vsdx", fixture!("drawing.vsdx"), "fancy"),
        ("pub", fixture!("text.pub"), "0123456789"),
        ("wpd", fixture!("text.wpd"), "FURTHER"),
        ("hwp", fixture!("text.hwp"), "test"),
        ("wps", fixture!("text.wps"), "Works"),
        ("sxw", fixture!("text.sxw"), "Marginalia"),
        ("sxc", fixture!("sheet.sxc"), ""),
        ("sxi", fixture!("slide.sxi"), ""),
        ("iwork", fixture!("slides.key"), "LIBREOFFICE"),
        ("iwork", fixture!("text.pages"), ""),
        ("wmf", fixture!("picture.wmf"), "test_embedded"),
        ("emf", fixture!("picture.emf"), "word"),
    ])
    .await;
}

/// Converts documents. Each must be taken for its format, have these words on its first page, and
/// not be blank.
async fn become_pages(cases: &[(&str, &[u8], &str)]) {
    let scratch = tempfile::tempdir().unwrap();
    let renderer = Renderer::new(RenderOptions {
        scratch: scratch.path().to_owned(),
        memory_limit_bytes: 1 << 30,
        ..options()
    });
    for (number, (expected, content, words)) in cases.iter().enumerate() {
        let (_directory, path) = file(content);
        let mut format = String::new();
        let document = renderer.open_reporting(&path, &mut format).await;
        let mut document = document.unwrap_or_else(|error| panic!("{number} {expected}: {error}"));
        assert_eq!(format, *expected, "{number}");
        let page = document.render(at(0, 72)).await.unwrap();
        assert!(
            page.text.contains(words),
            "{number} {expected}: {}",
            page.text
        );
        let pixels = page.pixels.unwrap();
        assert!(
            pixels.iter().any(|level| *level < 200),
            "{number} {expected} is blank"
        );
    }
}

#[tokio::test]
async fn what_libreoffice_does_not_read_is_refused_with_advice() {
    let hwpx = zip(&[Part::stored("mimetype", b"application/hwp+zip")]);
    let mut hwp = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
    let mut header = hwp.create_stream("/FileHeader").unwrap();
    header.write_all(b"HWP Document File\0\0\0").unwrap();
    drop(header);
    for content in [hwp.into_inner().into_inner(), hwpx] {
        let error = refused(&content).await;
        assert_eq!(error.reason(), "Unsupported");
        assert!(error.to_string().contains("Hangul 5"), "{error}");
    }
    let locked = zip(&[
        Part::stored("Index/Document.iwa", b"x"),
        Part::stored(".iwpv2", b"x"),
    ]);
    assert_eq!(refused(&locked).await, RenderError::Encrypted);
}

/// Opens a document where nothing can be converted: other errors than `Unsupported` come before.
async fn refused(content: &[u8]) -> RenderError {
    let renderer = Renderer::new(RenderOptions {
        soffice: "/nowhere/soffice.bin".into(),
        max_pages: 50,
        ..options()
    });
    let (_directory, path) = file(content);
    renderer.open(&path).await.unwrap_err()
}

/// An archive of Office Open XML.
fn office(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = vec![Part::stored("[Content_Types].xml", b"<x/>")];
    all.extend(
        parts
            .iter()
            .map(|(name, content)| Part::deflated(name, content)),
    );
    zip(&all)
}

/// A sheet of a binary workbook with a value in the first cell of the first row and in this one,
/// both from 0.
fn binary_sheet(row: u32, column: u32) -> Vec<u8> {
    let record = |kind: u8, number: u32| {
        let mut record = vec![kind, 12];
        record.extend(number.to_le_bytes());
        record.extend([0; 8]);
        record
    };
    [
        record(0, 0),
        record(5, 0),
        record(0, row),
        record(5, column),
    ]
    .concat()
}

#[tokio::test]
async fn a_sheet_that_reaches_too_far_never_reaches_libreoffice() {
    let binary = |row, column| {
        let sheet = binary_sheet(row, column);
        office(&[
            ("xl/workbook.bin", b"x"),
            ("xl/worksheets/sheet1.bin", &sheet),
        ])
    };
    // OpenOffice.org 1 names the type of a cell as OpenDocument does.
    let rows = "<table:table-row table:number-rows-repeated='1048575'/>";
    let cell = "<table:table-cell table:number-columns-repeated='16384' table:value-type='float'/>";
    let content =
        format!("<table:table>{rows}<table:table-row>{cell}</table:table-row></table:table>");
    let kind = b"<x media-type=\"application/vnd.sun.xml.calc\"/>";
    let old = zip(&[
        Part::stored("META-INF/manifest.xml", kind),
        Part::stored("content.xml", content.as_bytes()),
    ]);
    for content in [LAST_CELL, &binary(1_048_575, 16_383), &old] {
        let error = refused(content).await;
        assert_eq!(error.reason(), "TooLarge");
        assert!(error.to_string().contains("XFD1048576"), "{error}");
        assert!(error.is_document_fault());
    }
    let error = refused(&binary(99, 99)).await;
    assert_eq!(error.reason(), "Unsupported");
    assert!(error.to_string().contains("xlsb"), "{error}");
}

#[tokio::test]
async fn documents_with_too_many_pages_never_reach_libreoffice() {
    let text = |pages| "<w:p><w:r><w:br w:type='page'/></w:r></w:p>".repeat(pages);
    let docx = |pages| office(&[("word/document.xml", text(pages).as_bytes())]);
    let slides = |pages| format!("<p:sldIdLst>{}</p:sldIdLst>", "<p:sldId/>".repeat(pages));
    let pptx = |pages| office(&[("ppt/presentation.xml", slides(pages).as_bytes())]);
    let flat = |pages| {
        let pages = "<draw:page/>".repeat(pages);
        let kind = "application/vnd.oasis.opendocument.presentation";
        format!("<office:document office:mimetype=\"{kind}\">{pages}</office:document>")
    };
    let rtf = |pages| format!("{{\\rtf1 {}}}", r"\page ".repeat(pages)).into_bytes();
    let old_slides = |kind: &str, pages| {
        let kind = format!("<x media-type=\"application/vnd.sun.xml.{kind}\"/>");
        zip(&[
            Part::stored("META-INF/manifest.xml", kind.as_bytes()),
            Part::stored("content.xml", "<draw:page/>".repeat(pages).as_bytes()),
        ])
    };
    let sxw = |pages| {
        let style = "<style:style style:name='P'><style:properties fo:break-before='page'/>";
        let pages = "<text:p text:style-name='P'/>".repeat(pages);
        let content = format!(
            "<office:document-content>{style}</style:style>{pages}</office:document-content>"
        );
        let kind = b"<x media-type=\"application/vnd.sun.xml.writer\"/>";
        zip(&[
            Part::stored("META-INF/manifest.xml", kind),
            Part::stored("content.xml", content.as_bytes()),
        ])
    };
    for (what, sound, long) in [
        ("docx", docx(50), docx(51)),
        ("rtf", rtf(50), rtf(51)),
        ("sxw", sxw(50), sxw(51)),
        ("sxi", old_slides("impress", 50), old_slides("impress", 51)),
        ("sxd", old_slides("draw", 50), old_slides("draw", 51)),
        ("pptx", pptx(50), pptx(51)),
        ("fodp", flat(50).into_bytes(), flat(51).into_bytes()),
    ] {
        let error = refused(&sound).await;
        assert_eq!(error.reason(), "Unsupported", "{what}: {error}");
        let too_many = RenderError::TooManyPages {
            pages: 51,
            limit: 50,
        };
        assert_eq!(refused(&long).await, too_many, "{what}");
    }
}
