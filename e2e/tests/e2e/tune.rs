//! `layra-worker tune`: measures on copies, and leaves nothing behind, however it ends.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::random_id;
use layra_e2e::worker_cli::WorkerCli;
use milvus::v2::prelude::ListCollectionsRequest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::recall::{document, text};
use crate::scene::{Stage, on_stage};
use crate::visual::{MODEL, serve_model};

const MINUTE: Duration = Duration::from_mins(1);
const DOCUMENTS: u64 = 2;
const QUESTIONS: usize = 6;

#[tokio::test]
async fn tune_chooses_a_preset_and_removes_its_copies_and_those_of_a_killed_run() -> Result<()> {
    on_stage("tune", async |stage| {
        serve_model(stage).await?;
        stage.apply_until_ready(&pipeline()).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let base = format!("alice_{}", random_id());
        ingest(&cli, &base).await?;
        let before = collections(stage).await?;

        let mut killed = start(&cli, &base, &[])?;
        let left = eventually("a copy", MINUTE, async || {
            Ok(copies(stage).await?.into_iter().next())
        })
        .await?;
        killed.kill().await?;
        ensure!(copies(stage).await?.contains(&left), "the copy outlives it");

        let file = cli.directory().join("questions.txt");
        std::fs::write(&file, questions())?;
        let file = file.to_str().context("a path in UTF-8")?;
        // All presets: `cargo measure tune`.
        let presets = ["--preset", "Accurate"];
        let arguments = ["--output", "json", "--questions", file];
        let arguments = [&arguments[..], &presets[..]].concat();
        let run = start(&cli, &base, &arguments)?.wait_with_output().await?;
        let error = String::from_utf8_lossy(&run.stderr);
        ensure!(run.status.success(), "layra-worker tune: {error}");
        let report: Value = serde_json::from_slice(&run.stdout)?;
        check(&report).with_context(|| report.to_string())?;
        ensure!(collections(stage).await? == before, "{left} is left");

        let mut stopped = start(&cli, &base, &[])?;
        eventually("another copy", MINUTE, async || {
            Ok(copies(stage).await?.into_iter().next())
        })
        .await?;
        let pid = stopped.id().context("it has ended")?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        ensure!(!stopped.wait().await?.success(), "it was interrupted");
        ensure!(collections(stage).await? == before, "after a signal");
        Ok(())
    })
    .await
}

/// What holds for any vectors and any version of Milvus.
fn check(report: &Value) -> Result<()> {
    let pages = DOCUMENTS * 50;
    ensure!(
        report["pages"] == json!(pages),
        "with questions, all pages are copied"
    );
    ensure!(report["questions"] == json!(QUESTIONS));
    let cells = report["cells"].as_array().context("cells")?;
    ensure!(report["refused"] == json!([]));
    ensure!(cells.len() == 8, "{} cells", cells.len());
    for cell in cells {
        ensure!(cell["preset"] == "Accurate", "{cell}");
        let number = |name: &str| cell[name].as_f64().with_context(|| name.to_owned());
        let recall = number("recallAt10")?;
        ensure!((0.5..=1.0).contains(&recall), "{cell}");
        ensure!(
            number("p50Ms")? > 0.0 && number("p99Ms")? >= number("p50Ms")?,
            "{cell}"
        );
    }
    let chosen = &report["choice"];
    ensure!(chosen["recallAt10"].as_f64() >= Some(0.9), "{chosen}");
    let storage = report["storage"].as_array().context("storage")?;
    let whole = storage.first().context("a row")?;
    ensure!(whole["vectorType"] == "Float32" && whole["recallAt10"] == json!(1.0));
    ensure!(storage.len() == 12, "four formats, three pool factors");
    Ok(())
}

fn pipeline() -> Value {
    json!({"spec": {
        "stores": {"milvus": {"collection": "tune_{knowledge_db_id}"}},
        "documents": {"render": {"dpi": [{"dpi": 60}]}},
        "embedding": {
            "model": {"family": "colqwen2_5", "uri": format!("s3://models/{MODEL}")},
            "maxVisualTokens": 16,
            "batchPages": 32,
        },
    }})
}

/// Ingests documents without Kafka and workers.
async fn ingest(cli: &WorkerCli, base: &str) -> Result<()> {
    let mut arguments = vec!["ingest".to_owned(), "--knowledge-base".into(), base.into()];
    for number in 0..DOCUMENTS {
        let file = cli.directory().join(format!("{number}.pdf"));
        std::fs::write(&file, document(number))?;
        arguments.push(file.to_string_lossy().into_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cli.run(&arguments).await?;
    Ok(())
}

fn questions() -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let lines = (0..QUESTIONS).map(|_| format!("Where is the {}?\n", text(&mut random, 5)));
    lines.collect()
}

fn start(cli: &WorkerCli, base: &str, more: &[&str]) -> Result<Child> {
    let arguments = ["tune", "--knowledge-base", base, "--wanted-recall", "0.9"];
    let command = cli.command(&[&arguments, more].concat(), "cache");
    let mut command = Command::from(command);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command.spawn()?)
}

/// The temporary collections.
async fn copies(stage: &Stage) -> Result<Vec<String>> {
    let all = collections(stage).await?;
    Ok(all
        .into_iter()
        .filter(|name| name.starts_with("layra_tune_"))
        .collect())
}

/// The temporary collections, and the knowledge bases of this test.
async fn collections(stage: &Stage) -> Result<Vec<String>> {
    let request = ListCollectionsRequest::builder().build()?;
    let answer = stage.stores.milvus.list_collections(request).await?;
    let mut names = answer.collection_names().to_vec();
    names.retain(|name| name.starts_with("layra_tune_") || name.starts_with("tune_"));
    names.sort();
    Ok(names)
}
