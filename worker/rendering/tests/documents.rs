//! Documents rendered by real renderer processes with the real PDFium.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::io::Cursor;

use common::documents::{Page, pdf};
use common::renderer::{at, first_page, open, options};
use image::{DynamicImage, RgbImage, RgbaImage};
use layra_rendering::{
    ImageFormat, PageRequest, RenderError, RenderOptions, RenderedPage, Renderer,
};

fn pixel(page: &RenderedPage, x: u32, y: u32) -> [u8; 3] {
    let start = 3 * (y * page.width + x) as usize;
    page.pixels.as_ref().unwrap()[start..start + 3]
        .try_into()
        .unwrap()
}

/// The bytes of an image file.
fn image_file(image: &DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn pages_have_an_image_and_text() {
    let document = pdf(&[
        Page::with_text(&["The quick brown fox", "jumps over the lazy dog"]),
        Page::with_text(&["Second page"]),
    ]);
    let mut document = open(&document).await.unwrap();
    assert_eq!(document.pages(), 2);

    let first = document.render(at(0, 150)).await.unwrap();
    assert_eq!((first.width, first.height), (1275, 1650));
    assert_eq!(first.text, "The quick brown fox\njumps over the lazy dog");
    let stored = image::load_from_memory(&first.encoded).unwrap().to_rgb8();
    assert_eq!(
        stored.as_raw().as_slice(),
        &first.pixels.as_ref().unwrap()[..]
    );
    assert_eq!(pixel(&first, 0, 0), [255, 255, 255]);
    assert!(
        stored.pixels().any(|pixel| pixel.0 == [0, 0, 0]),
        "the text is black"
    );

    let request = PageRequest {
        format: ImageFormat::WebP,
        pixels: false,
        ..at(1, 100)
    };
    let second = document.render(request).await.unwrap();
    assert_eq!(second.text, "Second page");
    assert_eq!(second.pixels, None);
    let format = image::guess_format(&second.encoded).unwrap();
    assert_eq!(format, image::ImageFormat::WebP);
}

#[tokio::test]
async fn colours_keep_their_channels() {
    let mut page = Page::of_size(72.0, 72.0);
    page.content = "1 0 0 rg 0 36 36 36 re f 0 0 1 rg 36 36 36 36 re f".to_owned();
    let page = first_page(&pdf(&[page]), 72).await.unwrap();
    assert_eq!(pixel(&page, 10, 10), [255, 0, 0]);
    assert_eq!(pixel(&page, 60, 10), [0, 0, 255]);
    assert_eq!(pixel(&page, 10, 60), [255, 255, 255]);
}

#[tokio::test]
async fn text_of_cropped_and_rotated_pages_is_found() {
    let mut moved = Page::with_text(&["Moved box"]);
    moved.content = "BT /F1 18 Tf 5072 4700 Td (Moved box) Tj ET".to_owned();
    let moved = moved.extra("/CropBox [5000 4000 5612 4792] /MediaBox [5000 4000 5612 4792]");
    let turned = Page::with_text(&["Turned page"]).extra("/Rotate 90");
    let mut document = open(&pdf(&[moved, turned])).await.unwrap();
    assert_eq!(document.render(at(0, 72)).await.unwrap().text, "Moved box");
    let turned = document.render(at(1, 72)).await.unwrap();
    assert_eq!(turned.text, "Turned page");
    assert_eq!((turned.width, turned.height), (792, 612));
}

#[tokio::test]
async fn huge_pages_are_scaled_down_and_tiny_ones_are_one_pixel() {
    let pages = [(14_400.0, 14_400.0), (0.5, 0.5), (3.0, 14_400.0)];
    let pages: Vec<Page> = pages
        .iter()
        .map(|(width, height)| Page::of_size(*width, *height))
        .collect();
    let mut document = open(&pdf(&pages)).await.unwrap();
    let huge = document.render(at(0, 300)).await.unwrap();
    assert!(u64::from(huge.width) * u64::from(huge.height) <= 40_000_000);
    assert!(huge.width > 5000);
    let tiny = document.render(at(1, 72)).await.unwrap();
    assert_eq!((tiny.width, tiny.height), (1, 1));
    let long = document.render(at(2, 600)).await.unwrap();
    assert!(long.height <= 16_383 && long.width >= 1);
}

#[tokio::test]
async fn documents_that_cannot_be_opened_say_why() {
    let sound = pdf(&[Page::with_text(&["Some text"])]);
    let many = pdf(&vec![Page::of_size(10.0, 10.0); 51]);
    let encrypted = include_bytes!("fixtures/encrypted.pdf");
    let cases: [(&str, &[u8], &str); 10] = [
        ("no bytes", b"", "Empty"),
        ("no pages", &pdf(&[]), "Empty"),
        ("51 pages", &many, "TooManyPages"),
        ("a password", encrypted, "Encrypted"),
        ("only a header", b"%PDF-1.7\n", "Damaged"),
        ("half a header", &sound[..40], "Damaged"),
        ("noise", &[0, 1, 2, 250], "Unsupported"),
        ("only spaces", b" \n \n", "Empty"),
        ("half a ZIP archive", b"PK\x03\x04", "Damaged"),
        ("half a PNG header", b"\x89PNG\r\n\x1a\n\0\0\0", "Damaged"),
    ];
    for (what, content, reason) in cases {
        let error = open(content).await.expect_err(what);
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert!(error.is_document_fault(), "{what}");
    }
}

#[tokio::test]
async fn a_missing_file_is_not_a_document_fault() {
    let error = Renderer::new(options())
        .open("/nowhere/at/all".as_ref())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "Io");
    assert!(!error.is_document_fault());
}

#[tokio::test]
async fn a_missing_library_is_not_a_document_fault() {
    let (_directory, path) = common::renderer::file(&pdf(&[Page::of_size(10.0, 10.0)]));
    let options = RenderOptions {
        pdfium: "/nowhere/libpdfium.so".into(),
        ..options()
    };
    let error = Renderer::new(options).open(&path).await.unwrap_err();
    assert_eq!(error.reason(), "RendererUnavailable");
    assert!(error.to_string().contains("/nowhere/libpdfium.so"));
}

#[tokio::test]
async fn encryption_with_an_empty_password_is_opened() {
    let page = first_page(include_bytes!("fixtures/blank-password.pdf"), 72)
        .await
        .unwrap();
    assert_eq!(page.text, "Secret report");
}

#[tokio::test]
async fn a_wrong_cross_reference_table_is_repaired() {
    let sound = String::from_utf8(pdf(&[Page::with_text(&["Still here"])])).unwrap();
    let (body, table) = sound.rsplit_once("xref\n0 ").unwrap();
    let elsewhere = table.replace("\n00000", "\n00009");
    let no_such_place = table.replace("startxref\n", "startxref\n99");
    for table in [elsewhere, no_such_place] {
        let wrong = format!("{body}xref\n0 {table}");
        assert_ne!(wrong, sound);
        assert_eq!(
            first_page(wrong.as_bytes(), 72).await.unwrap().text,
            "Still here"
        );
    }
}

#[tokio::test]
async fn a_truncated_document_renders_partly_or_is_damaged() {
    let sound = pdf(&vec![Page::with_text(&["A line of text"]); 3]);
    let mut damaged = 0;
    for length in (10..sound.len()).step_by(97) {
        match first_page(&sound[..length], 72).await {
            Ok(page) => assert!(page.text.is_empty() || page.text == "A line of text"),
            Err(error) => {
                assert!(error.is_document_fault(), "{length} bytes: {error}");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0, "without the trailer there is no document");
}

#[tokio::test]
async fn a_damaged_page_does_not_affect_others() {
    let sound = String::from_utf8(pdf(&[
        Page::with_text(&["Good"]),
        Page::with_text(&["Bad"]),
    ]));
    let broken = sound.unwrap().replace("4 0 R 6 0 R", "4 0 R 5 0 R");
    let mut document = open(broken.as_bytes()).await.unwrap();
    let bad = document.render(at(1, 72)).await;
    assert!(bad.is_err() || bad.unwrap().text.is_empty());
    assert_eq!(document.render(at(0, 72)).await.unwrap().text, "Good");
}

#[tokio::test]
async fn a_page_that_is_another_object_is_damaged() {
    let pages = ["Good", "Bad", "Good, too"].map(|text| Page::with_text(&[text]));
    let sound = String::from_utf8(pdf(&pages)).unwrap();
    // The object of the font.
    let broken = sound.replace("4 0 R 6 0 R", "4 0 R 3 0 R");
    let mut document = open(broken.as_bytes()).await.unwrap();
    assert_eq!(document.pages(), 3);
    let error = document.render(at(1, 72)).await.unwrap_err();
    assert_eq!(error.reason(), "DamagedPage", "{error}");
    assert!(document.is_open());
    assert_eq!(document.render(at(2, 72)).await.unwrap().text, "Good, too");
}

#[tokio::test]
async fn a_nonexistent_page_is_not_a_document_fault() {
    let mut document = open(&pdf(&[Page::with_text(&["Only"])])).await.unwrap();
    let error = document.render(at(1, 72)).await.unwrap_err();
    assert_eq!(error, RenderError::NoSuchPage { page: 1, pages: 1 });
    assert!(!error.is_document_fault());
    assert!(document.render(at(0, 72)).await.is_ok());
}

#[tokio::test]
async fn images_of_every_format_are_one_page() {
    let picture = RgbImage::from_fn(64, 48, |x, _| {
        image::Rgb(if x < 32 { [250, 10, 10] } else { [10, 10, 250] })
    });
    let picture = DynamicImage::from(picture);
    for format in [
        image::ImageFormat::Png,
        image::ImageFormat::Jpeg,
        image::ImageFormat::WebP,
        image::ImageFormat::Tiff,
        image::ImageFormat::Gif,
        image::ImageFormat::Bmp,
        image::ImageFormat::Ico,
    ] {
        // `image` reads pictures in ICO files with transparency only, and writes any.
        let picture = match format {
            image::ImageFormat::Ico => DynamicImage::from(picture.to_rgba8()),
            _ => picture.clone(),
        };
        let mut document = open(&image_file(&picture, format)).await.unwrap();
        assert_eq!(document.pages(), 1, "{format:?}");
        let page = document.render(at(0, 100)).await.unwrap();
        assert_eq!((page.width, page.height), (64, 48), "{format:?}");
        assert!(page.text.is_empty());
        let [red, _, blue] = pixel(&page, 5, 5);
        assert!(
            red > 200 && blue < 80,
            "{format:?}: {:?}",
            pixel(&page, 5, 5)
        );
        // Rendering twice gives the same.
        assert_eq!(document.render(at(0, 100)).await.unwrap(), page);
    }
}

#[tokio::test]
async fn scans_in_pdf_are_drawn() {
    for (what, content) in [
        (
            "JPEG 2000",
            include_bytes!("fixtures/jpeg2000.pdf").as_slice(),
        ),
        ("JBIG2", include_bytes!("fixtures/jbig2.pdf")),
    ] {
        let page = first_page(content, 72).await.unwrap();
        assert_eq!((page.width, page.height), (32, 24), "{what}");
        let ink = page.pixels.as_ref().unwrap().iter().any(|byte| *byte < 30);
        assert!(ink, "{what}: the page is blank");
    }
}

#[tokio::test]
async fn large_images_are_scaled_down_to_a4_and_transparency_is_white() {
    let image = RgbaImage::from_pixel(3000, 1500, image::Rgba([0, 0, 0, 0]));
    let content = image_file(&image.into(), image::ImageFormat::Png);
    let page = first_page(&content, 100).await.unwrap();
    assert_eq!((page.width, page.height), (1169, 584));
    assert_eq!(pixel(&page, 100, 100), [255, 255, 255]);
}

#[tokio::test]
async fn cmyk_images_become_rgb() {
    let page = first_page(include_bytes!("fixtures/cmyk.jpg"), 100)
        .await
        .unwrap();
    let [red, green, blue] = pixel(&page, 8, 8);
    assert!(
        red > 200 && green < 60 && blue < 60,
        "{:?}",
        pixel(&page, 8, 8)
    );
}

#[tokio::test]
async fn an_image_that_claims_to_be_enormous_is_refused_before_it_is_decoded() {
    let mut content = image_file(&RgbImage::new(1, 1).into(), image::ImageFormat::Bmp);
    content[18..26].copy_from_slice(&[0x00, 0x00, 0x01, 0, 0x00, 0x00, 0x01, 0]);
    let error = open(&content).await.unwrap_err();
    assert!(
        ["TooLarge", "Damaged", "OutOfMemory"].contains(&error.reason()),
        "{error}"
    );
}
