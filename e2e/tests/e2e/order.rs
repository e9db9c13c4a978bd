//! Messages in an unusual order: a configuration that changes between a split and its ranges, and
//! deletions among tasks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::pdf;
use layra_e2e::topics::Record;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{DateTime, Document, doc};
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

pub async fn entry(stage: &Stage, file_id: &str) -> Result<Option<Document>> {
    Ok(stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_ledger")
        .find_one(doc! { "_id": file_id })
        .await?)
}

/// Waits until the ledger has a document in this state.
pub async fn wait_state(stage: &Stage, file_id: &str, expected: &str) -> Result<Document> {
    eventually(&format!("the state {expected}"), MINUTE, async || {
        let entry = entry(stage, file_id).await?;
        Ok(entry.filter(|entry| entry.get_str("state").ok() == Some(expected)))
    })
    .await
}

/// A pipeline whose workers the test starts itself.
pub async fn without_workers(stage: &Stage) -> Result<()> {
    let patch = json!({"spec": {
        "source": {"kafka": {"sessionTimeoutSeconds": 6}},
        "documents": {"rangePages": 2},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    stage.apply_until_ready(&patch).await
}

/// A worker that needs this number of milliseconds for a page.
pub async fn paced(stage: &Stage, milliseconds: &str) -> Result<WorkerCli> {
    let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
    Ok(cli.with_arguments(&["--benchmark-paced-embedder-ms", milliseconds]))
}

/// Changes every value of a key in a worker's configuration.
pub fn configure(cli: &WorkerCli, key: &str, value: u32) -> Result<()> {
    let path = cli.directory().join("worker.yaml");
    let key = format!("{key}: ");
    let mut changed = 0;
    let text = std::fs::read_to_string(&path)?;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(&key) {
            Some((start, _)) if start.chars().all(|letter| " -".contains(letter)) => {
                changed += 1;
                format!("{start}{key}{value}")
            }
            _ => line.to_owned(),
        })
        .collect();
    ensure!(changed > 0, "no {key}in {}", path.display());
    Ok(std::fs::write(&path, lines.join("\n"))?)
}

/// One worker splits a document and dies. Workers with another configuration finish it.
async fn split_before_a_change(stage: &Stage, key: &str, value: u32) -> Result<Vec<Record>> {
    without_workers(stage).await?;
    let user = stage.user().await?;
    let slow = paced(stage, "3000").await?;
    let mut fleet = Fleet::start(&slow, 1)?;
    let long = user
        .upload_bytes("long.pdf", pdf::with_pages(&["Many pages."; 10]))
        .await?;
    let ranges = format!("{}.ranges", stage.topic());
    eventually("the document to be split", MINUTE, async || {
        Ok((stage.records(&ranges)?.len() == 5).then_some(()))
    })
    .await?;
    // Now the worker commits the task: only its ranges are left.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fleet.kill(0)?;
    drop(fleet);

    let changed = paced(stage, "1").await?;
    configure(&changed, key, value)?;
    // Each gets a range at the same time.
    let mut fleet = Fleet::start(&changed, 4)?;
    let done = wait_state(stage, &long.file_id, "done").await;
    if done.is_err() {
        eprintln!("{}", fleet.logs());
    }
    done?;
    stage.wait_until_processed().await?;
    fleet.stop().await?;
    let audit = stage.audit(&user).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(audit.pages[&long.file_id] == 10, "{audit:?}");
    ensure!(audit.vectors == 10, "{audit:?}");
    let dead_letters = stage.records(&format!("{}.dlq", stage.topic()))?;
    ensure!(dead_letters.is_empty(), "{dead_letters:#?}");
    let ranges = stage.records(&ranges)?;
    for range in &ranges {
        let rounds = range.headers.iter();
        let rounds = rounds.filter(|(key, _)| key == "layra-range-round");
        ensure!(rounds.count() == 1, "{range:?}");
        ensure!(range.header("priority") == Some("1"), "{range:?}");
    }
    Ok(ranges)
}

#[tokio::test]
async fn a_split_document_survives_a_change_of_its_resolution() -> Result<()> {
    on_stage("dpi", async |stage| {
        let ranges = split_before_a_change(stage, "dpi", 77).await?;
        ensure!(ranges.len() >= 10, "it is split again: {ranges:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_split_document_continues_after_a_change_of_the_batch_size() -> Result<()> {
    on_stage("batch", async |stage| {
        let ranges = split_before_a_change(stage, "batchPages", 3).await?;
        ensure!(ranges.len() == 5, "its ranges stay valid: {ranges:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failed_document_begins_again_only_after_its_removal() -> Result<()> {
    on_stage("lease", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let content = pdf::with_pages(&["Late, but here."]);
        let upload = user.put("late.pdf", content.clone()).await?;
        let path = upload.key.as_str().into();
        stage.stores.objects.delete(&path).await?;
        user.send_task(&upload).await?;
        stage
            .wait_tasks(std::slice::from_ref(&upload), "failed", MINUTE)
            .await?;

        // A worker that removes the document, and needs long for it.
        let until = DateTime::from_millis(DateTime::now().timestamp_millis() + 10_000);
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        let lease = doc! { "$set": { "cleaner": "another worker", "cleaning_until": until } };
        let filter = doc! { "_id": &upload.file_id };
        ledger.update_one(filter, lease).await?;
        let objects = &stage.stores.objects;
        objects.put(&path, PutPayload::from(content)).await?;
        user.send_task(&upload).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let waiting = entry(stage, &upload.file_id).await?.context("an entry")?;
        ensure!(waiting.get_str("state")? == "failed", "{waiting:?}");
        wait_state(stage, &upload.file_id, "done").await?;
        ensure!(DateTime::now() >= until, "it began too early");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 1, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_file_that_vanishes_while_it_is_processed_keeps_its_original() -> Result<()> {
    on_stage("vanish", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let cli = paced(stage, "1000").await?;
        configure(&cli, "batchPages", 1)?;
        configure(&cli, "rangePages", 64)?;
        let mut fleet = Fleet::start(&cli, 1)?;
        let upload = user
            .upload_bytes("gone.pdf", pdf::with_pages(&["A page."; 12]))
            .await?;
        let files = stage.stores.mongodb.collection::<Document>("files");
        let begun = doc! { "file_id": &upload.file_id, "images.0": { "$exists": true } };
        eventually("the first page", MINUTE, async || {
            Ok(files.find_one(begun.clone()).await?)
        })
        .await?;
        files
            .delete_one(doc! { "file_id": &upload.file_id })
            .await?;
        let entry = wait_state(stage, &upload.file_id, "deleted").await?;
        ensure!(!entry.get_bool("deletion_requested")?, "{entry:?}");
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.vectors == 0, "{audit:?}");
        let path = upload.key.as_str().into();
        stage
            .stores
            .objects
            .head(&path)
            .await
            .context("the original")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_file_that_is_sent_after_its_deletion_is_ingested() -> Result<()> {
    on_stage("resent", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let content = pdf::with_pages(&["One."]);
        let first = user.upload_bytes("first.pdf", content.clone()).await?;
        let deletion = json!({
            "type": "delete_file", "file_id": first.file_id,
            "knowledge_db_id": user.knowledge_base,
        });
        user.send(deletion.to_string().as_bytes()).await?;
        let mut again = user.put("again.pdf", content).await?;
        again.file_id.clone_from(&first.file_id);
        user.send_task(&again).await?;

        let cli = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        wait_state(stage, &first.file_id, "done").await?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.get(&first.file_id) == Some(&1), "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tasks_of_a_deleted_knowledge_base_are_dropped_with_their_originals() -> Result<()> {
    on_stage("tombstone", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let mut uploads = Vec::new();
        for name in ["one.pdf", "two.pdf", "three.pdf"] {
            let content = pdf::with_pages(&["A page."]);
            uploads.push(user.upload_bytes(name, content).await?);
        }
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let id = user.knowledge_base.as_str();
        cli.run(&["delete", "--knowledge-base", id]).await?;
        let cli = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;

        let dead_letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(dead_letters.is_empty(), "{dead_letters:#?}");
        for upload in &uploads {
            let path = upload.key.as_str().into();
            let original = stage.stores.objects.head(&path).await;
            ensure!(original.is_err(), "{original:?} is left");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_misspelt_knowledge_base_costs_no_other_one_its_collection() -> Result<()> {
    on_stage("misspelt", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let upload = user
            .upload_bytes("kept.pdf", pdf::with_pages(&["One."]))
            .await?;
        stage
            .wait_tasks(std::slice::from_ref(&upload), "completed", MINUTE)
            .await?;
        // As Milvus shows it in the name of the collection.
        let misspelt = user.knowledge_base.replace('-', "_");
        ensure!(misspelt != user.knowledge_base, "{misspelt}");
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let refused = cli.run(&["delete", "--knowledge-base", &misspelt]).await;
        let error = refused.err().context("the command must fail")?;
        ensure!(format!("{error:#}").contains("does not exist"), "{error:#}");

        let message = json!({"type": "delete_knowledge_base", "knowledge_db_id": misspelt});
        user.send(message.to_string().as_bytes()).await?;
        stage.wait_until_processed().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 1, "{audit:?}");
        Ok(())
    })
    .await
}
