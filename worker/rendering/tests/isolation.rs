//! Isolation of renderer processes, and the errors that follow when they misbehave.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::documents::{Page, pdf};
use common::renderer::{at, file, first_page, open, options};
use layra_rendering::{RenderError, RenderOptions, Renderer};
use tempfile::TempDir;

/// A stand-in for the renderer: a shell script.
fn impostor(script: &str) -> (TempDir, RenderOptions) {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("renderer");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let page_timeout = Duration::from_millis(1500);
    let options = RenderOptions {
        program,
        page_timeout,
        ..options()
    };
    (directory, options)
}

async fn opened_by(script: &str) -> RenderError {
    let (_program, options) = impostor(script);
    Renderer::new(options)
        .open("/etc/hostname".as_ref())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_renderer_that_dies_hangs_or_lies_is_an_error() {
    for (script, reason) in [
        ("kill -SEGV $$", "Crashed"),
        ("echo boom >&2; exit 3", "Crashed"),
        ("kill -ABRT $$", "OutOfMemory"),
        ("kill -KILL $$", "RendererKilled"),
        ("sleep 60", "TimedOut"),
        ("echo hello, this is no message; sleep 60", "GarbledAnswer"),
        // A valid header that announces a body of 4 GiB.
        (
            r"printf 'LR\002\377\377\377\377'; sleep 60",
            "GarbledAnswer",
        ),
        // A body of an allowed length that never arrives: the timeout applies, and no memory is
        // allocated for it.
        (r"printf 'LR\002\000\000\000\017'; sleep 60", "TimedOut"),
        // No such reply, and a text that claims to be longer than the body.
        (
            r"printf 'LR\002\001\000\000\000\144'; sleep 60",
            "GarbledAnswer",
        ),
        (
            r"printf 'LR\002\007\000\000\000\000\001\377\377\377\377\017'; sleep 60",
            "GarbledAnswer",
        ),
        // Opened with 0 pages, and with more than allowed.
        (
            r"printf 'LR\002\003\000\000\000\000\000\000'; sleep 60",
            "GarbledAnswer",
        ),
        (
            r"printf 'LR\002\007\000\000\000\000\377\377\377\377\017\000'; sleep 60",
            "GarbledAnswer",
        ),
    ] {
        let error = opened_by(script).await;
        assert_eq!(error.reason(), reason, "{script}: {error}");
    }
}

#[tokio::test]
async fn a_crash_while_rendering_affects_only_its_document() {
    let (_program, options) =
        impostor(r"printf 'LR\002\003\000\000\000\000\002\000'; head -c 20 >/dev/null");
    let mut document = Renderer::new(options)
        .open("/etc/hostname".as_ref())
        .await
        .unwrap();
    let first = document.render(at(0, 72)).await.unwrap_err();
    assert!(first.is_document_fault());
    assert_eq!(document.render(at(1, 72)).await.unwrap_err(), first);
    assert!(
        first_page(&pdf(&[Page::with_text(&["Fine"])]), 72)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_renderer_has_neither_environment_nor_inherited_descriptors() {
    let document = open(&pdf(&[Page::with_text(&["Text"])])).await.unwrap();
    let process = proc_of(document.process_id());
    let descriptors = std::fs::read_dir(process.join("fd")).unwrap().count();
    assert!(
        descriptors <= 4,
        "three pipes and the document, not {descriptors}"
    );
    assert!(std::fs::read(process.join("environ")).unwrap().is_empty());
    let limits = std::fs::read_to_string(process.join("limits")).unwrap();
    for limit in [
        "core file size",
        "file size",
        "address space",
        "open files",
        "cpu time",
    ] {
        let line = limits
            .lines()
            .find(|line| line.starts_with(&format!("Max {limit}")))
            .unwrap();
        let soft = line[26..].split_whitespace().next();
        assert_ne!(soft, Some("unlimited"), "{line}");
    }
}

#[tokio::test]
async fn dropping_a_document_kills_its_renderer() {
    let document = open(&pdf(&[Page::with_text(&["Text"])])).await.unwrap();
    let process = proc_of(document.process_id());
    assert!(process.exists());
    drop(document);
    for _ in 0..100 {
        if !process.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the renderer is still running");
}

#[tokio::test]
async fn a_renderer_killed_from_outside_is_not_the_documents_fault() {
    let mut document = open(&pdf(&[Page::with_text(&["Text"])])).await.unwrap();
    let process = document.process_id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-KILL", &process])
            .status()
            .unwrap()
            .success()
    );
    let error = document.render(at(0, 72)).await.unwrap_err();
    assert_eq!(error, RenderError::Killed { signal: 9 });
    assert_eq!(document.process_id(), None);
}

#[tokio::test]
async fn page_ranges_leave_slots_for_short_documents() {
    let (_directory, path) = file(&pdf(&[Page::with_text(&["Text"])]));
    let renderer = Renderer::new(RenderOptions {
        processes: 1,
        ..options()
    });
    let part = renderer.open_part(&path).await.unwrap();
    let waits = async |open: &mut tokio::task::JoinHandle<()>| {
        let waited = tokio::time::timeout(Duration::from_millis(300), open).await;
        waited.is_err()
    };
    let (other, file) = (renderer.clone(), path.clone());
    let mut second = tokio::spawn(async move { drop(other.open_part(&file).await.unwrap()) });
    assert!(waits(&mut second).await, "one part is open at a time");
    let mut short = renderer.open(&path).await.unwrap();
    short.render(at(0, 72)).await.unwrap();
    let _third = renderer.open(&path).await.unwrap();
    let (other, file) = (renderer.clone(), path.clone());
    let mut fourth = tokio::spawn(async move { drop(other.open(&file).await.unwrap()) });
    assert!(
        waits(&mut fourth).await,
        "three documents are open at a time"
    );
    drop(part);
    second.await.unwrap();
    fourth.await.unwrap();
}

#[tokio::test]
async fn a_cancelled_page_does_not_mix_up_replies() {
    let mut document = open(&pdf(&vec![Page::with_text(&["Text"]); 2]))
        .await
        .unwrap();
    let cancelled = tokio::time::timeout(Duration::ZERO, document.render(at(0, 300))).await;
    assert!(cancelled.is_err());
    let error = document.render(at(1, 72)).await.unwrap_err();
    assert!(!error.is_document_fault(), "{error}");
}

#[tokio::test]
async fn an_image_that_unpacks_to_gigabytes_becomes_an_error_or_a_page() {
    let mut page = Page::of_size(200.0, 200.0);
    // 16 zero bytes, ASCIIHex, for a picture of 3.6 GB.
    page.content = "q 200 0 0 200 0 0 cm BI /W 34000 /H 34000 /CS /RGB /BPC 8 /F /AHx ID \
                    00000000000000000000000000000000> EI Q"
        .to_owned();
    let result = first_page(&pdf(&[page]), 72).await;
    if let Err(error) = result {
        assert!(error.is_document_fault(), "{error}");
    }
}

fn proc_of(process: Option<u32>) -> PathBuf {
    PathBuf::from(format!("/proc/{}", process.expect("the renderer is alive")))
}
