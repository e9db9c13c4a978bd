//! One document through the system: `layra-worker trace`, and its ids in the log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::Upload;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

async fn trace(cli: &WorkerCli, file_id: &str) -> Result<Value> {
    let found = cli.run(&["trace", file_id, "--output", "json"]).await?;
    serde_json::from_str(&found).with_context(|| format!("the output is not JSON: {found}"))
}

/// The log line of a worker with this text about a document, as JSON.
async fn line_about(stage: &Stage, upload: &Upload, text: &str) -> Result<Value> {
    let selector = format!("app.kubernetes.io/instance={}", stage.name);
    let of_worker = [
        "logs",
        "--selector",
        &selector,
        "--container",
        "worker",
        "--tail",
        "-1",
    ];
    eventually(&format!("a line `{text}`"), MINUTE, async || {
        let log = stage.scene.kubectl(&of_worker).await?;
        let mut lines = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let is_of = line["span"]["file_id"] == upload.file_id.as_str();
            (is_of && line["message"] == text).then_some(line)
        });
        Ok(lines.next_back())
    })
    .await
}

fn worker_count(replicas: u32) -> Value {
    json!({"spec": {"scaling": {"mode": "Manual", "replicas": replicas}}})
}

#[tokio::test]
async fn a_document_is_traced_from_the_queue_to_its_end() -> Result<()> {
    on_stage("trace", async |stage| {
        stage.apply_until_ready(&worker_count(0)).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let user = stage.user().await?.using_partitions_in_turn(1);
        let encrypted = include_bytes!("encrypted.pdf").to_vec();
        let locked = user.upload_bytes("locked.pdf", encrypted).await?;
        let good = pdf::with_pages(&["Bread dough rises.", "Copper conducts."]);
        let good = user.upload_bytes("good.pdf", good).await?;

        let queued = trace(&cli, &good.file_id).await?;
        ensure!(queued["state"] == "queued", "{queued}");
        let place = json!({
            "topic": stage.topic(), "partition": 0, "offset": 1, "messagesBefore": 1,
            "sentAt": queued["queue"]["sentAt"],
        });
        ensure!(queued["queue"] == place, "{queued}");
        let mut unknown = cli.command(&["trace", "nobody_nothing"], "cache");
        let unknown = tokio::task::spawn_blocking(move || unknown.output()).await??;
        ensure!(unknown.status.code() == Some(1), "{unknown:?}");
        let answer = String::from_utf8_lossy(&unknown.stdout);
        ensure!(answer.contains("unknown: neither"), "{unknown:?}");

        stage.apply_until_ready(&worker_count(1)).await?;
        let limit = 2 * MINUTE;
        stage
            .wait_tasks(std::slice::from_ref(&good), "completed", limit)
            .await?;
        stage
            .wait_tasks(std::slice::from_ref(&locked), "failed", limit)
            .await?;

        let done = trace(&cli, &good.file_id).await?;
        ensure!(done["state"] == "done", "{done}");
        let pages = json!({"total": 2, "stored": 2, "skipped": 0, "vectors": 2});
        ensure!(done["pages"] == pages, "{done}");
        ensure!(done["document"]["taskId"] == good.task_id, "{done}");
        let times = &done["times"];
        ensure!(times["finishedAt"].is_string(), "{done}");
        ensure!(times["tookSeconds"].as_f64().is_some(), "{done}");
        let stages = times["stages"].as_array().context("stages")?;
        let render = stages.iter().find(|time| time["stage"] == "render");
        let render = render.and_then(|time| time["seconds"].as_f64());
        ensure!(render.is_some_and(|seconds| seconds > 0.0), "{done}");

        let failed = trace(&cli, &locked.file_id).await?;
        ensure!(failed["state"] == "deadLettered", "{failed}");
        let failure = &failed["failure"];
        ensure!(failure["reason"] == "Encrypted", "{failed}");
        ensure!(failure["whatToDo"].is_string(), "{failed}");
        let redrive = failure["redrive"].as_str().context("a command")?;
        let command = format!("redrive --file {}", locked.file_id);
        ensure!(redrive.ends_with(&command), "{failed}");
        let text = cli.run(&["trace", &locked.file_id]).await?;
        ensure!(text.contains("state       dead-lettered"), "{text}");

        for (upload, message) in [(&good, "stored"), (&locked, "sending dead letter")] {
            let line = line_about(stage, upload, message).await?;
            let span = &line["span"];
            ensure!(span["task_id"] == upload.task_id.as_str(), "{line}");
            ensure!(span["partition"] == 0 && span["offset"].is_u64(), "{line}");
        }
        Ok(())
    })
    .await
}
