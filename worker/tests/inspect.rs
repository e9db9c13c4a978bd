//! `layra-worker inspect` over files that broke other programs, against what a user expects of each
//! (`fieldfiles/expected.json`).

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

/// What a user expects of a file.
#[derive(Debug, Deserialize)]
struct Expected {
    /// `pages` or `error`.
    outcome: String,
    /// What the command calls its format.
    format: Option<String>,
    pages: Option<usize>,
    /// Reasons that are as good as pages.
    #[serde(default)]
    or_error: Vec<String>,
    /// Whether pages are as good as an error.
    #[serde(default)]
    or_pages: bool,
    /// Reasons that fit an error.
    #[serde(default)]
    errors: Vec<String>,
    /// Words of the error's message.
    #[serde(default)]
    message: Vec<String>,
    /// Sizes of pages in points, of pictures in pixels.
    #[serde(default)]
    points: Vec<(f64, f64)>,
    #[serde(default)]
    marks: Vec<Mark>,
    /// Largest difference of a mark's colour in each channel.
    #[serde(default = "usual_tolerance")]
    tolerance: u8,
    #[serde(default)]
    ink: Vec<Ink>,
    #[serde(default)]
    text: Vec<String>,
    #[serde(default)]
    absent: Vec<String>,
    /// Warnings of the document or a page that must be there.
    #[serde(default)]
    warnings: Vec<String>,
    /// Whether missing ink and text are excused by a warning, on a machine without the fonts.
    #[serde(default)]
    or_missing_glyphs: bool,
    /// Why the file is left out.
    skip: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Mark {
    page: usize,
    x: f64,
    y: f64,
    rgb: [u8; 3],
}

/// A box (left, top, right, bottom) with something dark in it.
#[derive(Debug, Deserialize)]
struct Ink {
    page: usize,
    #[serde(rename = "box")]
    area: [f64; 4],
}

fn usual_tolerance() -> u8 {
    8
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fieldfiles")
        .join(name)
}

fn pdfium() -> PathBuf {
    let in_cache = || {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        let cache = std::env::var_os("LAYRA_TESTBED_CACHE").map_or_else(
            || Path::new(&home).join(".cache/layra-testbed"),
            PathBuf::from,
        );
        cache.join("pdfium/libpdfium.so")
    };
    std::env::var_os("LAYRA_PDFIUM").map_or_else(in_cache, PathBuf::from)
}

/// Runs the command. Returns the reports, and whether it succeeded.
fn inspect(files: &[PathBuf], options: &[&str]) -> (Vec<Value>, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_layra-worker"))
        .args(["inspect", "--output", "json", "--pdfium"])
        .arg(pdfium())
        .args(options)
        .args(files)
        .env_remove("LAYRA_CONFIG")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let reports: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(reports.len(), files.len(), "{errors}");
    (reports, output.status.success())
}

/// What differs between a report and the expectation.
fn differences(report: &Value, expected: &Expected, images: &[RgbImage]) -> Vec<String> {
    let text_of = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    if report["outcome"] == "rejected" {
        let (reason, message) = (text_of("reason"), text_of("message"));
        let fits = expected.errors.contains(&reason) || expected.or_error.contains(&reason);
        let mut found = Vec::new();
        if !fits {
            found.push(format!("rejected: {reason}: {message}"));
        }
        let words = expected.message.iter();
        let missing = words.filter(|word| !message.contains(*word));
        found.extend(missing.map(|word| format!("the message has no {word:?}: {message}")));
        return found;
    }
    if expected.outcome == "error" && !expected.or_pages {
        return vec!["it became pages".to_owned()];
    }
    let pages = report["pages"].as_array().unwrap();
    let mut found = Vec::new();
    let format = text_of("format");
    if expected.format.as_ref().is_some_and(|it| *it != format) {
        found.push(format!("the format {format}"));
    }
    if expected.pages.is_some_and(|count| count != pages.len()) {
        found.push(format!("{} pages", pages.len()));
    }
    for (page, (width, height)) in pages.iter().zip(&expected.points) {
        let size = page.get("points").unwrap_or(&page["pixels"]);
        let extent = |index: usize| size[index].as_f64().unwrap_or_default();
        if (extent(0) - width).abs() > 0.5 || (extent(1) - height).abs() > 0.5 {
            found.push(format!("size {size}, expected {width} x {height}"));
        }
    }
    for mark in &expected.marks {
        let seen = images
            .get(mark.page)
            .map(|image| image[at(image, mark.x, mark.y)].0);
        let fits = seen.is_some_and(|seen| {
            seen.iter()
                .zip(mark.rgb)
                .all(|(seen, level)| seen.abs_diff(level) <= expected.tolerance)
        });
        if !fits {
            found.push(format!("{mark:?}: {seen:?}"));
        }
    }
    let warnings: Vec<String> = pages
        .iter()
        .chain([report])
        .flat_map(|part| part["warnings"].as_array().unwrap())
        .map(|warning| warning.as_str().unwrap().to_owned())
        .collect();
    for wanted in &expected.warnings {
        if !warnings.contains(wanted) {
            found.push(format!("no warning {wanted}: {warnings:?}"));
        }
    }
    let has = |warning: &str| warnings.iter().any(|found| found.starts_with(warning));
    if !(expected.or_missing_glyphs && has("MissingGlyphs")) {
        let dry = expected.ink.iter();
        let dry = dry.filter(|ink| {
            images
                .get(ink.page)
                .is_none_or(|image| !has_ink(image, ink))
        });
        found.extend(dry.map(|ink| format!("{ink:?}: nothing is drawn")));
    }
    let text: Vec<&str> = pages
        .iter()
        .map(|page| page["text"].as_str().unwrap())
        .collect();
    let text = text.join("\n");
    for wanted in expected
        .text
        .iter()
        .filter(|wanted| !text.contains(*wanted))
    {
        found.push(format!("no text {wanted:?} in {text:?}"));
    }
    for hidden in expected
        .absent
        .iter()
        .filter(|hidden| text.contains(*hidden))
    {
        found.push(format!("the text {hidden:?}"));
    }
    found
}

/// The pixel at fractions of an image's width and height.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fractions of a size are inside of it"
)]
fn at(image: &RgbImage, x: f64, y: f64) -> (u32, u32) {
    let place = |fraction: f64, side: u32| ((fraction * f64::from(side)) as u32).min(side - 1);
    (place(x, image.width()), place(y, image.height()))
}

fn has_ink(image: &RgbImage, ink: &Ink) -> bool {
    let [left, top, right, bottom] = ink.area;
    let ((left, top), (right, bottom)) = (at(image, left, top), at(image, right, bottom));
    (top..=bottom).any(|y| (left..=right).any(|x| image[(x, y)].0.iter().all(|level| *level < 110)))
}

/// The images that the command has written of a file.
fn images(directory: &Path, name: &str, pages: usize) -> Vec<RgbImage> {
    let image = |number| directory.join(format!("{name}-{number}.png"));
    (1..=pages)
        .map_while(|number| std::fs::read(image(number)).ok())
        .map(|file| image::load_from_memory(&file).unwrap().into_rgb8())
        .collect()
}

#[test]
fn field_files_become_what_a_user_expects() {
    let expected = std::fs::read(here("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let expected: BTreeMap<String, Expected> =
        serde_json::from_value(expected["files"].clone()).unwrap();
    assert!(expected.len() >= 65);
    let names: Vec<&String> = expected
        .iter()
        .filter(|(_, expected)| expected.skip.is_none())
        .map(|(name, _)| name)
        .collect();
    let files: Vec<PathBuf> = names.iter().map(|name| here("files").join(name)).collect();
    let pages = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let options = [
        "--pages",
        pages.path().to_str().unwrap(),
        "--cache-dir",
        scratch.path().to_str().unwrap(),
    ];
    let (reports, success) = inspect(&files, &options);
    assert!(success, "every file was inspected");
    let mut all = Vec::new();
    for ((name, file), report) in names.iter().zip(&files).zip(&reports) {
        assert_eq!(report["file"], file.to_str().unwrap());
        let count = report["pages"].as_array().unwrap().len();
        let images = images(pages.path(), name, count);
        let found = differences(report, &expected[*name], &images);
        all.extend(found.into_iter().map(|found| format!("{name}: {found}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 0, "something is left behind");
}

#[derive(Deserialize)]
struct Names {
    names: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[test]
fn difficult_names_are_kept() {
    let names = std::fs::read(here("names.json")).unwrap();
    let names: Names = serde_json::from_slice(&names).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = names
        .names
        .iter()
        .map(|name| directory.path().join(&name.name))
        .collect();
    for file in &files {
        std::fs::copy(here("files/broken-xref.pdf"), file).unwrap();
    }
    let (reports, success) = inspect(&files, &[]);
    assert!(success);
    for (file, report) in files.iter().zip(&reports) {
        assert_eq!(report["file"], file.to_str().unwrap());
        assert_eq!(report["outcome"], "pages");
        assert_eq!(report["format"], "pdf");
    }
}

#[test]
fn what_cannot_be_inspected_fails_the_command() {
    let (reports, success) = inspect(&[here("no-such-file"), here("files")], &[]);
    assert!(!success);
    for report in reports {
        assert_eq!(report["outcome"], "rejected");
        assert_eq!(report["reason"], "FileUnreadable");
    }
}

#[test]
fn a_model_adds_vectors_and_time() {
    let Some(model) = minilm() else {
        return;
    };
    let pdf = here("files/leading-garbage.pdf");
    let (reports, success) = inspect(&[pdf], &["--model", model.to_str().unwrap()]);
    assert!(success);
    let page = &reports[0]["pages"][0];
    assert!(page["vectors"].as_u64().unwrap() >= 1, "{page}");
    assert!(page["milliseconds"].as_f64().unwrap() > 0.0, "{page}");
}

/// The model of the test-bed, if it is there.
fn minilm() -> Option<PathBuf> {
    let cache = pdfium().parent()?.parent()?.join("models/minilm");
    cache.is_dir().then_some(cache)
}
