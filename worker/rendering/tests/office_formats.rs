//! Variants of the office formats, converted by the real LibreOffice: templates, macros, flat XML,
//! drawings; and sheets that are refused before.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use common::renderer::{at, file, options};
use layra_rendering::{RenderOptions, Renderer};

/// A sheet with a value in the first and in the very last cell.
const LAST_CELL: &[u8] = include_bytes!("../../tests/fieldfiles/files/last-cell.xlsx");

#[tokio::test]
async fn variants_of_office_formats_become_pages() {
    let scratch = tempfile::tempdir().unwrap();
    let renderer = Renderer::new(RenderOptions {
        scratch: scratch.path().to_owned(),
        memory_limit_bytes: 1 << 30,
        ..options()
    });
    let cases: [(&str, &[u8], &str); 9] = [
        (
            "docx",
            include_bytes!("fixtures/office/text.docm"),
            "Quarterly report",
        ),
        (
            "docx",
            include_bytes!("fixtures/office/text.dotx"),
            "Quarterly report",
        ),
        (
            "fodt",
            include_bytes!("fixtures/office/text.fodt"),
            "Quarterly report",
        ),
        (
            "xlsx",
            include_bytes!("fixtures/office/sheet.xlsm"),
            "Apples",
        ),
        (
            "fods",
            include_bytes!("fixtures/office/sheet.fods"),
            "Apples",
        ),
        (
            "pptx",
            include_bytes!("fixtures/office/slide.pptm"),
            "Roadmap",
        ),
        (
            "pptx",
            include_bytes!("fixtures/office/slide.ppsx"),
            "Roadmap",
        ),
        (
            "fodp",
            include_bytes!("fixtures/office/slide.fodp"),
            "Roadmap",
        ),
        ("odg", include_bytes!("fixtures/office/drawing.odg"), ""),
    ];
    for (number, (expected, content, words)) in cases.into_iter().enumerate() {
        let (_directory, path) = file(content);
        let mut format = String::new();
        let document = renderer.open_reporting(&path, &mut format).await;
        let mut document = document.unwrap_or_else(|error| panic!("{number} {expected}: {error}"));
        assert_eq!(format, expected, "{number}");
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
async fn a_sheet_that_reaches_too_far_never_reaches_libreoffice() {
    let renderer = Renderer::new(RenderOptions {
        soffice: "/nowhere/soffice.bin".into(),
        ..options()
    });
    let (_directory, path) = file(LAST_CELL);
    let error = renderer.open(&path).await.unwrap_err();
    assert_eq!(error.reason(), "TooLarge");
    assert!(error.to_string().contains("XFD1048576"), "{error}");
    assert!(error.is_document_fault());
}
