//! A long document beside short ones: it is never in memory as a whole, and nobody waits for it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_e2e::cluster::eventually;
use layra_e2e::layra::User;
use layra_e2e::pdf;
use layra_e2e::timeline::stored_pages;
use layra_e2e::worker_cli::WorkerCli;
use object_store::ObjectStore;
use serde_json::json;

use crate::scene::Stage;

const MINUTE: Duration = Duration::from_mins(1);
const PAGES: usize = 2000;
const SHORT_ONES: usize = 10;
/// What the worker may hold of pages.
const PAGES_MIB: u64 = 64;
/// What it needs for itself: program, model, batches on their way.
const ITSELF_MIB: u64 = 256;

#[tokio::test]
async fn a_long_document_streams_and_short_ones_do_not_wait_for_it() -> Result<()> {
    let stage = Stage::new("memory").await?;
    let result = async {
        let patch = json!({"spec": {
            "scaling": {"mode": "Manual", "replicas": 0},
            "documents": {"render": {"dpi": [{"dpi": 100}]}},
        }});
        stage.apply_until_ready(&patch).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let log = std::fs::File::create(cli.directory().join("worker.log"))?;
        let mut worker = tokio::process::Command::from(
            cli.command(&["run", "--listen", "127.0.0.1:0"], "cache"),
        )
        .env("LAYRA_PAGE_MEMORY_MIB", PAGES_MIB.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
        let process = worker.id().context("the worker runs")?;

        let user = stage.user().await?;
        let reader = stage.user_called("marathon").await?;
        let texts: Vec<String> = (1..=PAGES).map(|page| format!("Page {page}.")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let started = Instant::now();
        let document = reader
            .upload_bytes("long.pdf", pdf::illustrated(&texts))
            .await?;
        let stored = async || stored_pages(&stage.stores, &reader.knowledge_base).await;
        eventually("the long document's first pages", 2 * MINUTE, async || {
            Ok((stored().await? >= 100).then_some(()))
        })
        .await?;
        let (before, begun) = (stored().await?, Instant::now());
        let mut uploads = Vec::new();
        for number in 0..SHORT_ONES {
            let name = format!("short{number}.pdf");
            let content = pdf::with_pages(&["A short document."]);
            uploads.push(user.upload_bytes(&name, content).await?);
        }
        stage.wait_tasks(&uploads, "completed", 2 * MINUTE).await?;
        let (after, waited) = (stored().await?, begun.elapsed());
        println!(
            "short_documents={SHORT_ONES} done_in={:.1}s long_document_pages={before}->{after}",
            waited.as_secs_f32()
        );
        ensure!(
            usize::try_from(after)? < PAGES,
            "they waited for all {PAGES} pages"
        );

        stage
            .wait_tasks(&[document], "completed", 15 * MINUTE)
            .await?;
        let seconds = started.elapsed().as_secs_f32();
        let peak = peak_mib(process)?;
        let total = image_bytes(&stage, &reader).await? >> 20;
        let bound = PAGES_MIB + ITSELF_MIB;
        println!(
            "pages={PAGES} seconds={seconds:.0} page_images_mib={total} worker_peak_mib={peak} \
             bound_mib={bound}"
        );
        ensure!(worker.try_wait()?.is_none(), "the worker is still there");
        ensure!(total > bound, "{total} MiB of pages show nothing");
        ensure!(
            peak < bound,
            "the worker took {peak} MiB, more than {bound}"
        );
        let audit = stage.audit(&reader).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(usize::try_from(audit.total_pages())? == PAGES, "{audit:?}");
        worker.kill().await?;
        Ok(())
    }
    .await;
    stage.finish(result).await
}

/// Peak of a process's resident memory.
fn peak_mib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|line| line.split_whitespace().next())
        .context("VmHWM")?;
    Ok(peak.parse::<u64>()? / 1024)
}

/// Bytes of all page images of a user.
async fn image_bytes(stage: &Stage, user: &User) -> Result<u64> {
    let prefix = format!("{}_", user.name);
    let all: Vec<_> = stage.stores.objects.list(None).try_collect().await?;
    let images = all.iter().filter(|object| {
        let key = object.location.as_ref();
        key.starts_with(&prefix) && key.rsplit_once('.').is_some_and(|(_, kind)| kind == "png")
    });
    Ok(images.map(|object| object.size).sum())
}
