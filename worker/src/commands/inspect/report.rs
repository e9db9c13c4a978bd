//! What the `inspect` command says about a file, as JSON and as a table.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use layra_rendering::RenderedPage;
use serde::Serialize;

use crate::runtime::failure::Reason;

/// What a worker would make of a file.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    file: String,
    /// `None` if nobody knows.
    pub(super) format: Option<String>,
    outcome: Outcome,
    reason: Option<&'static str>,
    message: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) pages: Vec<PageReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Pages,
    Rejected,
}

/// Why a worker would reject a file or skip a page.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) reason: Reason,
    pub(super) message: String,
    /// Whether the file is not to blame, so that a worker would try again.
    pub(super) is_failure: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct PageReport {
    /// Counted from 1.
    number: u32,
    /// Width and height in points; absent for pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    points: Option<(f32, f32)>,
    /// Width and height of the stored image; absent for a page that is skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pixels: Option<(u32, u32)>,
    /// How the stored page is turned to be upright, as EXIF numbers it.
    orientation: u8,
    text: String,
    words: usize,
    warnings: Vec<String>,
    #[serde(flatten)]
    pub(super) embedded: Option<Embedded>,
    /// Why it is skipped.
    #[serde(skip)]
    pub(super) failure: Option<Rejection>,
}

/// What embedding a page gave and took.
#[derive(Debug, Serialize)]
pub(super) struct Embedded {
    pub(super) vectors: usize,
    pub(super) milliseconds: f64,
}

impl Rejection {
    pub(super) fn of_document(reason: Reason, message: impl fmt::Display) -> Self {
        Self {
            reason,
            message: message.to_string(),
            is_failure: false,
        }
    }

    pub(super) fn unreadable(error: &io::Error) -> Self {
        Self {
            reason: Reason::FileUnreadable,
            message: format!("the file cannot be read: {error}"),
            is_failure: true,
        }
    }
}

impl FileReport {
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_string_lossy().into_owned(),
            format: None,
            outcome: Outcome::Pages,
            reason: None,
            message: None,
            warnings: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Nothing of a rejected file is stored.
    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.outcome = Outcome::Rejected;
        self.reason = Some(rejection.reason.as_str());
        self.message = Some(rejection.message);
        self.pages.clear();
    }

    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let format = self.format.as_deref().unwrap_or("unknown format");
        write!(out, "{}  ({format})  ", on_one_line(&self.file))?;
        if let (Some(reason), Some(message)) = (self.reason, &self.message) {
            writeln!(out, "rejected: {reason}: {}", on_one_line(message))?;
        } else {
            let pages = self.pages.len();
            writeln!(out, "{pages} page{}", if pages == 1 { "" } else { "s" })?;
        }
        for warning in &self.warnings {
            writeln!(out, "  {warning}")?;
        }
        if !self.pages.is_empty() {
            writeln!(
                out,
                "  {:>5}  {:>15}  {:>11}  {:11}  {:>5}  {:>7}  {:>8}  WARNINGS",
                "PAGE", "POINTS", "PIXELS", "ORIENTATION", "WORDS", "VECTORS", "MS"
            )?;
        }
        for page in &self.pages {
            let points = page
                .points
                .map(|(width, height)| format!("{width:.1} x {height:.1}"));
            let pixels = page
                .pixels
                .map(|(width, height)| format!("{width} x {height}"));
            let vectors = page.embedded.as_ref().map(|cost| cost.vectors.to_string());
            let time = page
                .embedded
                .as_ref()
                .map(|cost| cost.milliseconds.to_string());
            let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            writeln!(
                out,
                "  {:>5}  {:>15}  {:>11}  {:11}  {:>5}  {:>7}  {:>8}  {}",
                page.number,
                dash(points),
                dash(pixels),
                orientation_in_words(page.orientation),
                page.words,
                dash(vectors),
                dash(time),
                on_one_line(&page.warnings.join(", "))
            )?;
        }
        Ok(())
    }
}

impl PageReport {
    pub(super) fn of(page: &RenderedPage) -> Self {
        Self {
            number: page.page + 1,
            points: page.facts.points,
            pixels: Some((page.width, page.height)),
            orientation: page.facts.orientation,
            words: page.text.split_whitespace().count(),
            text: page.text.clone(),
            warnings: page
                .facts
                .warnings
                .iter()
                .map(ToString::to_string)
                .collect(),
            embedded: None,
            failure: None,
        }
    }

    /// A page (counted from 0) that cannot be rendered.
    pub(super) fn skipped(page: u32, rejection: &Rejection) -> Self {
        let mut report = Self {
            number: page + 1,
            points: None,
            pixels: None,
            orientation: 1,
            text: String::new(),
            words: 0,
            warnings: Vec::new(),
            embedded: None,
            failure: None,
        };
        report.skip(rejection.clone());
        report
    }

    /// Records that a worker would skip the page.
    pub(super) fn skip(&mut self, rejection: Rejection) {
        let Rejection {
            reason, message, ..
        } = &rejection;
        self.warnings.push(format!("Skipped: {reason}: {message}"));
        self.failure = Some(rejection);
    }
}

fn orientation_in_words(orientation: u8) -> &'static str {
    match orientation {
        2 => "mirrored",
        3 => "180°",
        4 => "mirrored 180°",
        5 => "mirrored 270°",
        6 => "90°",
        7 => "mirrored 90°",
        8 => "270°",
        _ => "-",
    }
}

/// Names of files may have line feeds.
fn on_one_line(text: &str) -> String {
    let escaped = text.chars().flat_map(|letter| {
        let escape = letter.is_control().then(|| letter.escape_default());
        let plain = (!letter.is_control()).then_some(letter);
        escape.into_iter().flatten().chain(plain)
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_file_has_a_reason_and_no_pages() {
        let mut report = FileReport::new("a\nb.pdf".as_ref());
        let bad = Rejection::of_document(Reason::DamagedPage, "page 1 is damaged");
        report.pages.push(PageReport::skipped(0, &bad));
        report.reject(bad);
        let json = serde_json::to_value(&report).unwrap();
        let expected = serde_json::json!({
            "file": "a\nb.pdf", "format": null, "outcome": "rejected", "reason": "DamagedPage",
            "message": "page 1 is damaged", "warnings": [], "pages": [],
        });
        assert_eq!(json, expected);
        let mut table = Vec::new();
        report.write_table(&mut table).unwrap();
        assert_eq!(
            String::from_utf8(table).unwrap(),
            "a\\nb.pdf  (unknown format)  rejected: DamagedPage: page 1 is damaged\n"
        );
    }
}
