//! Documents on which a worker ends, and the documents beside them, which must not suffer from that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use layra_testbed::Service;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Starts a pipeline whose workers the test starts itself, and returns their command line.
async fn without_workers(stage: &Stage, arguments: &[&str]) -> Result<WorkerCli> {
    let patch = json!({"spec": {
        "source": {"kafka": {"sessionTimeoutSeconds": 6}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    stage.apply_until_ready(&patch).await?;
    let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
    Ok(cli.with_arguments(arguments))
}

async fn entry(stage: &Stage, file_id: &str) -> Result<Option<Document>> {
    let ledger = stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_ledger");
    Ok(ledger.find_one(doc! { "_id": file_id }).await?)
}

/// Whether the ledger has the document in this state.
async fn is(stage: &Stage, file_id: &str, expected: &str) -> Result<bool> {
    let entry = entry(stage, file_id).await?;
    Ok(entry.is_some_and(|entry| entry.get_str("state").ok() == Some(expected)))
}

/// A number of the first page range of a document.
fn number(entry: &Document, field: &str) -> Option<i64> {
    let range = entry.get_document("units").ok()?.get_document("0").ok()?;
    let number = range.get(field)?;
    number.as_i64().or_else(|| number.as_i32().map(i64::from))
}

#[tokio::test]
async fn a_page_that_ends_the_model_costs_its_document_alone() -> Result<()> {
    on_stage("deaths", async |stage| {
        let arguments = [
            "--benchmark-paced-embedder-ms=200",
            "--benchmark-paced-embedder-panics-at=poisonous",
        ];
        let cli = without_workers(stage, &arguments).await?;
        let user = stage.user().await?;
        let bad = pdf::with_pages(&["A poisonous page."]);
        let bad = user.upload_bytes("bad.pdf", bad).await?;
        let good = pdf::with_pages(&["A page."; 6]);
        let good = user.upload_bytes("good.pdf", good).await?;

        let mut fleet = Fleet::start(&cli, 1)?;
        let ended = eventually("both documents to end", MINUTE, async || {
            fleet.restart_dead()?;
            let bad = is(stage, &bad.file_id, "failed").await?;
            let good = is(stage, &good.file_id, "done").await?;
            Ok((bad && good).then_some(()))
        });
        let ended = ended.await;
        if ended.is_err() {
            eprintln!("{}", fleet.logs());
        }
        ended?;
        stage.wait_until_processed().await?;
        let exits = fleet.unexpected_exits().to_vec();
        fleet.stop().await?;
        ensure!(exits.len() <= 3, "{exits:#?}");
        let dead_letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(dead_letters.len() == 1, "{dead_letters:#?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.get(&good.file_id) == Some(&6), "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_worker_that_exits_with_work_unfinished_gives_its_claims_back() -> Result<()> {
    alone_on_stage("give-back", async |stage| {
        let arguments = ["--benchmark-paced-embedder-ms=1", "--grace-seconds=15"];
        let cli = without_workers(stage, &arguments).await?;
        let user = stage.user().await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        eventually("a ready worker", MINUTE, async || {
            Ok(fleet.all_have_logged("ready for work").then_some(()))
        })
        .await?;

        // A request to Milvus takes longer than the worker's grace period.
        let frozen = stage.testbed.service(Service::Milvus)?.freeze()?;
        let upload = user
            .upload_bytes("slow.pdf", pdf::with_pages(&["A page."]))
            .await?;
        let attempts = async || {
            let entry = entry(stage, &upload.file_id).await?;
            anyhow::Ok(entry.and_then(|entry| number(&entry, "attempts")))
        };
        eventually("a claim", MINUTE, async || {
            Ok((attempts().await? == Some(1)).then_some(()))
        })
        .await?;
        let took = fleet.terminate(0).await?;
        if fleet.count_logged("claims given back") != 1 {
            eprintln!("{}", fleet.logs());
        }
        ensure!(took < Duration::from_secs(15), "{took:?}");
        ensure!(attempts().await? == Some(0), "{:?}", attempts().await?);
        let unfinished = entry(stage, &upload.file_id).await?.context("an entry")?;
        let open = unfinished.get_array("open")?;
        ensure!(open.len() == 1, "a write may be in flight: {unfinished:?}");
        drop(frozen);

        fleet.restart_dead()?;
        eventually("the document", MINUTE, async || {
            let done = is(stage, &upload.file_id, "done").await?;
            Ok(done.then_some(()))
        })
        .await?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 1, "{audit:?}");
        Ok(())
    })
    .await
}
