//! Unusual but valid documents, and some that are built to exhaust resources.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use common::documents::{Page, pdf};
use common::renderer::{at, file, first_page, open, options};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use layra_rendering::{PageRequest, RenderOptions, RenderedPage, Renderer, Resolution};

fn pixel(page: &RenderedPage, x: u32, y: u32) -> [u8; 3] {
    let start = 3 * (y * page.width + x) as usize;
    page.pixels.as_ref().unwrap()[start..start + 3]
        .try_into()
        .unwrap()
}

/// Peak of a process's resident memory, in MiB.
fn peak_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[tokio::test]
async fn a_document_of_ten_thousand_pages_takes_little_memory() {
    let page = Page::with_text(&["One of many"]);
    let content = pdf(&vec![page; 10_000]);
    let (_directory, path) = file(&content);
    let renderer = Renderer::new(RenderOptions {
        max_pages: 100_000,
        ..options()
    });
    let started = Instant::now();
    let mut document = renderer.open(&path).await.unwrap();
    assert_eq!(document.pages(), 10_000);
    for page in (0..10_000).step_by(100).chain([9_999]) {
        let page = document.render(at(page, 36)).await.unwrap();
        assert_eq!(page.text, "One of many");
    }
    let peak = peak_mib(document.process_id().unwrap());
    println!(
        "pages=10000 seconds={:.1} renderer_peak_mib={peak}",
        started.elapsed().as_secs_f32()
    );
    assert!(peak < 256, "{peak} MiB");
}

#[tokio::test]
async fn pages_are_rotated() {
    // A red square in the lower left corner.
    let turned = |degrees: i32| {
        let mut page = Page::of_size(100.0, 200.0).extra(&format!("/Rotate {degrees}"));
        "1 0 0 rg 0 0 50 50 re f".clone_into(&mut page.content);
        page
    };
    let degrees = [0, 90, 180, 270, -90, 450];
    let pages: Vec<Page> = degrees.into_iter().map(turned).collect();
    let mut document = open(&pdf(&pages)).await.unwrap();
    for (number, degrees) in (0..).zip(degrees) {
        let page = document.render(at(number, 72)).await.unwrap();
        let (size, red) = match degrees {
            0 => ((100, 200), (10, 190)),
            180 => ((100, 200), (90, 10)),
            90 | 450 => ((200, 100), (10, 10)),
            _ => ((200, 100), (190, 90)),
        };
        assert_eq!((page.width, page.height), size, "{degrees}");
        assert_eq!(pixel(&page, red.0, red.1), [255, 0, 0], "{degrees}");
        assert_eq!(pixel(&page, 100, 50), [255, 255, 255], "{degrees}");
    }
}

#[tokio::test]
async fn cmyk_and_transparency_become_rgb_on_white() {
    let mut inks = Page::of_size(72.0, 72.0);
    "0 1 1 0 k 0 0 36 72 re f 0 0 0 1 k 36 0 36 72 re f".clone_into(&mut inks.content);
    let mut glass =
        Page::of_size(72.0, 72.0).extra("/Resources << /ExtGState << /Half << /ca 0.5 >> >> >>");
    "/Half gs 1 0 0 rg 0 0 72 72 re f".clone_into(&mut glass.content);
    let mut document = open(&pdf(&[inks, glass])).await.unwrap();
    let inks = document.render(at(0, 72)).await.unwrap();
    let [red, green, blue] = pixel(&inks, 10, 10);
    assert!(red > 200 && green < 80 && blue < 80, "{red} {green} {blue}");
    assert!(pixel(&inks, 60, 10).iter().all(|level| *level < 60));
    let glass = document.render(at(1, 72)).await.unwrap();
    let [red, green, blue] = pixel(&glass, 10, 10);
    assert!(
        red == 255 && (120..=136).contains(&green) && green == blue,
        "{red} {green} {blue}"
    );
}

#[tokio::test]
async fn text_in_a_missing_font_is_drawn_and_extracted() {
    for font in [
        "/Type /Font /Subtype /TrueType /BaseFont /NoSuchFont-Bold /Encoding /WinAnsiEncoding",
        "/Type /Font /Subtype /Type1 /BaseFont /ABCDEF+Unheard",
    ] {
        let page = Page::with_text(&["Hello there"])
            .extra(&format!("/Resources << /Font << /F1 << {font} >> >> >>"));
        let page = first_page(&pdf(&[page]), 100).await.unwrap();
        assert_eq!(page.text, "Hello there", "{font}");
        let ink = page.pixels.as_ref().unwrap().iter().any(|byte| *byte < 100);
        assert!(ink, "{font}: the page is blank");
    }
}

#[tokio::test]
async fn the_automatic_resolution_depends_on_the_page_size() {
    let pages = [(595.276, 841.89), (288.0, 216.0), (2384.0, 3370.0)];
    let pages: Vec<Page> = pages
        .iter()
        .map(|(width, height)| Page::of_size(*width, *height))
        .collect();
    let mut document = open(&pdf(&pages)).await.unwrap();
    for (number, size) in (0..).zip([(827, 1170), (896, 672), (3312, 4681)]) {
        let request = PageRequest {
            resolution: Resolution::Auto { pixels: 602_112 },
            ..at(number, 0)
        };
        let page = document.render(request).await.unwrap();
        assert_eq!((page.width, page.height), size);
    }
}

/// Compressed zeros in hexadecimal digits.
fn zeros(mebibytes: usize) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        encoder.write_all(&zeros).unwrap();
    }
    encoder
        .finish()
        .unwrap()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

#[tokio::test]
async fn streams_that_unpack_to_hundreds_of_megabytes_fail_only_their_document() {
    let zeros = zeros(700);
    assert!(zeros.len() < 8 << 20);
    let mut instructions = Page::of_size(100.0, 100.0);
    instructions.content = format!("{zeros}>");
    instructions.stream = "/Filter [/ASCIIHexDecode /FlateDecode]".to_owned();
    let mut picture = Page::of_size(100.0, 100.0);
    picture.content = format!(
        "q 100 0 0 100 0 0 cm BI /W 26000 /H 26000 /CS /G /BPC 8 /F [/AHx /Fl] ID {zeros}> EI Q"
    );
    for (what, page) in [("instructions", instructions), ("picture", picture)] {
        let (_directory, path) = file(&pdf(&[page]));
        let renderer = Renderer::new(RenderOptions {
            page_timeout: Duration::from_mins(1),
            memory_limit_bytes: 256 << 20,
            ..options()
        });
        let started = Instant::now();
        let outcome = match renderer.open(&path).await {
            Ok(mut document) => document.render(at(0, 72)).await.map(|_| ()),
            Err(error) => Err(error),
        };
        println!(
            "{what} seconds={:.1} {outcome:?}",
            started.elapsed().as_secs_f32()
        );
        if let Err(error) = outcome {
            assert!(error.is_document_fault(), "{what}: {error}");
        }
    }
}
