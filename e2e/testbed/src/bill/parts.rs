//! What is in an image beside its base, the program and its crates.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::Part;
use crate::artifacts::{IMAGES, PDFIUM};
use crate::settings::Settings;

/// The library that is copied from the machine that builds.
pub(crate) async fn of_every_image() -> Result<Vec<Part>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Version}", "zlib1g"]);
    let zlib = query.output().await.context("running dpkg-query")?;
    ensure!(zlib.status.success(), "dpkg-query knows no zlib1g");
    let version = String::from_utf8(zlib.stdout)?;
    Ok(vec![debian("zlib1g", &version)])
}

/// PDFium and the fonts.
pub(crate) fn of_worker(settings: &Settings) -> Result<Vec<Part>> {
    let version = fs::read(PDFIUM.path(settings).join("version.json"))?;
    let version: PdfiumVersion = serde_json::from_slice(&version)?;
    let mut parts = vec![Part {
        name: "pdfium".to_owned(),
        version: version.to_string(),
        origin: "pkg:generic/pdfium".to_owned(),
        is_optional: false,
    }];
    let fonts = IMAGES.path(settings).join("licences/packages.txt");
    let fonts = fs::read_to_string(fonts)?;
    let packages = fonts.lines().filter_map(|line| line.split_once(' '));
    parts.extend(packages.map(|(name, version)| debian(name, version)));
    Ok(parts)
}

fn debian(name: &str, version: &str) -> Part {
    Part {
        name: name.to_owned(),
        version: version.to_owned(),
        origin: format!("pkg:deb/debian/{name}"),
        // The slim image goes without.
        is_optional: name.contains("noto"),
    }
}

#[derive(Deserialize)]
struct PdfiumVersion {
    major: u32,
    minor: u32,
    build: u32,
    patch: u32,
}

impl fmt::Display for PdfiumVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            build,
            patch,
        } = self;
        write!(f, "{major}.{minor}.{build}.{patch}")
    }
}
