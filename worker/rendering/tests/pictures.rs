//! Pictures are seen as other programs show them.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::io::Cursor;

use common::renderer::{at, file, first_page, open, options};
use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, ImageBuffer, LumaA, Rgba, RgbaImage};
use layra_rendering::{DocumentWarning, RenderedPage, Renderer};

/// The colours of the four quarters of the pictures in `fixtures/pictures`, row by row.
const QUARTERS: [[u8; 3]; 4] = [[220, 20, 20], [20, 160, 20], [20, 20, 220], [240, 200, 0]];

fn pixel(page: &RenderedPage, x: u32, y: u32) -> [u8; 3] {
    let start = 3 * (y * page.width + x) as usize;
    page.pixels.as_ref().unwrap()[start..start + 3]
        .try_into()
        .unwrap()
}

/// The middles of the four quarters.
fn quarters(page: &RenderedPage) -> [[u8; 3]; 4] {
    let (left, top) = (page.width / 4, page.height / 4);
    let (right, bottom) = (page.width - left, page.height - top);
    [(left, top), (right, top), (left, bottom), (right, bottom)].map(|(x, y)| pixel(page, x, y))
}

fn assert_close(found: [[u8; 3]; 4], expected: [[u8; 3]; 4], tolerance: u8, what: &str) {
    let pairs = found.as_flattened().iter().zip(expected.as_flattened());
    let differs = |(found, expected): (&u8, &u8)| found.abs_diff(*expected) > tolerance;
    assert!(
        !pairs.into_iter().any(differs),
        "{what}: {found:?}, expected {expected:?}"
    );
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[tokio::test]
async fn inks_have_the_colours_of_libjpeg() {
    // As Pillow shows them, which uses libjpeg and inverts the inks as Adobe does.
    let turned_to_ycck = [[186, 0, 226], [255, 169, 178], [106, 255, 255], [194, 0, 0]];
    for (what, content, expected) in [
        (
            "CMYK",
            include_bytes!("fixtures/pictures/cmyk.jpg"),
            QUARTERS,
        ),
        (
            "YCCK",
            include_bytes!("fixtures/pictures/ycck.jpg"),
            turned_to_ycck,
        ),
    ] {
        let page = first_page(content, 200).await.unwrap();
        assert_close(quarters(&page), expected, 4, what);
    }
}

#[tokio::test]
async fn jpeg_2000_is_decoded_with_and_without_boxes() {
    let grey = [[80; 3], [102; 3], [43; 3], [189; 3]];
    let on_white = [[255; 3], QUARTERS[1], QUARTERS[2], QUARTERS[3]];
    let fixtures: [(&str, &[u8], _); 4] = [
        (
            "boxes",
            include_bytes!("fixtures/pictures/colours.jp2"),
            QUARTERS,
        ),
        (
            "bare",
            include_bytes!("fixtures/pictures/colours.j2k"),
            QUARTERS,
        ),
        ("grey", include_bytes!("fixtures/pictures/grey.jp2"), grey),
        (
            "alpha",
            include_bytes!("fixtures/pictures/alpha.jp2"),
            on_white,
        ),
    ];
    for (what, content, expected) in fixtures {
        let page = first_page(content, 200).await.unwrap();
        assert_eq!((page.width, page.height), (32, 24), "{what}");
        assert_close(quarters(&page), expected, 6, what);
        // Whatever is damaged is the document's fault.
        for length in [20, content.len() / 2, content.len() - 9] {
            if let Err(error) = first_page(&content[..length], 200).await {
                assert!(error.is_document_fault(), "{what}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn faxes_and_palettes_in_tiff_are_decoded() {
    let palette = include_bytes!("fixtures/tiff/palette.tiff");
    let page = first_page(palette, 200).await.unwrap();
    assert_close(quarters(&page), QUARTERS, 8, "palette");
    // All three have the same picture.
    let group_4 = first_page(include_bytes!("fixtures/tiff/group4.tiff"), 200)
        .await
        .unwrap();
    for (what, content) in [
        (
            "group 3",
            include_bytes!("fixtures/tiff/group3.tiff").as_slice(),
        ),
        (
            "modified Huffman",
            include_bytes!("fixtures/tiff/ccitt.tiff"),
        ),
    ] {
        let page = first_page(content, 200).await.unwrap();
        assert_eq!(page.pixels, group_4.pixels, "{what}");
    }
}

#[tokio::test]
async fn transparency_is_paper_at_any_depth() {
    let deep = ImageBuffer::from_fn(4, 4, |x, _| {
        if x < 2 {
            LumaA([0_u16, 0])
        } else {
            LumaA([0x8080_u16, 0xffff])
        }
    });
    let page = first_page(&png(&DynamicImage::ImageLumaA16(deep)), 200)
        .await
        .unwrap();
    assert_eq!(pixel(&page, 0, 0), [255; 3]);
    assert_eq!(pixel(&page, 3, 3), [128; 3]);
    let glass = RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 128]));
    let page = first_page(&png(&glass.into()), 200).await.unwrap();
    assert_close([pixel(&page, 1, 1); 4], [[255, 127, 127]; 4], 1, "glass");
}

#[tokio::test]
async fn of_an_animation_the_first_frame_is_the_page() {
    let frames = |colours: &[[u8; 4]]| {
        let mut content = Vec::new();
        let mut encoder = GifEncoder::new(&mut content);
        for colour in colours {
            let frame = Frame::new(RgbaImage::from_pixel(20, 10, Rgba(*colour)));
            encoder.encode_frame(frame).unwrap();
        }
        drop(encoder);
        content
    };
    let (red, blue) = ([255, 0, 0, 255], [0, 0, 255, 255]);
    let mut document = open(&frames(&[red, blue])).await.unwrap();
    assert_eq!(document.warnings(), [DocumentWarning::FirstFrameOnly]);
    let page = document.render(at(0, 200)).await.unwrap();
    assert_eq!(pixel(&page, 10, 5), [255, 0, 0]);
    assert_eq!(open(&frames(&[red])).await.unwrap().warnings(), []);
}

const DRAWING: &str = "<?xml version='1.0'?>
<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink'
     width='200' height='100'>
  <rect width='100' height='100' fill='rgb(220,20,20)'/>
  <image x='100' y='0' width='100' height='100' xlink:href='ADDRESS'/>
  <text x='10' y='50' font-size='20'>Pump <tspan>station</tspan></text>
  <g><text x='10' y='80' font-size='20'>Valve</text></g>
</svg>";

#[tokio::test]
async fn drawings_have_an_image_and_text() {
    let mut document = open(DRAWING.as_bytes()).await.unwrap();
    let page = document.render(at(0, 192)).await.unwrap();
    // 96 units are an inch.
    assert_eq!((page.width, page.height), (400, 200));
    assert_eq!(page.facts.points, Some((150.0, 75.0)));
    assert_eq!(page.text, "Pump station\nValve");
    assert_eq!(pixel(&page, 150, 10), [220, 20, 20]);
    assert_eq!(pixel(&page, 300, 10), [255, 255, 255]);
    let pixels = page.pixels.as_ref().unwrap();
    let dark = pixels
        .as_chunks::<3>()
        .0
        .iter()
        .filter(|pixel| pixel.iter().all(|level| *level < 60));
    assert!(dark.count() > 50, "the words are drawn");
    assert_eq!(document.render(at(0, 192)).await.unwrap(), page);
}

#[tokio::test]
async fn drawings_load_nothing() {
    let picture = png(&RgbaImage::from_pixel(8, 8, Rgba([0, 0, 255, 255])).into());
    let (_directory, path) = file(&picture);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = format!("http://{}/a.png", listener.local_addr().unwrap());
    let local = path.to_str().unwrap();
    for address in [local, &format!("file://{local}"), &server] {
        let drawing = DRAWING.replace("ADDRESS", address);
        let page = first_page(drawing.as_bytes(), 96).await.unwrap();
        assert_eq!(pixel(&page, 150, 50), [255, 255, 255], "{address}");
    }
    assert!(listener.accept().is_err(), "somebody connected");
    // What the file itself holds is drawn.
    let inside = "data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22 width=%22100%22 \
                  height=%22100%22%3E%3Crect width=%22100%22 height=%22100%22 \
                  fill=%22blue%22/%3E%3C/svg%3E";
    let page = first_page(DRAWING.replace("ADDRESS", inside).as_bytes(), 96)
        .await
        .unwrap();
    assert_eq!(pixel(&page, 150, 50), [0, 0, 255]);
}

#[tokio::test]
async fn drawings_that_cannot_be_drawn_are_the_documents_fault() {
    let nested = format!(
        "<svg xmlns='http://www.w3.org/2000/svg'>{}{}</svg>",
        "<g>".repeat(20_000),
        "</g>".repeat(20_000)
    );
    let bomb = "<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>\
                <!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'><!ENTITY d '&c;&c;&c;&c;&c;&c;&c;&c;'>]>\
                <svg xmlns='http://www.w3.org/2000/svg'><text>&d;&d;&d;&d;&d;</text></svg>";
    for content in [
        "<svg",
        "<svg xmlns='http://www.w3.org/2000/svg'><g>",
        &nested,
        bomb,
    ] {
        let (_directory, path) = file(content.as_bytes());
        let opened = Renderer::new(options()).open(&path).await;
        let drawn = match opened {
            Ok(mut document) => document.render(at(0, 72)).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = drawn {
            assert!(error.is_document_fault(), "{error}");
        }
    }
    let huge = "<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1e9'/>";
    let page = first_page(huge.as_bytes(), 300).await.unwrap();
    assert!(u64::from(page.width) * u64::from(page.height) <= 40_000_000);
}

#[tokio::test]
async fn pictures_that_no_decoder_reads_say_what_to_do() {
    for (brand, name) in [("avif", "AVIF"), ("heic", "HEIC")] {
        let content = format!("\0\0\0\u{1c}ftyp{brand}\0\0\0\0mif1");
        let error = open(content.as_bytes()).await.unwrap_err();
        assert_eq!(error.reason(), "Unsupported");
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("JPEG or PNG"),
            "{message}"
        );
    }
}
