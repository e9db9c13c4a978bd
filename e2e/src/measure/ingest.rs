//! `cargo measure ingest`: the worker and a Python script with LAYRA's stages and libraries ingest
//! the same documents on the same servers, alternately.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_testbed::Testbed;
use layra_testbed::artifacts::{MINILM, PDFS};
use layra_testbed::settings::repository;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use super::processes::{Cpu, resident_with_children};
use super::{MINUTE, collection_of, completed, smallest_pdfs};
use crate::audit::Audit;
use crate::cluster::{Scene, eventually};
use crate::faults::fleet::Fleet;
use crate::layra::{Upload, User, random_id};
use crate::milvus_admin;
use crate::pdf;
use crate::stores::{BUCKET, DATABASE, Stores};
use crate::worker_cli::WorkerCli;

/// Size and settings of the measurement.
#[derive(Clone, Debug)]
pub struct IngestPlan {
    /// Number of documents, the smallest of the demo's.
    pub documents: usize,
    /// Rounds; in each, the worker and the script ingest all documents once.
    pub rounds: usize,
    /// Resolution in dots per inch; LAYRA uses 200.
    pub dpi: u32,
    /// A Python interpreter with `e2e/bench/requirements-ingest.txt`.
    pub python: PathBuf,
}

/// Result of one run of the worker or of the script.
#[derive(Debug)]
struct Run {
    pages: u64,
    seconds: f64,
    /// CPU seconds by stage.
    cpu: Vec<(String, f64)>,
    peak_bytes: u64,
}

/// The report that the script prints.
#[derive(Debug, Deserialize)]
struct PythonReport {
    pages: u64,
    seconds: f64,
    cpu: Map<String, Value>,
    peak_bytes: u64,
}

impl Run {
    fn print(&self, name: &str) {
        let pages = self.pages as f64;
        let of = |seconds: f64| seconds * 1e3 / pages;
        let stages: Vec<String> = self
            .cpu
            .iter()
            .map(|(stage, seconds)| format!("{stage} {:.1}", of(*seconds)))
            .collect();
        println!(
            "{name:7} {:.2} pages/s, {:.1} ms of CPU per page ({}), {} MB",
            pages / self.seconds,
            of(self.cpu_seconds()),
            stages.join(", "),
            self.peak_bytes / 1_000_000
        );
    }

    fn cpu_seconds(&self) -> f64 {
        self.cpu.iter().map(|(_, seconds)| seconds).sum()
    }

    fn outside_the_model(&self) -> f64 {
        let others = self.cpu.iter().filter(|(stage, _)| stage != "embed");
        others.map(|(_, seconds)| seconds).sum()
    }
}

/// Measures and prints the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &IngestPlan,
) -> Result<()> {
    let files = smallest_pdfs(&PDFS.path(testbed.settings()), plan.documents)?;
    let mut best: Option<(Run, Run)> = None;
    for round in 1..=plan.rounds {
        println!("round {round} of {}", plan.rounds);
        let worker = by_worker(testbed, scene, stores, plan, &files).await?;
        worker.print("worker");
        let python = by_python(testbed, stores, plan, &files).await?;
        python.print("Python");
        ensure!(worker.pages == python.pages, "{worker:?} and {python:?}");
        best = Some(match best {
            None => (worker, python),
            Some((a, b)) => (faster(a, worker), faster(b, python)),
        });
    }
    let (worker, python) = best.context("at least one round")?;
    println!("\nfaster round of each, {} pages:", worker.pages);
    worker.print("worker");
    python.print("Python");
    println!(
        "worker / Python: pages/s {:.2}; CPU per page {:.2}; CPU outside the model {:.2}; memory {:.2}",
        python.seconds / worker.seconds,
        worker.cpu_seconds() / python.cpu_seconds(),
        worker.outside_the_model() / python.outside_the_model(),
        worker.peak_bytes as f64 / python.peak_bytes as f64
    );
    Ok(())
}

fn faster(a: Run, b: Run) -> Run {
    if a.seconds <= b.seconds { a } else { b }
}

/// Measures one worker process, from its first task to the last page.
async fn by_worker(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &IngestPlan,
    files: &[PathBuf],
) -> Result<Run> {
    let id = random_id();
    let name = format!("ingest-{}", &id[..6]);
    let patch = json!({"spec": {
        "documents": {"render": {"dpi": [{"dpi": plan.dpi}], "imageFormat": "Png"}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    let topic = format!("{name}-tasks");
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let (user, uploads) = upload(stores, &topic, files).await?;
    let mut fleet = Fleet::start(&cli, 1)?;
    eventually("a worker with partitions", MINUTE, async || {
        Ok(fleet.all_have_logged("partitions assigned").then_some(()))
    })
    .await?;
    let pid = fleet.process_ids()[0];
    // As in the script, the collection exists and the model has run once when the clock starts.
    let first = user.put("first.pdf", pdf::with_pages(&["warm"])).await?;
    user.send_task(&first).await?;
    eventually("the first document", MINUTE, async || {
        let all = completed(stores, std::slice::from_ref(&first)).await?;
        Ok(all.then_some(()))
    })
    .await?;

    let (start, before) = (Instant::now(), Cpu::of_worker(pid)?);
    for upload in &uploads {
        user.send_task(upload).await?;
    }
    let mut peak_bytes = 0;
    while !completed(stores, &uploads).await? {
        peak_bytes = peak_bytes.max(resident_with_children(pid));
        ensure!(start.elapsed() < 20 * MINUTE, "{}", fleet.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = Cpu::of_worker(pid)?.since(before);
    fleet.stop().await?;
    let pages = check(stores, &user).await? - 1;
    Ok(Run {
        pages,
        seconds,
        cpu: [
            ("render and png", cpu.render),
            ("embed", cpu.embed),
            ("rest", cpu.rest),
        ]
        .map(|(stage, time)| (stage.to_owned(), time.as_secs_f64()))
        .to_vec(),
        peak_bytes,
    })
}

/// Measures the script, without the time that loading the model takes.
async fn by_python(
    testbed: &Testbed,
    stores: &Stores,
    plan: &IngestPlan,
    files: &[PathBuf],
) -> Result<Run> {
    let (user, uploads) = upload(stores, "nobody-reads-this", files).await?;
    let s3 = &stores.endpoints.s3;
    let documents: Vec<Value> = uploads
        .iter()
        .map(|upload| {
            json!({"file_id": upload.file_id, "key": upload.key, "filename": upload.filename})
        })
        .collect();
    let request = json!({
        "model": MINILM.path(testbed.settings()), "dpi": plan.dpi, "documents": documents,
        "username": user.name, "knowledge_base": user.knowledge_base,
        "collection": collection_of(&user.knowledge_base), "bucket": BUCKET,
        "s3": {"endpoint": s3.endpoint, "access_key": s3.access_key, "secret_key": s3.secret_key},
        "mongodb_uri": stores.endpoints.mongodb_uri, "database": DATABASE,
        "milvus": stores.endpoints.milvus,
    });
    let mut script = tokio::process::Command::new(&plan.python)
        .arg(repository().join("e2e/bench/ingest.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| plan.python.display().to_string())?;
    let mut input = script.stdin.take().context("standard input")?;
    input.write_all(request.to_string().as_bytes()).await?;
    drop(input);
    let output = script.wait_with_output().await?;
    ensure!(output.status.success(), "the script failed");
    let report: PythonReport = serde_json::from_slice(&output.stdout)?;
    let pages = check(stores, &user).await?;
    ensure!(pages == report.pages, "{pages} pages stored: {report:?}");
    let seconds = |value: Value| value.as_f64().unwrap_or_default();
    Ok(Run {
        pages,
        seconds: report.seconds,
        cpu: report
            .cpu
            .into_iter()
            .map(|(stage, value)| (stage, seconds(value)))
            .collect(),
        peak_bytes: report.peak_bytes,
    })
}

/// Uploads the files for a new user, without sending tasks.
async fn upload(stores: &Stores, topic: &str, files: &[PathBuf]) -> Result<(User, Vec<Upload>)> {
    let user = User::with_knowledge_base(stores, topic, "measure", &random_id()).await?;
    let mut uploads = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        uploads.push(user.put(&name, std::fs::read(file)?).await?);
    }
    Ok((user, uploads))
}

/// Checks that every page is in every store, deletes their vectors, and returns the number of
/// pages.
async fn check(stores: &Stores, user: &User) -> Result<u64> {
    let collection = collection_of(&user.knowledge_base);
    let audit = Audit::of(stores, &user.knowledge_base, &collection).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    milvus_admin::drop(&stores.milvus, &collection).await?;
    Ok(audit.total_pages())
}
