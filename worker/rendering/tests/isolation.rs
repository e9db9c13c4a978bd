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
use common::renderer::{as_on_a_node, at, file, first_page, open, options};
use layra_rendering::{
    ImageFormat, PageRequest, RenderError, RenderOptions, Renderer, SandboxPolicy,
};
use tempfile::TempDir;

/// A stand-in for the renderer: a shell script.
fn impostor(script: &str) -> (TempDir, RenderOptions) {
    let directory = tempfile::tempdir().unwrap();
    let program = common::renderer::script(directory.path(), script);
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

/// Takes the first request, and claims to be confined.
const CONFINED: &str = r"head -c 20 >/dev/null; printf 'LR\004\003\000\000\000\004\000\000'; ";
/// What it prints to claim that the document has two pages.
const OPENED: &str = r"printf 'LR\004\003\000\000\000\000\002\000'; ";

#[tokio::test]
async fn a_renderer_that_dies_hangs_or_lies_is_an_error() {
    for (script, reason) in [
        ("kill -SEGV $$", "Crashed"),
        ("echo boom >&2; exit 3", "Crashed"),
        ("kill -ABRT $$", "OutOfMemory"),
        ("kill -KILL $$", "RendererKilled"),
        ("sleep 60", "RendererStalled"),
        ("echo hello, this is no message; sleep 60", "GarbledAnswer"),
        // A valid header that announces a body of 4 GiB.
        (
            r"printf 'LR\004\377\377\377\377'; sleep 60",
            "GarbledAnswer",
        ),
        // A body of an allowed length that never arrives: the timeout applies, and no memory is
        // allocated for it.
        (
            r"printf 'LR\004\000\000\000\017'; sleep 60",
            "RendererStalled",
        ),
        // No such reply, and a text that claims to be longer than the body.
        (
            r"printf 'LR\004\001\000\000\000\144'; sleep 60",
            "GarbledAnswer",
        ),
        (
            r"printf 'LR\004\007\000\000\000\003\001\377\377\377\377\017'; sleep 60",
            "GarbledAnswer",
        ),
        // Opened with 0 pages, and with more than allowed.
        (
            r"printf 'LR\004\003\000\000\000\000\000\000'; sleep 60",
            "GarbledAnswer",
        ),
        (
            r"printf 'LR\004\007\000\000\000\000\377\377\377\377\017\000'; sleep 60",
            "GarbledAnswer",
        ),
        // Confined for a second time.
        (
            r"printf 'LR\004\003\000\000\000\004\000\000'; sleep 60",
            "GarbledAnswer",
        ),
        // Failures that only a renderer before its confinement can have: no library, no such page.
        (
            r"printf 'LR\004\003\000\000\000\003\011\000'; sleep 60",
            "GarbledAnswer",
        ),
        (
            r"printf 'LR\004\004\000\000\000\003\007\001\001'; sleep 60",
            "GarbledAnswer",
        ),
        // A file that cannot be read, which the worker can read.
        (
            r"printf 'LR\004\003\000\000\000\003\012\000'; sleep 60",
            "RendererKilled",
        ),
    ] {
        let error = opened_by(&format!("{CONFINED}{script}")).await;
        assert_eq!(error.reason(), reason, "{script}: {error}");
    }
    let endless = format!("{CONFINED}while :; do :; done");
    let error = computed(async || Err::<(), _>(opened_by(&endless).await)).await;
    assert_eq!(error.reason(), "TimedOut", "{error}");
}

#[tokio::test]
async fn before_a_renderer_is_confined_the_document_is_not_to_blame() {
    for (script, reason) in [
        ("kill -SEGV $$", "RendererUnavailable"),
        ("kill -SYS $$", "RendererUnavailable"),
        (
            "echo 'no such library' >&2; exit 127",
            "RendererUnavailable",
        ),
        (
            "echo hello, this is no message; sleep 60",
            "RendererUnavailable",
        ),
        ("kill -ABRT $$", "RendererUnavailable"),
        ("kill -KILL $$", "RendererKilled"),
        ("sleep 60", "RendererStalled"),
        ("while :; do :; done", "RendererStalled"),
        // Opened without being confined.
        (OPENED, "RendererUnavailable"),
    ] {
        let error = opened_by(script).await;
        assert_eq!(error.reason(), reason, "{script}: {error}");
        assert!(!error.is_document_fault(), "{script}: {error}");
    }
    let error = opened_by("echo 'no such library' >&2; exit 127").await;
    assert!(error.to_string().contains("no such library"), "{error}");
}

#[tokio::test]
async fn pages_that_lie_about_themselves_are_refused() {
    const PNG: &str = r"\211PNG\r\n\032\n";
    // Page 0 of 1 x 1 pixels, no text, no size, upright, no warnings, 24 bytes of image, pixels; then
    // the image.
    let page = |page: &str, width: &str, format: &str, pixels: &str| {
        let image = format!(r"{format}\000\000\000\015IHDR\000\000\000\001\000\000\000\001");
        format!(
            r"printf 'LR\004\045\000\000\000\002{page}{width}\001\000\000\001\000\030\001{image}{pixels}'; "
        )
    };
    for (script, is_good) in [
        (page(r"\000", r"\001", PNG, "abc"), true),
        (page(r"\001", r"\001", PNG, "abc"), false),
        (page(r"\000", r"\002", PNG, "abc"), false),
        (page(r"\000", r"\000", PNG, "abc"), false),
        (page(r"\000", r"\001", r"<html>..", "abc"), false),
    ] {
        let script = format!("{CONFINED}{OPENED}head -c 20 >/dev/null; {script}sleep 60");
        let (_program, options) = impostor(&script);
        let renderer = Renderer::new(options);
        let mut document = renderer.open("/etc/hostname".as_ref()).await.unwrap();
        match document.render(at(0, 72)).await {
            Ok(page) => assert!(is_good && page.width == 1, "{script}"),
            Err(error) => {
                assert!(!is_good, "{script}: {error}");
                assert_eq!(error.reason(), "GarbledAnswer", "{script}: {error}");
            }
        }
        if is_good {
            let request = PageRequest {
                format: ImageFormat::WebP,
                ..at(0, 72)
            };
            let mut document = renderer.open("/etc/hostname".as_ref()).await.unwrap();
            let error = document.render(request).await.unwrap_err();
            assert_eq!(error.reason(), "GarbledAnswer");
        }
    }
}

#[tokio::test]
async fn a_crash_while_rendering_affects_only_its_document() {
    let (_program, options) = impostor(&format!("{CONFINED}{OPENED}head -c 20 >/dev/null"));
    let mut document = Renderer::new(options)
        .open("/etc/hostname".as_ref())
        .await
        .unwrap();
    let first = document.render(at(0, 72)).await.unwrap_err();
    assert!(first.is_document_fault());
    assert!(!document.is_open());
    assert_eq!(document.render(at(1, 72)).await.unwrap_err(), first);
    assert!(
        first_page(&pdf(&[Page::with_text(&["Fine"])]), 72)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_stopped_renderer_is_not_the_documents_fault() {
    let (_directory, path) = file(&pdf(&[Page::with_text(&["Text"])]));
    let renderer = Renderer::new(RenderOptions {
        page_timeout: Duration::from_secs(2),
        ..options()
    });
    let mut document = renderer.open(&path).await.unwrap();
    let process = document.process_id().unwrap().to_string();
    let stopped = std::process::Command::new("kill")
        .args(["-STOP", &process])
        .status();
    assert!(stopped.unwrap().success());
    let error = document.render(at(0, 72)).await.unwrap_err();
    assert_eq!(error.reason(), "RendererStalled", "{error}");
    assert!(!error.is_document_fault());
    assert_eq!(document.process_id(), None, "it was killed");
    assert!(!document.is_open());
    let limit = Duration::from_secs(2);
    assert!(document.take_charged() >= limit, "the whole limit counts");
    // The next one is as good as before.
    let mut document = renderer.open(&path).await.unwrap();
    let mut charged = Duration::ZERO;
    // The kernel counts hundredths of a second, and a page takes less.
    for _ in 0..200 {
        assert!(document.render(at(0, 300)).await.is_ok());
        charged += document.take_charged();
        if !charged.is_zero() {
            break;
        }
    }
    assert!(document.is_open());
    assert!(charged > Duration::ZERO && charged < limit, "{charged:?}");
    assert_eq!(document.take_charged(), Duration::ZERO, "it counts once");
}

#[tokio::test]
async fn a_page_that_computes_without_end_is_the_documents_fault() {
    // Each of 25 million pixels is computed by a thousand steps.
    let mut page = Page::of_size(600.0, 600.0).extra(
        "/Resources << /Shading << /S << /ShadingType 1 /ColorSpace /DeviceGray \
         /Domain [0 600 0 600] /Function 7 0 R >> >> >>",
    );
    "/S sh".clone_into(&mut page.content);
    let mut function = Page::of_size(10.0, 10.0);
    "/FunctionType 4 /Domain [0 600 0 600] /Range [0 1]".clone_into(&mut function.stream);
    function.content = format!("{{ add 1200 div {} }}", "sin cos ".repeat(500));
    let (_directory, path) = file(&pdf(&[page, function]));
    let renderer = Renderer::new(RenderOptions {
        page_timeout: Duration::from_secs(2),
        ..options()
    });
    let error = computed(async || {
        let mut document = renderer.open(&path).await?;
        document.render(at(0, 600)).await
    });
    let error = error.await;
    assert_eq!(error.reason(), "TimedOut", "{error}");
    assert!(error.is_document_fault());
}

/// The error of something that computes without end. On a busy machine it may get too little CPU
/// time.
async fn computed<T: std::fmt::Debug>(
    work: impl AsyncFn() -> Result<T, RenderError>,
) -> RenderError {
    let mut error = work().await.unwrap_err();
    for _ in 0..5 {
        if error.reason() != "RendererStalled" {
            break;
        }
        error = work().await.unwrap_err();
    }
    error
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_set_up_blames_no_document() {
    let renderer = env!("CARGO_BIN_EXE_layra-renderer");
    let hidden = format!(
        "exec /usr/bin/unshare --mount /bin/sh -c \
         '/bin/mount -t tmpfs none /proc && exec {renderer} render-child'"
    );
    let (_directory, path) = file(&pdf(&[Page::with_text(&["Text"])]));
    for (what, script) in [
        ("/proc", hidden),
        ("seccomp", as_on_a_node("without-seccomp")),
        ("Landlock", as_on_a_node("without-landlock")),
    ] {
        let (_program, options) = impostor(&script);
        let renderer = Renderer::new(options);
        let error = renderer.open(&path).await.unwrap_err();
        assert_eq!(error.reason(), "SandboxUnavailable", "{what}: {error}");
        assert!(error.to_string().contains("sandbox"), "{what}: {error}");
        assert!(!error.is_document_fault());
        let error = renderer.self_test().await.unwrap_err();
        assert_eq!(error.reason(), "SandboxUnavailable", "{what}: {error}");
    }
}

#[tokio::test]
async fn a_required_sandbox_says_what_the_node_lacks_and_what_to_do() {
    for (lacking, without) in [
        ("seccomp", "without-seccomp"),
        ("Landlock", "without-landlock"),
    ] {
        let (_program, options) = impostor(&as_on_a_node(without));
        let error = Renderer::new(options).self_test().await.unwrap_err();
        let message = error.to_string();
        for part in [lacking, "documents.render.sandbox: BestEffort"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(
            message.len() < 400,
            "a condition shows all of it: {message}"
        );
    }
}

#[tokio::test]
async fn best_effort_renders_with_what_the_node_has() {
    for without in ["without-seccomp", "without-landlock"] {
        let (_program, options) = impostor(&as_on_a_node(without));
        let renderer = Renderer::new(RenderOptions {
            sandbox: SandboxPolicy::BestEffort,
            page_timeout: Duration::from_secs(20),
            ..options
        });
        renderer.self_test().await.unwrap();
    }
}

#[tokio::test]
async fn the_self_test_knows_whether_renderers_work() {
    let scratch = tempfile::tempdir().unwrap();
    let options = RenderOptions {
        scratch: scratch.path().to_owned(),
        ..options()
    };
    Renderer::new(options.clone()).self_test().await.unwrap();
    let left = std::fs::read_dir(&options.scratch).unwrap().count();
    assert_eq!(left, 0, "its document is removed");

    let no_library = RenderOptions {
        pdfium: "/nowhere/libpdfium.so".into(),
        ..options
    };
    let error = Renderer::new(no_library).self_test().await.unwrap_err();
    assert_eq!(error.reason(), "RendererUnavailable", "{error}");
    let (_program, impostor) = impostor(&format!("{CONFINED}exit 3"));
    let error = Renderer::new(impostor).self_test().await.unwrap_err();
    assert_eq!(error.reason(), "RendererUnavailable", "{error}");
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
    let killed_first = std::fs::read_to_string(process.join("oom_score_adj")).unwrap();
    assert_eq!(killed_first.trim(), "1000");
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
async fn a_page_stays_with_its_renderer_until_there_is_room() {
    let mut document = open(&pdf(&vec![Page::with_text(&["Text"]); 2]))
        .await
        .unwrap();
    let (give, given) = tokio::sync::oneshot::channel();
    let mut asked_for = 0;
    let mut page = Box::pin(document.render_into(at(0, 300), |bytes| {
        asked_for = bytes;
        given
    }));
    let early = tokio::time::timeout(Duration::from_secs(3), &mut page).await;
    assert!(early.is_err(), "there is no room yet");
    give.send("room").unwrap();
    let (page, room) = page.await.unwrap();
    assert_eq!(room, Ok("room"));
    let pixels = page.pixels.as_ref().unwrap().len();
    let bytes = page.encoded.len() + page.text.len() + pixels;
    assert!((bytes..bytes + 100).contains(&asked_for), "{asked_for}");
    assert!(document.render(at(1, 72)).await.is_ok());

    // The reply that waits for room must not become the one to a later request.
    let never = document.render_into(at(0, 72), |_| std::future::pending::<()>());
    let cancelled = tokio::time::timeout(Duration::from_secs(3), never).await;
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
