//! Renderers with small limits, and shortcuts to a page.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layra_rendering::{
    Document, ImageFormat, PageRequest, RenderError, RenderOptions, RenderedPage, Renderer,
    Resolution, SandboxPolicy,
};
use tempfile::TempDir;

pub fn options() -> RenderOptions {
    RenderOptions {
        pdfium: super::pdfium(),
        program: env!("CARGO_BIN_EXE_layra-renderer").into(),
        page_timeout: Duration::from_secs(20),
        memory_limit_bytes: 512 * 1024 * 1024,
        max_pages: 50,
        processes: 2,
        soffice: "/usr/lib/libreoffice/program/soffice.bin".into(),
        scratch: std::env::temp_dir(),
        office_timeout: Duration::from_mins(2),
        sandbox: SandboxPolicy::Required,
    }
}

pub fn at(page: u32, dpi: u32) -> PageRequest {
    PageRequest {
        page,
        resolution: Resolution::Dpi(dpi),
        format: ImageFormat::Png,
        quality: 85,
        pixels: true,
    }
}

/// A directory with one file.
pub fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("document");
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

pub async fn open(content: &[u8]) -> Result<Document, RenderError> {
    let (_directory, path) = file(content);
    Renderer::new(options()).open(&path).await
}

pub async fn first_page(content: &[u8], dpi: u32) -> Result<RenderedPage, RenderError> {
    open(content).await?.render(at(0, dpi)).await
}

/// A shell script in this directory.
pub fn script(directory: &Path, text: &str) -> PathBuf {
    let program = directory.join("renderer");
    std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// The text of a script that runs renderers as on a node that lacks something: `without-landlock`
/// or `without-seccomp`.
pub fn as_on_a_node(without: &str) -> String {
    let renderer = env!("CARGO_BIN_EXE_layra-renderer");
    format!("exec {renderer} {without} {renderer} \"$@\"")
}
