//! Shared helpers of the rendering tests.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod documents;
pub mod renderer;

use std::path::{Path, PathBuf};

/// The PDFium library of the test-bed.
pub fn pdfium() -> PathBuf {
    artifact("LAYRA_PDFIUM", "pdfium/libpdfium.so")
}

/// The directory with the test-bed's PDF documents.
pub fn pdfs() -> PathBuf {
    artifact("LAYRA_PDFS", "pdfs")
}

fn artifact(variable: &str, in_cache: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| cache().join(in_cache), PathBuf::from);
    assert!(
        path.exists(),
        "{} does not exist: run `cargo testbed artifacts`, or set {variable}",
        path.display()
    );
    path
}

fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    std::env::var_os("LAYRA_TESTBED_CACHE").map_or_else(
        || Path::new(&home).join(".cache/layra-testbed"),
        PathBuf::from,
    )
}
