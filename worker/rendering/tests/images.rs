//! Image files: every page of them, turned as their metadata asks; and damaged ones.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::io::Cursor;
use std::path::Path;

use common::documents::{TiffImage, TiffLayout, tiff};
use common::renderer::{at, file, first_page, open, options};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder};
use layra_rendering::{RenderOptions, RenderedPage, Renderer};

const LAYOUT: TiffLayout = TiffLayout::ALL[0];

/// Three columns and two rows, each pixel of another colour.
const STORED: [[u8; 3]; 6] = [
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [255, 255, 0],
    [0, 255, 255],
    [255, 0, 255],
];

/// For each orientation of EXIF, the size, and which stored pixel is where, row by row.
const TURNED: [(u32, u32, [usize; 6]); 8] = [
    (3, 2, [0, 1, 2, 3, 4, 5]),
    (3, 2, [2, 1, 0, 5, 4, 3]),
    (3, 2, [5, 4, 3, 2, 1, 0]),
    (3, 2, [3, 4, 5, 0, 1, 2]),
    (2, 3, [0, 3, 1, 4, 2, 5]),
    (2, 3, [3, 0, 4, 1, 5, 2]),
    (2, 3, [5, 2, 4, 1, 3, 0]),
    (2, 3, [2, 5, 1, 4, 0, 3]),
];

/// EXIF metadata with this orientation.
fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let mut metadata = if big_endian { b"MM\0*" } else { b"II*\0" }.to_vec();
    let short = |number: u16| {
        if big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    let long = |number: u32| {
        if big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    metadata.extend(long(8));
    metadata.extend(short(1));
    metadata.extend([short(0x112), short(3)].concat());
    metadata.extend(long(1));
    metadata.extend([short(orientation), short(0)].concat());
    metadata.extend(long(0));
    metadata
}

fn encoded(mut encoder: impl ImageEncoder, exif: Vec<u8>, (width, height): (u32, u32), rgb: &[u8]) {
    encoder.set_exif_metadata(exif).unwrap();
    encoder
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .unwrap();
}

/// The same PNG file with its metadata behind the pixels.
fn with_late_metadata(png: &[u8]) -> Vec<u8> {
    let place = |kind: &[u8]| png.windows(4).position(|bytes| bytes == kind).unwrap() - 4;
    let start = place(b"eXIf");
    let length = u32::from_be_bytes(png[start..start + 4].try_into().unwrap());
    let exif = start..start + 12 + length as usize;
    let end = place(b"IEND");
    assert!(exif.end < end);
    [&png[..start], &png[exif.end..end], &png[exif], &png[end..]].concat()
}

/// Each pixel of [`STORED`] as a square.
fn enlarged(side: usize) -> Vec<u8> {
    let row = |row: usize| {
        let pixels = &STORED[3 * row..3 * row + 3];
        let row = pixels.iter().flat_map(|pixel| pixel.repeat(side));
        row.collect::<Vec<u8>>().repeat(side)
    };
    [row(0), row(1)].concat()
}

fn pixels(page: &RenderedPage) -> Vec<[u8; 3]> {
    page.pixels.as_ref().unwrap().as_chunks::<3>().0.to_vec()
}

#[tokio::test]
async fn images_are_turned_as_their_metadata_asks() {
    let stored = STORED.concat();
    for (value, (width, height, order)) in (1..).zip(TURNED) {
        let mut files = Vec::new();
        for big_endian in [false, true] {
            let exif = exif(value, big_endian);
            let mut png = Vec::new();
            encoded(PngEncoder::new(&mut png), exif.clone(), (3, 2), &stored);
            files.push(("PNG", png));
            let mut webp = Vec::new();
            encoded(WebPEncoder::new_lossless(&mut webp), exif, (3, 2), &stored);
            files.push(("WebP", webp));
        }
        let mut late = Vec::new();
        encoded(
            PngEncoder::new(&mut late),
            exif(value, true),
            (3, 2),
            &stored,
        );
        files.push(("PNG with late metadata", with_late_metadata(&late)));
        let mut marked = Vec::new();
        let exif = [b"Exif\0\0".to_vec(), exif(value, false)].concat();
        encoded(
            WebPEncoder::new_lossless(&mut marked),
            exif,
            (3, 2),
            &stored,
        );
        files.push(("WebP with a marker", marked));
        for layout in TiffLayout::ALL {
            let mut image = TiffImage::rgb(3, 2, &stored);
            image.orientation = value;
            files.push(("TIFF", tiff(layout, &[image])));
        }
        for (format, content) in files {
            let page = first_page(&content, 100).await.unwrap();
            let what = format!("{format}, orientation {value}");
            assert_eq!((page.width, page.height), (width, height), "{what}");
            let expected = order.map(|index| STORED[index]);
            assert_eq!(pixels(&page), expected, "{what}");
            let stored = image::load_from_memory(&page.encoded).unwrap().to_rgb8();
            assert_eq!(stored.into_raw(), expected.concat(), "{what}");
        }
    }
}

#[tokio::test]
async fn photographs_are_turned_as_their_metadata_asks() {
    const SIDE: u32 = 32;
    let stored = enlarged(SIDE as usize);
    for (value, (width, height, order)) in (1..).zip(TURNED) {
        let mut jpeg = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoded(encoder, exif(value, true), (3 * SIDE, 2 * SIDE), &stored);
        let page = first_page(&jpeg, 100).await.unwrap();
        assert_eq!((page.width, page.height), (width * SIDE, height * SIDE));
        let pixels = pixels(&page);
        for (place, index) in (0..).zip(order) {
            let (x, y) = (
                place % width * SIDE + SIDE / 2,
                place / width * SIDE + SIDE / 2,
            );
            let found = pixels[(y * page.width + x) as usize];
            for (found, expected) in found.iter().zip(STORED[index]) {
                assert!(
                    found.abs_diff(expected) < 40,
                    "{value}: {found} at {x}, {y}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_turned_image_is_scaled_like_an_upright_one() {
    let mut image = TiffImage::rgb(300, 20, &vec![90; 300 * 20 * 3]);
    image.orientation = 6;
    let page = first_page(&tiff(LAYOUT, &[image]), 10).await.unwrap();
    assert_eq!((page.width, page.height), (7, 117));
}

#[tokio::test]
async fn unreadable_metadata_turns_nothing() {
    for exif in [
        exif(9, false),
        exif(0, true),
        b"II*\0".to_vec(),
        vec![7; 40],
    ] {
        let mut png = Vec::new();
        encoded(PngEncoder::new(&mut png), exif, (3, 2), &STORED.concat());
        let page = first_page(&png, 100).await.unwrap();
        assert_eq!(pixels(&page), STORED);
    }
}

/// Pages of one pixel each, and the colour of each.
fn coloured(count: u8) -> (Vec<TiffImage>, Vec<[u8; 3]>) {
    let colours: Vec<[u8; 3]> = (0..count).map(|page| [page, 200, 255 - page]).collect();
    let pages = colours.iter().map(|colour| TiffImage::rgb(1, 1, colour));
    (pages.collect(), colours)
}

#[tokio::test]
async fn every_image_of_a_tiff_file_is_a_page() {
    let (mut images, colours) = coloured(12);
    // A thumbnail of the first page, and a mask of the last one.
    let mut thumbnail = images[0].clone();
    thumbnail.kind = 1;
    images.insert(1, thumbnail.clone());
    thumbnail.kind = 4;
    images.push(thumbnail);
    for layout in TiffLayout::ALL {
        let mut document = open(&tiff(layout, &images)).await.unwrap();
        assert_eq!(document.pages(), 12, "{layout:?}");
        // In any order, as ranges ask for them, and twice.
        for page in [0, 11, 5, 5, 0, 7] {
            let drawn = document.render(at(page, 100)).await.unwrap();
            assert_eq!(drawn.page, page);
            assert_eq!(pixels(&drawn), [colours[page as usize]], "{layout:?}");
        }
    }
    let scanned = include_bytes!("fixtures/tiff/three-pages.tiff");
    let mut document = open(scanned).await.unwrap();
    assert_eq!(document.pages(), 3);
    for (page, colour) in (0..).zip([[255, 0, 0], [0, 255, 0], [0, 0, 255]]) {
        let drawn = document.render(at(page, 100)).await.unwrap();
        assert_eq!((drawn.width, drawn.height), (16, 12));
        assert_eq!(pixels(&drawn)[0], colour);
    }
}

#[tokio::test]
async fn a_thumbnail_in_front_of_the_only_page_is_not_the_page() {
    let (mut images, colours) = coloured(2);
    images[0].kind = 1;
    for layout in TiffLayout::ALL {
        let mut document = open(&tiff(layout, &images)).await.unwrap();
        assert_eq!(document.pages(), 1, "{layout:?}");
        for _ in 0..2 {
            let drawn = document.render(at(0, 100)).await.unwrap();
            assert_eq!(pixels(&drawn), [colours[1]], "{layout:?}");
        }
    }
}

#[tokio::test]
async fn each_image_of_a_tiff_file_is_turned_by_itself() {
    let stored = STORED.concat();
    let images: Vec<TiffImage> = (1..=8)
        .map(|orientation| TiffImage {
            orientation,
            ..TiffImage::rgb(3, 2, &stored)
        })
        .collect();
    let mut document = open(&tiff(LAYOUT, &images)).await.unwrap();
    for (page, (width, height, order)) in (0..).zip(TURNED) {
        let drawn = document.render(at(page, 100)).await.unwrap();
        assert_eq!((drawn.width, drawn.height), (width, height));
        assert_eq!(pixels(&drawn), order.map(|index| STORED[index]));
    }
}

#[tokio::test]
async fn limits_hold_for_each_page_of_a_tiff_file() {
    let (images, _) = coloured(51);
    let error = open(&tiff(LAYOUT, &images)).await.unwrap_err();
    assert_eq!(error.reason(), "TooManyPages");

    let (mut images, colours) = coloured(3);
    images[1].width = 60_000;
    images[1].height = 60_000;
    let mut document = open(&tiff(LAYOUT, &images)).await.unwrap();
    let error = document.render(at(1, 100)).await.unwrap_err();
    assert_eq!(error.reason(), "TooLarge", "{error}");
    let page = document.render(at(2, 100)).await.unwrap();
    assert_eq!(pixels(&page), [colours[2]]);
}

#[tokio::test]
async fn large_pages_of_a_tiff_file_take_the_memory_of_one() {
    let large = TiffImage::rgb(6000, 4000, &vec![77; 6000 * 4000 * 3]);
    let (_directory, path) = file(&tiff(LAYOUT, &vec![large; 4]));
    let renderer = Renderer::new(RenderOptions {
        memory_limit_bytes: 256 << 20,
        ..options()
    });
    let mut document = renderer.open(&path).await.unwrap();
    for page in 0..4 {
        document.render(at(page, 50)).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_page_of_a_tiff_file_leaves_the_others() {
    let (mut images, colours) = coloured(4);
    // LZW without its code of the start.
    images[1].compression = 5;
    images[1].strip = vec![0xff; 8];
    let mut content = tiff(LAYOUT, &images);
    // The last link leads behind the end of the file.
    let end = content.len() - 4;
    content[end..].copy_from_slice(&[0xf0; 4]);
    let mut document = open(&content).await.unwrap();
    assert_eq!(document.pages(), 5, "what cannot be read is reported");
    for (page, colour) in (0..).zip(&colours) {
        match document.render(at(page, 100)).await {
            Ok(drawn) => assert_eq!(pixels(&drawn), [*colour]),
            Err(error) => assert!(page == 1 && error.reason() == "DamagedPage", "{error}"),
        }
    }
    let error = document.render(at(4, 100)).await.unwrap_err();
    assert_eq!(error.reason(), "DamagedPage", "{error}");
    assert!(error.is_document_fault());
}

/// The fixtures with an image of one page, by compression.
fn compressed() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiff");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    let mut webp = Cursor::new(Vec::new());
    DynamicImage::new_rgb8(32, 24)
        .write_to(&mut webp, image::ImageFormat::WebP)
        .unwrap();
    let mut image = TiffImage::rgb(32, 24, &webp.into_inner());
    image.compression = 50_001;
    files.push(("webp".to_owned(), tiff(LAYOUT, &[image])));
    files.sort();
    files
}

#[tokio::test]
async fn damaged_content_of_any_compression_is_the_documents_fault() {
    // The decoders read no Zstandard and no WebP.
    const UNSUPPORTED: [&str; 2] = ["webp", "zstd"];
    let mut damaged = 0;
    for (name, content) in compressed() {
        let sound = first_page(&content, 100).await;
        match &sound {
            Ok(_) => {}
            Err(error) => {
                assert!(UNSUPPORTED.contains(&&*name), "{name}: {error}");
                assert!(error.is_document_fault(), "{name}: {error}");
            }
        }
        for value in [0x00, 0x55, 0xff] {
            // The strip comes first or last in these files: both are overwritten in turn.
            for place in [8, 24, content.len() / 2, content.len() - 40] {
                let mut broken = content.clone();
                let end = (place + 32).min(broken.len());
                broken[place..end].fill(value);
                if let Err(error) = first_page(&broken, 100).await {
                    damaged += 1;
                    assert!(
                        error.is_document_fault() && error.reason() != "GarbledAnswer",
                        "{name}, {value:#x} at {place}: {} {error}",
                        error.reason()
                    );
                }
            }
        }
    }
    assert!(damaged > 30, "{damaged}");
}

/// Before, these were "the file cannot be read", which is retried without end.
#[tokio::test]
async fn a_strip_that_cannot_be_unpacked_is_damage() {
    for content in [
        include_bytes!("fixtures/tiff/lzw.tiff").as_slice(),
        include_bytes!("fixtures/tiff/deflate.tiff"),
    ] {
        let mut broken = content.to_vec();
        broken[8..40].fill(0xff);
        let error = open(&broken).await.unwrap_err();
        assert_eq!(error.reason(), "Damaged", "{error}");
    }
}
