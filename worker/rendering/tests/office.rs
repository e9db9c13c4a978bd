//! Office documents converted by the real LibreOffice, which the test-bed installs.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::documents::{Part, zip};
use common::renderer::{as_on_a_node, at, file, options, script};
use layra_rendering::{RenderError, RenderOptions, RenderedPage, Renderer, SandboxPolicy};
use tempfile::TempDir;

const TEXT: &[u8] = include_bytes!("fixtures/office/text.docx");

/// A renderer with its own directory for conversions.
fn renderer(change: impl FnOnce(&mut RenderOptions)) -> (TempDir, Renderer) {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = RenderOptions {
        scratch: scratch.path().to_owned(),
        memory_limit_bytes: 1 << 30,
        ..options()
    };
    change(&mut options);
    (scratch, Renderer::new(options))
}

async fn pages(renderer: &Renderer, content: &[u8]) -> Result<Vec<RenderedPage>, RenderError> {
    let (_directory, path) = file(content);
    let mut document = renderer.open(&path).await?;
    let mut pages = Vec::new();
    for page in 0..document.pages() {
        pages.push(document.render(at(page, 72)).await?);
    }
    Ok(pages)
}

fn assert_empty(directory: &Path) {
    let left: Vec<_> = std::fs::read_dir(directory).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn documents_of_every_office_format_become_pages() {
    let (scratch, renderer) = renderer(|_| {});
    let text = ["Quarterly report", "second line"];
    let sheet = ["Apples", "Pears"];
    let slides = ["Roadmap", "Second slide"];
    let cases: [(&str, &[u8], [&str; 2], usize); 10] = [
        ("docx", TEXT, text, 1),
        ("doc", include_bytes!("fixtures/office/text.doc"), text, 1),
        ("odt", include_bytes!("fixtures/office/text.odt"), text, 1),
        ("rtf", include_bytes!("fixtures/office/text.rtf"), text, 1),
        (
            "xlsx",
            include_bytes!("fixtures/office/sheet.xlsx"),
            sheet,
            1,
        ),
        ("xls", include_bytes!("fixtures/office/sheet.xls"), sheet, 1),
        ("ods", include_bytes!("fixtures/office/sheet.ods"), sheet, 1),
        (
            "pptx",
            include_bytes!("fixtures/office/slide.pptx"),
            slides,
            2,
        ),
        (
            "ppt",
            include_bytes!("fixtures/office/slide.ppt"),
            slides,
            2,
        ),
        (
            "odp",
            include_bytes!("fixtures/office/slide.odp"),
            slides,
            2,
        ),
    ];
    for (format, content, words, count) in cases {
        let pages = pages(&renderer, content).await;
        let pages = pages.unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(pages.len(), count, "{format}");
        let text: Vec<&str> = pages.iter().map(|page| page.text.as_str()).collect();
        let text = text.join("\n");
        for word in words {
            assert!(text.contains(word), "{format}: {text}");
        }
        let ink = pages[0]
            .pixels
            .as_ref()
            .unwrap()
            .iter()
            .any(|byte| *byte < 100);
        assert!(ink, "{format}: the page is blank");
    }
    assert_empty(scratch.path());
}

#[tokio::test]
async fn without_libreoffice_the_error_names_the_image_to_use() {
    let (_scratch, renderer) = renderer(|options| options.soffice = "/nowhere/soffice.bin".into());
    let error = pages(&renderer, TEXT).await.unwrap_err();
    assert_eq!(error.reason(), "Unsupported");
    let message = error.to_string();
    assert!(
        message.contains("docx") && message.contains("worker/Containerfile.office"),
        "{message}"
    );
    assert!(error.is_document_fault());
}

#[tokio::test]
async fn concurrent_opens_of_a_document_share_its_conversion() {
    let (scratch, renderer) = renderer(|_| {});
    let (_directory, path) = file(TEXT);
    let (first, second) = tokio::join!(renderer.open(&path), renderer.open(&path));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    drop(first.unwrap());
    let mut second = second.unwrap();
    assert!(
        second.render(at(0, 72)).await.is_ok(),
        "its PDF still exists"
    );
    drop(second);
    assert_empty(scratch.path());
}

#[tokio::test]
async fn a_document_that_is_opened_again_is_not_converted_again() {
    let (scratch, renderer) = renderer(|_| {});
    let (_directory, path) = file(TEXT);
    let conversions = || -> Vec<_> {
        let entries = std::fs::read_dir(scratch.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let lost = renderer.open(&path).await.unwrap();
    let converted = lost.converted();
    drop(lost);
    let before = conversions();
    assert!(renderer.open(&path).await.is_ok());
    assert_eq!((before.len(), conversions()), (1, before));
    drop(converted);
    assert_empty(scratch.path());
}

#[tokio::test]
async fn invalid_office_documents_say_why() {
    let (scratch, renderer) = renderer(|options| {
        // Only the last two get as far as LibreOffice.
        options.office_timeout = Duration::from_mins(1);
    });
    let stored = |name: &str, content: &[u8]| Part::stored(name, content);
    let encrypted_odt = zip(&[
        stored("mimetype", b"application/vnd.oasis.opendocument.text"),
        stored("META-INF/manifest.xml", b"<manifest:encryption-data>"),
    ]);
    let mut flagged = include_bytes!("fixtures/office/text.doc").to_vec();
    let header = [0xec, 0xa5];
    let start = flagged
        .windows(2)
        .position(|bytes| bytes == header)
        .unwrap();
    flagged[start + 11] |= 1;
    let cases: [(&str, &[u8], &str); 8] = [
        (
            "another archive",
            &zip(&[stored("a.txt", b"text")]),
            "Unsupported",
        ),
        ("half an archive", &TEXT[..2000], "Damaged"),
        (
            "half an OLE file",
            &include_bytes!("fixtures/office/text.doc")[..600],
            "Damaged",
        ),
        (
            "an encrypted docx",
            include_bytes!("fixtures/office/encrypted.docx"),
            "Encrypted",
        ),
        ("an encrypted odt", &encrypted_odt, "Encrypted"),
        ("an encrypted doc", &flagged, "Encrypted"),
        (
            "no document inside",
            &zip(&[
                stored("[Content_Types].xml", b"<x/>"),
                stored("word/document.xml", b"<"),
            ]),
            "Damaged",
        ),
        (
            "an OLE file of another kind",
            &ole_without_document(),
            "Unsupported",
        ),
    ];
    for (what, content, reason) in cases {
        let error = pages(&renderer, content).await.expect_err(what);
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert!(error.is_document_fault(), "{what}");
    }
    assert_empty(scratch.path());
}

fn ole_without_document() -> Vec<u8> {
    let mut container = cfb::CompoundFile::create(std::io::Cursor::new(Vec::new())).unwrap();
    container.create_stream("/something").unwrap();
    container.into_inner().into_inner()
}

#[tokio::test]
async fn zip_bombs_never_reach_libreoffice() {
    let (scratch, renderer) = renderer(|options| {
        let program = options.scratch.join("not-to-be-started");
        std::fs::write(&program, "#!/bin/sh\ntouch started").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        options.soffice = program;
    });
    let types = Part::stored("[Content_Types].xml", b"<x/>");
    let zeros = vec![0; 200 << 20];
    let bomb = Part::deflated("word/document.xml", &zeros);
    // The same, but the archive announces a small size.
    let liar = Part {
        announced: 1000,
        ..bomb.clone()
    };
    for (what, part, reason) in [
        ("announced", bomb, "TooLarge"),
        ("hidden", liar, "TooLarge"),
    ] {
        let archive = zip(&[types.clone(), part]);
        assert!(archive.len() < 1 << 20);
        let error = pages(&renderer, &archive).await.expect_err(what);
        assert_eq!(error.reason(), reason, "{what}: {error}");
    }
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 1, "only the program");
}

#[tokio::test]
async fn a_conversion_that_times_out_is_killed_with_its_children() {
    let (scratch, renderer) =
        renderer(|options| options.office_timeout = Duration::from_millis(20));
    let started = Instant::now();
    let error = pages(&renderer, TEXT).await.unwrap_err();
    // It depends on the machine how much of the time LibreOffice had the CPU.
    let reasons = ["TimedOut", "RendererStalled"];
    assert!(reasons.contains(&error.reason()), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_empty(scratch.path());
    assert_eq!(processes_below(scratch.path()), 0);
}

/// Processes whose working directory is below this one.
fn processes_below(directory: &Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(directory))
        .count()
}

#[tokio::test]
async fn linked_local_files_are_not_read() {
    let secret = tempfile::Builder::new().prefix("secret").tempdir().unwrap();
    let path = secret.path().join("secret.txt");
    std::fs::write(&path, "hunter2").unwrap();
    // A section whose content is another file.
    let content = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:xlink="http://www.w3.org/1999/xlink" office:version="1.2"><office:body><office:text>
<text:p>Before</text:p>
<text:section text:name="s"><text:section-source xlink:href="file://{}"
 text:filter-name="Text"/><text:p>Old</text:p></text:section>
<text:p>After</text:p></office:text></office:body></office:document-content>"#,
        path.display()
    );
    let manifest = r#"<?xml version="1.0" encoding="UTF-8"?>
<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" manifest:version="1.2">
<manifest:file-entry manifest:full-path="/" manifest:media-type="application/vnd.oasis.opendocument.text"/>
<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/></manifest:manifest>"#;
    let document = zip(&[
        Part::stored("mimetype", b"application/vnd.oasis.opendocument.text"),
        Part::deflated("content.xml", content.as_bytes()),
        Part::stored("META-INF/manifest.xml", manifest.as_bytes()),
    ]);
    let (_scratch, renderer) = renderer(|_| {});
    let pages = pages(&renderer, &document).await.unwrap();
    let text = &pages[0].text;
    assert!(text.contains("Before") && text.contains("After"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

/// A renderer whose LibreOffice is a shell script.
fn with_impostor(text: &str) -> (TempDir, TempDir, Renderer) {
    let installation = tempfile::tempdir().unwrap();
    // The sandbox executes nothing outside LibreOffice's own folder but libraries.
    let shell = installation.path().join("sh");
    std::fs::copy("/bin/sh", &shell).unwrap();
    let program = installation.path().join("soffice.bin");
    std::fs::write(&program, format!("#!{}\n{text}\n", shell.display())).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let (scratch, renderer) = renderer(|options| options.soffice = program);
    (installation, scratch, renderer)
}

#[tokio::test]
async fn what_libreoffice_writes_is_not_taken_for_a_report_of_its_start() {
    let lie = "echo 'LibreOffice was not started: a lie'";
    for text in [
        format!("{lie}; {lie} >&2; exit 1"),
        lie.replace("was not started", "cannot be confined"),
    ] {
        let (_installation, _scratch, renderer) = with_impostor(&text);
        let error = pages(&renderer, TEXT).await.unwrap_err();
        assert_eq!(error.reason(), "Damaged", "{text}: {error}");
    }
}

#[tokio::test]
async fn a_process_that_ends_before_libreoffice_blames_no_document() {
    let directory = tempfile::tempdir().unwrap();
    let renderers = env!("CARGO_BIN_EXE_layra-renderer");
    for (end, reason) in [
        ("exit 127", "RendererUnavailable"),
        ("kill -SEGV $$", "RendererUnavailable"),
        ("kill -KILL $$", "RendererKilled"),
    ] {
        let text = format!("[ \"$1\" != office-child ] || {end}; exec {renderers} \"$@\"");
        let program = script(directory.path(), &text);
        let (_scratch, renderer) = renderer(|options| options.program = program);
        let error = pages(&renderer, TEXT).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{end}: {error}");
        assert!(!error.is_document_fault(), "{end}: {error}");
    }
}

#[tokio::test]
async fn without_landlock_libreoffice_starts_only_with_best_effort() {
    let directory = tempfile::tempdir().unwrap();
    // Only LibreOffice's process is on such a node.
    let renderers = env!("CARGO_BIN_EXE_layra-renderer");
    let text = format!(
        "[ \"$1\" = office-child ] || exec {renderers} \"$@\"\n{}",
        as_on_a_node("without-landlock")
    );
    let program = script(directory.path(), &text);
    for policy in [SandboxPolicy::Required, SandboxPolicy::BestEffort] {
        let (_scratch, renderer) = renderer(|options| {
            options.program.clone_from(&program);
            options.sandbox = policy;
        });
        let pages = pages(&renderer, TEXT).await;
        match policy {
            SandboxPolicy::Required => {
                let error = pages.unwrap_err();
                assert_eq!(error.reason(), "SandboxUnavailable", "{error}");
                assert!(error.to_string().contains("Landlock"), "{error}");
            }
            SandboxPolicy::BestEffort => assert_eq!(pages.unwrap().len(), 1),
        }
    }
}

#[tokio::test]
async fn files_of_libreoffice_are_limited_in_number() {
    let flood = "i=0; while :; do : > file$i; i=$((i+1)); done";
    let (_installation, scratch, renderer) = with_impostor(flood);
    let error = pages(&renderer, TEXT).await.unwrap_err();
    assert_eq!(error.reason(), "TooLarge", "{error}");
    assert!(error.to_string().contains("10000 files"), "{error}");
    assert_empty(scratch.path());
}
