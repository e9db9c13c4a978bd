//! Malformed documents: mutations of valid ones, opened by real renderers. Each becomes pages or an
//! error that blames the document.
//!
//! `LAYRA_FUZZ_CASES` and `LAYRA_FUZZ_SEED` set the number of mutations and the random seed.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::{Duration, Instant};

use common::documents::{Page, TiffImage, TiffLayout, pdf, tiff};
use common::renderer::{at, file, options};
use fastrand::Rng;
use futures::{StreamExt, stream};
use image::{DynamicImage, RgbImage};
use layra_rendering::{RenderError, RenderOptions, Renderer};

const CASES: u64 = 600;
const SEED: u64 = 1;
/// Number of concurrent renderers.
const AT_ONCE: usize = 4;
/// Time limit for one page: generous, because the machine may be busy with other work.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn mutated_documents_become_pages_or_document_faults() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let (cases, seed) = (
        number("LAYRA_FUZZ_CASES", CASES),
        number("LAYRA_FUZZ_SEED", SEED),
    );
    let corpus = corpus();
    let renderer = Renderer::new(RenderOptions {
        page_timeout: PAGE_TIMEOUT,
        memory_limit_bytes: 256 << 20,
        max_pages: 1000,
        processes: AT_ONCE,
        // LibreOffice is not under test here.
        soffice: "/nowhere/soffice".into(),
        ..options()
    });
    let started = Instant::now();
    let outcomes = stream::iter(0..cases)
        .map(|case| {
            let document = mutated(&corpus, &mut Rng::with_seed(seed.wrapping_add(case)));
            let renderer = &renderer;
            async move { (seed + case, outcome(renderer, &document).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (case, outcome) in outcomes {
        let name = match &outcome {
            Ok(()) => "pages",
            Err(error) => {
                assert!(
                    error.is_document_fault() && !matches!(error, RenderError::GarbledAnswer(_)),
                    "LAYRA_FUZZ_SEED={case} LAYRA_FUZZ_CASES=1: {error}"
                );
                error.reason()
            }
        };
        *counts.entry(name).or_default() += 1;
    }
    println!(
        "cases={cases} seed={seed} seconds={:.1} {counts:?}",
        started.elapsed().as_secs_f32()
    );
    if cases >= CASES {
        assert!(
            counts.len() > 3,
            "the mutations are too harmless: {counts:?}"
        );
        assert!(
            counts["pages"] > 0,
            "the mutations are too destructive: {counts:?}"
        );
    }
}

/// Opens a document and draws its first and last page.
async fn outcome(renderer: &Renderer, document: &[u8]) -> Result<(), RenderError> {
    let (_directory, path) = file(document);
    let mut document = renderer.open(&path).await?;
    let last = document.pages() - 1;
    for page in [0, last] {
        document.render(at(page, 72)).await?;
    }
    Ok(())
}

/// Valid documents of every format.
fn corpus() -> Vec<Vec<u8>> {
    let text = Page::with_text(&["The quick brown fox", "jumps over the lazy dog"]);
    let mut drawing = Page::of_size(300.0, 300.0).extra("/Rotate 270 /UserUnit 2");
    "q 1 0 0 rg 0 36 36 36 re f Q 0 0 1 RG 5 w 10 10 m 90 200 200 90 250 250 c S \
                       BI /W 4 /H 4 /CS /RGB /BPC 8 /F /AHx ID \
                       00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\
                       00112233445566778899aabbccddeeff> EI"
        .clone_into(&mut drawing.content);
    let picture = DynamicImage::from(RgbImage::from_fn(64, 48, |x, y| {
        image::Rgb([x.to_le_bytes()[0] * 4, y.to_le_bytes()[0] * 5, 77])
    }));
    let mut corpus = vec![
        pdf(&[text.clone(), drawing]),
        pdf(&vec![text; 20]),
        include_bytes!("fixtures/encrypted.pdf").to_vec(),
        include_bytes!("fixtures/blank-password.pdf").to_vec(),
        include_bytes!("fixtures/cmyk.jpg").to_vec(),
        include_bytes!("fixtures/office/text.docx").to_vec(),
        include_bytes!("fixtures/office/text.odt").to_vec(),
        include_bytes!("fixtures/office/text.doc").to_vec(),
        include_bytes!("fixtures/office/sheet.xls").to_vec(),
        include_bytes!("fixtures/office/sheet.xlsx").to_vec(),
        include_bytes!("fixtures/office/slide.pptx").to_vec(),
        include_bytes!("fixtures/office/slide.odp").to_vec(),
        include_bytes!("fixtures/office/text.rtf").to_vec(),
        include_bytes!("fixtures/office/sheet.xlsb").to_vec(),
        include_bytes!("fixtures/office/text.sxw").to_vec(),
        include_bytes!("fixtures/office/text.wps").to_vec(),
        include_bytes!("fixtures/office/slides.key").to_vec(),
        include_bytes!("fixtures/jpeg2000.pdf").to_vec(),
        include_bytes!("fixtures/jbig2.pdf").to_vec(),
        include_bytes!("fixtures/tiff/lzw.tiff").to_vec(),
        include_bytes!("fixtures/tiff/deflate.tiff").to_vec(),
        include_bytes!("fixtures/tiff/old-deflate.tiff").to_vec(),
        include_bytes!("fixtures/tiff/packbits.tiff").to_vec(),
        include_bytes!("fixtures/tiff/jpeg.tiff").to_vec(),
        include_bytes!("fixtures/tiff/group3.tiff").to_vec(),
        include_bytes!("fixtures/tiff/group4.tiff").to_vec(),
        include_bytes!("fixtures/tiff/ccitt.tiff").to_vec(),
        include_bytes!("fixtures/tiff/zstd.tiff").to_vec(),
        include_bytes!("fixtures/tiff/three-pages.tiff").to_vec(),
        include_bytes!("fixtures/tiff/palette.tiff").to_vec(),
        include_bytes!("fixtures/pictures/ycck.jpg").to_vec(),
        include_bytes!("fixtures/pictures/alpha.jp2").to_vec(),
        include_bytes!("fixtures/pictures/colours.j2k").to_vec(),
        lossy_webp(&picture),
        webp_in_tiff(),
    ];
    for format in [
        image::ImageFormat::Png,
        image::ImageFormat::Jpeg,
        image::ImageFormat::WebP,
        image::ImageFormat::Tiff,
        image::ImageFormat::Gif,
        image::ImageFormat::Bmp,
    ] {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        corpus.push(bytes.into_inner());
    }
    corpus.extend(field_files());
    // Real ones, with compressed streams, embedded fonts and outlines.
    let mut real: Vec<Vec<u8>> = std::fs::read_dir(common::pdfs())
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|name| name == "pdf"))
        .map(|entry| std::fs::read(entry.path()).unwrap())
        .collect();
    real.sort_by_key(Vec::len);
    real.truncate(4);
    assert_eq!(real.len(), 4, "the test-bed's documents");
    // Most documents in practice are PDF, so these count twice.
    for _ in 0..2 {
        corpus.extend(real.iter().cloned());
    }
    corpus
}

/// Files that broke other programs, in the order of their names.
fn field_files() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fieldfiles/files");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 57);
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn lossy_webp(picture: &DynamicImage) -> Vec<u8> {
    let rgb = picture.to_rgb8();
    let encoder = webp::Encoder::from_rgb(&rgb, rgb.width(), rgb.height());
    encoder.encode(60.0).to_vec()
}

fn webp_in_tiff() -> Vec<u8> {
    let picture = DynamicImage::new_rgb8(32, 24);
    let mut image = TiffImage::rgb(32, 24, &lossy_webp(&picture));
    image.compression = 50_001;
    tiff(TiffLayout::ALL[0], &[image])
}

/// A document with one to four defects.
fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut document = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..=4) {
        if document.is_empty() {
            break;
        }
        match rng.u32(..10) {
            0 => flip_bits(&mut document, rng),
            1 => {
                let keep = rng.usize(..document.len());
                document.truncate(keep);
            }
            2 => {
                let other = corpus[rng.usize(..corpus.len())].clone();
                splice(&mut document, &other, rng);
            }
            3 => {
                let copy = document.clone();
                splice(&mut document, &copy, rng);
            }
            4..7 => change_number(&mut document, rng),
            _ => change_word(&mut document, rng),
        }
    }
    document
}

fn flip_bits(document: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.usize(1..64) {
        let place = rng.usize(..document.len());
        document[place] ^= 1 << rng.u32(..8);
    }
}

/// Replaces a part of the document by a part of `other`.
fn splice(document: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let range = |length: usize, rng: &mut Rng| {
        let start = rng.usize(..length);
        start..(start + rng.usize(..4096)).min(length)
    };
    let from = other[range(other.len(), rng)].to_vec();
    let to = range(document.len(), rng);
    document.splice(to, from);
}

/// Replaces a number written in digits: a length, an offset, a size.
fn change_number(document: &mut Vec<u8>, rng: &mut Rng) {
    const NUMBERS: [&str; 12] = [
        "0",
        "-1",
        "1",
        "65535",
        "65536",
        "2147483647",
        "2147483648",
        "4294967295",
        "-2147483648",
        "9223372036854775807",
        "99999999999999999999999999",
        "1e308",
    ];
    let from = rng.usize(..document.len());
    let Some(start) = document[from..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = from + start;
    let digits = document[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let end = start + digits.count();
    let number = NUMBERS[rng.usize(..NUMBERS.len())];
    document.splice(start..end, number.bytes());
}

/// Replaces a name, type or filter.
fn change_word(document: &mut Vec<u8>, rng: &mut Rng) {
    const WORDS: [&str; 22] = [
        "/FlateDecode",
        "/LZWDecode",
        "/DCTDecode",
        "/JBIG2Decode",
        "/JPXDecode",
        "/CCITTFaxDecode",
        "/RunLengthDecode",
        "/ASCII85Decode",
        "/Length",
        "/Width",
        "/Height",
        "/Kids",
        "/Parent",
        "/Contents",
        "/Predictor 12",
        "/ObjStm",
        "/XRef",
        "/Pages",
        "/Font",
        "1 0 R",
        "<<",
        "[[[[[[[[[[[[[[[[",
    ];
    let from = rng.usize(..document.len());
    let Some(start) = document[from..].iter().position(|byte| *byte == b'/') else {
        return;
    };
    let start = from + start;
    let name = document[start + 1..]
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric());
    let end = start + 1 + name.count();
    let word = WORDS[rng.usize(..WORDS.len())];
    document.splice(start..end, word.bytes());
}
