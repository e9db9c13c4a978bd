//! `cargo measure memory`: a long document together with short ones. The worker must never hold it
//! in memory as a whole, and the short ones must not wait for it; otherwise the command fails.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_testbed::Testbed;
use object_store::ObjectStore;
use serde_json::json;

use super::{MINUTE, collection_of, completed};
use crate::audit::Audit;
use crate::cluster::{Scene, eventually};
use crate::layra::{User, random_id};
use crate::pdf;
use crate::processes::with_pid;
use crate::stores::Stores;
use crate::timeline::stored_pages;
use crate::worker_cli::WorkerCli;

const PAGES: usize = 2000;
const SHORT_DOCUMENTS: usize = 10;
/// Memory that the worker may use for pages.
const PAGES_MIB: u64 = 64;
/// Memory for everything else: program, model, batches in progress.
const BASE_MIB: u64 = 256;

/// Measures, and fails when a limit is exceeded.
pub async fn run(testbed: &Testbed, scene: &Scene, stores: &Stores) -> Result<()> {
    let id = random_id();
    let name = format!("memory-{}", &id[..6]);
    let topic = format!("{name}-tasks");
    let patch = json!({"spec": {
        "scaling": {"mode": "Manual", "replicas": 0},
        "documents": {"render": {"dpi": [{"dpi": 100}]}},
    }});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    scene
        .wait_condition(&name, "TopicReady", "True", "", MINUTE)
        .await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let log = std::fs::File::create(cli.directory().join("worker.log"))?;
    let mut worker =
        tokio::process::Command::from(cli.command(&["run", "--listen", "127.0.0.1:0"], "cache"))
            .env("LAYRA_PAGE_MEMORY_MIB", PAGES_MIB.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
    let process = worker.id().context("the pid of the worker")?;

    let user = User::with_knowledge_base(stores, &topic, "sprint", &id).await?;
    let reader = User::with_knowledge_base(stores, &topic, &format!("m{}", &id[..6]), &id).await?;
    let texts: Vec<String> = (1..=PAGES).map(|page| format!("Page {page}.")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let started = Instant::now();
    let document = reader
        .upload_bytes("long.pdf", pdf::illustrated(&texts))
        .await?;
    let pages_so_far = async || stored_pages(stores, &reader.knowledge_base).await;
    eventually("the long document's first pages", 2 * MINUTE, async || {
        Ok((pages_so_far().await? >= 100).then_some(()))
    })
    .await?;
    let (before, sent) = (pages_so_far().await?, Instant::now());
    let mut uploads = Vec::new();
    for number in 0..SHORT_DOCUMENTS {
        let name = format!("short{number}.pdf");
        let content = pdf::with_pages(&["A short document."]);
        uploads.push(user.upload_bytes(&name, content).await?);
    }
    eventually("the short documents", 2 * MINUTE, async || {
        Ok(completed(stores, &uploads).await?.then_some(()))
    })
    .await?;
    let (after, waited) = (pages_so_far().await?, sent.elapsed());
    println!(
        "short_documents={SHORT_DOCUMENTS} done_in={:.1}s long_document_pages={before}->{after}",
        waited.as_secs_f32()
    );
    ensure!(
        usize::try_from(after)? < PAGES,
        "the short documents waited for all {PAGES} pages of the long one"
    );

    eventually("the long document", 15 * MINUTE, async || {
        let document = std::slice::from_ref(&document);
        Ok(completed(stores, document).await?.then_some(()))
    })
    .await?;
    let seconds = started.elapsed().as_secs_f32();
    let peak = peak_mib(process)?;
    let total = image_bytes(stores, &reader).await? >> 20;
    let bound = PAGES_MIB + BASE_MIB;
    println!(
        "pages={PAGES} seconds={seconds:.0} page_images_mib={total} worker_peak_mib={peak} \
         bound_mib={bound}"
    );
    ensure!(worker.try_wait()?.is_none(), "the worker has exited");
    ensure!(
        total > bound,
        "{total} MiB of pages are too few to show anything"
    );
    ensure!(
        peak < bound,
        "the worker used {peak} MiB, more than {bound}"
    );
    let audit = Audit::of(
        stores,
        &reader.knowledge_base,
        &collection_of(&reader.knowledge_base),
    )
    .await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(usize::try_from(audit.total_pages())? == PAGES, "{audit:?}");
    worker.kill().await?;
    Ok(())
}

/// Peak of a process's resident memory.
fn peak_mib(pid: u32) -> Result<u64> {
    let status = with_pid(pid)?.status()?;
    Ok(status.vmhwm.context("VmHWM")? / 1024)
}

/// Bytes of all page images of a user.
async fn image_bytes(stores: &Stores, user: &User) -> Result<u64> {
    let prefix = format!("{}_", user.name);
    let all: Vec<_> = stores.objects.list(None).try_collect().await?;
    let images = all.iter().filter(|object| {
        let key = object.location.as_ref();
        key.starts_with(&prefix) && key.rsplit_once('.').is_some_and(|(_, kind)| kind == "png")
    });
    Ok(images.map(|object| object.size).sum())
}
