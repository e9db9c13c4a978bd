//! Pages of unusual sizes and shapes.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::io::Cursor;

use common::documents::{Page, objects_pdf, pdf};
use common::renderer::{at, first_page, open};
use image::{DynamicImage, Rgb, RgbImage};
use layra_rendering::RenderedPage;

fn pixel(page: &RenderedPage, x: u32, y: u32) -> [u8; 3] {
    let start = 3 * (y * page.width + x) as usize;
    page.pixels.as_ref().unwrap()[start..start + 3]
        .try_into()
        .unwrap()
}

/// A document with one page, whose dictionary has these entries, and a page tree with those. The
/// content is a red square with a corner at (0, 0).
fn page_with(page: &str, tree: &str) -> Vec<u8> {
    let content = "1 0 0 rg 0 0 50 50 re f";
    objects_pdf(&[
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Kids [3 0 R] /Count 1 {tree} >>"),
        format!("<< /Type /Page /Parent 2 0 R /Contents 4 0 R {page} >>"),
        format!(
            "<< /Length {} >>\nstream\n{content}\nendstream",
            content.len()
        ),
    ])
}

#[tokio::test]
async fn the_unit_of_a_page_counts() {
    let mut large = Page::of_size(72.0, 144.0).extra("/UserUnit 10");
    "1 0 0 rg 0 0 36 36 re f".clone_into(&mut large.content);
    let pages = [
        large,
        Page::of_size(72.0, 72.0),
        Page::of_size(72.0, 72.0).extra("/UserUnit -3"),
    ];
    let mut document = open(&pdf(&pages)).await.unwrap();
    let page = document.render(at(0, 72)).await.unwrap();
    assert_eq!((page.width, page.height), (720, 1440));
    assert_eq!(page.facts.points, Some((720.0, 1440.0)));
    assert_eq!(pixel(&page, 350, 1430), [255, 0, 0]);
    assert_eq!(pixel(&page, 370, 1430), [255, 255, 255]);
    for number in [1, 2] {
        let page = document.render(at(number, 72)).await.unwrap();
        assert_eq!((page.width, page.height), (72, 72));
    }
}

#[tokio::test]
async fn boxes_are_taken_as_viewers_take_them() {
    // Each with its size, and where the square's upper right corner is.
    let cases = [
        ("/MediaBox [0 0 200 300]", "", (200, 300), (50, 250)),
        ("/MediaBox [-100 -50 100 250]", "", (200, 300), (150, 200)),
        ("/MediaBox [200 300 0 0]", "", (200, 300), (50, 250)),
        ("", "/MediaBox [0 0 200 300]", (200, 300), (50, 250)),
        ("", "", (612, 792), (50, 742)),
        (
            "/MediaBox [0 0 200 300] /CropBox [-50 -50 900 100]",
            "",
            (200, 100),
            (50, 50),
        ),
        (
            "/MediaBox [0 0 200 300]",
            "/Rotate 90",
            (300, 200),
            (50, 50),
        ),
    ];
    for (page, tree, size, (x, y)) in cases {
        let drawn = first_page(&page_with(page, tree), 72).await.unwrap();
        assert_eq!((drawn.width, drawn.height), size, "{page} {tree}");
        let inside = pixel(
            &drawn,
            x - 2,
            if tree == "/Rotate 90" { y - 2 } else { y + 2 },
        );
        assert_eq!(inside, [255, 0, 0], "{page} {tree}");
        assert_eq!(pixel(&drawn, x + 2, y), [255, 255, 255], "{page} {tree}");
    }
}

#[tokio::test]
async fn strips_become_pages_that_models_take() {
    let mut wide = Page::of_size(14_400.0, 18.0);
    "0 g 0 0 14400 18 re f".clone_into(&mut wide.content);
    let image = |width, height| {
        let image = DynamicImage::from(RgbImage::from_pixel(width, height, Rgb([9, 9, 9])));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Png).unwrap();
        file.into_inner()
    };
    for (what, content) in [
        ("page", pdf(&[wide])),
        ("wide", image(30_000, 2)),
        ("tall", image(2, 20_000)),
        ("one row", image(1000, 1)),
    ] {
        for dpi in [36, 72, 200, 600] {
            let page = first_page(&content, dpi).await.unwrap();
            let (short, long) = (page.width.min(page.height), page.width.max(page.height));
            assert!(
                long <= 200 * short,
                "{what}: {} x {}",
                page.width,
                page.height
            );
            let dark = pixel(&page, page.width / 2, (page.height - 1) / 2);
            assert!(dark.iter().all(|level| *level < 60), "{what}: {dark:?}");
        }
    }
}
