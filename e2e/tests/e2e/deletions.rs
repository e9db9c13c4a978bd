//! Deletions and tasks in an unusual order. The clocks of their senders differ by minutes, and the
//! offsets decide.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::{Upload, User};
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{milvus_admin, pdf};
use mongodb::bson::{Document, doc};
use object_store::{ObjectStoreExt, PutPayload};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::order::{configure, entry, paced, wait_state, without_workers};
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
/// How far clocks differ, in milliseconds.
const AHEAD: i64 = 120_000;
const BEHIND: i64 = -AHEAD;

/// Sends messages to a partition, as a machine does whose clock is wrong.
struct Sender<'a> {
    producer: FutureProducer,
    stage: &'a Stage,
    user: &'a User,
}

impl<'a> Sender<'a> {
    fn new(stage: &'a Stage, user: &'a User) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &stage.testbed.endpoints().kafka)
            .create()?;
        Ok(Self {
            producer,
            stage,
            user,
        })
    }

    /// Sends a message and returns its offset.
    async fn send(
        &self,
        partition: i32,
        clock: i64,
        value: &str,
        headers: OwnedHeaders,
    ) -> Result<i64> {
        let topic = self.stage.topic();
        let record: FutureRecord<'_, str, str> = FutureRecord::to(&topic)
            .partition(partition)
            .timestamp(now()? + clock)
            .headers(headers)
            .payload(value);
        let sent = self.producer.send(record, Duration::from_secs(20)).await;
        let sent = sent.map_err(|(error, _)| error)?;
        Ok(sent.offset)
    }

    async fn task(&self, partition: i32, clock: i64, upload: &Upload) -> Result<i64> {
        let task = self.value(upload);
        self.send(partition, clock, &task, OwnedHeaders::new())
            .await
    }

    fn value(&self, upload: &Upload) -> String {
        json!({
            "task_id": upload.task_id, "username": self.user.name,
            "knowledge_db_id": self.user.knowledge_base,
            "file_meta": {
                "file_id": upload.file_id, "minio_filename": upload.key,
                "original_filename": upload.filename, "minio_url": null,
            },
        })
        .to_string()
    }

    async fn delete_file(&self, partition: i32, clock: i64, file_id: &str) -> Result<i64> {
        let deletion = json!({
            "type": "delete_file", "file_id": file_id,
            "knowledge_db_id": self.user.knowledge_base,
        });
        let deletion = deletion.to_string();
        self.send(partition, clock, &deletion, OwnedHeaders::new())
            .await
    }
}

/// Milliseconds since 1970.
fn now() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}

/// A second upload of the same file, under another key.
async fn again(user: &User, first: &Upload) -> Result<Upload> {
    let content = pdf::with_pages(&["One."]);
    let mut again = user.put("again.pdf", content).await?;
    again.file_id.clone_from(&first.file_id);
    Ok(again)
}

async fn has_original(stage: &Stage, upload: &Upload) -> bool {
    let path = upload.key.as_str().into();
    stage.stores.objects.head(&path).await.is_ok()
}

/// One worker processes everything that was sent.
async fn process(stage: &Stage) -> Result<()> {
    let cli = paced(stage, "1").await?;
    let mut fleet = Fleet::start(&cli, 1)?;
    let processed = stage.wait_until_processed().await;
    if processed.is_err() {
        eprintln!("{}", fleet.logs());
    }
    processed?;
    fleet.stop().await?;
    let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
    ensure!(letters.is_empty(), "{letters:#?}");
    Ok(())
}

/// Exactly this one-page file is in the stores.
async fn check_only(stage: &Stage, user: &User, file_id: &str) -> Result<()> {
    let audit = stage.audit(user).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(audit.pages.get(file_id) == Some(&1), "{audit:?}");
    ensure!(audit.vectors == 1, "{audit:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_sent_after_its_deletion_is_ingested_whatever_the_clocks_say() -> Result<()>
{
    on_stage("clocks", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let first = user.put("first.pdf", pdf::with_pages(&["One."])).await?;
        let second = again(&user, &first).await?;
        sender.task(0, AHEAD, &first).await?;
        sender.delete_file(0, 0, &first.file_id).await?;
        sender.task(0, BEHIND, &second).await?;
        process(stage).await?;
        wait_state(stage, &first.file_id, "done").await?;
        check_only(stage, &user, &first.file_id).await?;
        ensure!(has_original(stage, &second).await, "the second original");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_deletion_that_is_delivered_again_leaves_the_file_that_was_sent_again() -> Result<()> {
    on_stage("redelivered", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let cli = paced(stage, "800").await?;
        configure(&cli, "batchPages", 1)?;
        configure(&cli, "rangePages", 64)?;
        let first = user.put("first.pdf", pdf::with_pages(&["One."])).await?;
        sender.task(1, 0, &first).await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        wait_state(stage, &first.file_id, "done").await?;

        // As long as this is in progress, no offset of its partition is committed.
        let long = pdf::with_pages(&["A page."; 48]);
        let long = user.put("long.pdf", long).await?;
        sender.task(0, 0, &long).await?;
        sender.delete_file(0, 0, &first.file_id).await?;
        let deleted = eventually("the deletion to be complete", MINUTE, async || {
            let entry = entry(stage, &first.file_id).await?.context("an entry")?;
            let deletions = entry.get_array("deletions").into_iter().flatten();
            let mut deletions = deletions.filter_map(|each| each.as_document());
            let is_done = deletions.any(|each| each.get_bool("done").unwrap_or_default());
            Ok(is_done.then_some(entry))
        });
        ensure!(deleted.await?.get_str("state")? == "deleted", "its state");
        let second = again(&user, &first).await?;
        sender.task(1, 0, &second).await?;
        wait_state(stage, &first.file_id, "done").await?;
        let waiting = entry(stage, &long.file_id).await?.context("an entry")?;
        ensure!(waiting.get_str("state")? == "working", "{waiting:?}");
        fleet.kill(0)?;
        fleet.restart_dead()?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.get(&first.file_id) == Some(&1), "{audit:?}");
        ensure!(audit.pages.get(&long.file_id) == Some(&48), "{audit:?}");
        ensure!(has_original(stage, &second).await, "the second original");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_task_that_is_sent_again_after_a_deletion_is_as_old_as_before() -> Result<()> {
    on_stage("repeated", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let first = user.put("first.pdf", pdf::with_pages(&["One."])).await?;
        let request = format!("{}/0/{}", stage.topic(), sender.task(0, 0, &first).await?);
        let (sent_at, value) = (now()?.to_string(), sender.value(&first));
        sender.delete_file(0, 0, &first.file_id).await?;
        // A worker found the task orphaned.
        let repeats = |value| {
            let header = |key, value| Header { key, value };
            OwnedHeaders::new()
                .insert(header("layra-request-origin", Some(value)))
                .insert(header("layra-request-at", Some(&sent_at)))
        };
        sender.send(0, AHEAD, &value, repeats(&request)).await?;
        sender.send(1, AHEAD, &value, repeats(&request)).await?;
        process(stage).await?;
        let entry = entry(stage, &first.file_id).await?.context("an entry")?;
        ensure!(entry.get_str("state")? == "deleted", "{entry:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 0, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn queued_tasks_of_a_deleted_knowledge_base_are_dropped_whatever_the_clocks_say() -> Result<()>
{
    on_stage("base", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let mut uploads = Vec::new();
        for name in ["one.pdf", "two.pdf", "three.pdf"] {
            let upload = user.put(name, pdf::with_pages(&["A page."])).await?;
            sender.task(0, AHEAD, &upload).await?;
            uploads.push(upload);
        }
        let deletion = json!({
            "type": "delete_knowledge_base", "knowledge_db_id": user.knowledge_base,
        });
        let deletion = deletion.to_string();
        sender.send(0, 0, &deletion, OwnedHeaders::new()).await?;
        process(stage).await?;
        for upload in &uploads {
            ensure!(!has_original(stage, upload).await, "{} is left", upload.key);
        }
        let files = stage.stores.mongodb.collection::<Document>("files");
        let left = files.find_one(doc! { "knowledge_db_id": &user.knowledge_base });
        let left = left.await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_of_a_knowledge_base_that_layra_deletes_is_dropped() -> Result<()> {
    on_stage("layras", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let cli = paced(stage, "1000").await?;
        configure(&cli, "batchPages", 1)?;
        configure(&cli, "rangePages", 64)?;
        let mut fleet = Fleet::start(&cli, 1)?;
        let upload = user
            .upload_bytes("gone.pdf", pdf::with_pages(&["A page."; 12]))
            .await?;
        let database = &stage.stores.mongodb;
        let files = database.collection::<Document>("files");
        let begun = doc! { "file_id": &upload.file_id, "images.0": { "$exists": true } };
        eventually("the first page", MINUTE, async || {
            Ok(files.find_one(begun.clone()).await?)
        })
        .await?;
        let bases = database.collection::<Document>("knowledge_bases");
        let base = doc! { "knowledge_base_id": &user.knowledge_base };
        bases.delete_one(base).await?;
        let collection = format!("colqwen{}", user.knowledge_base.replace('-', "_"));
        milvus_admin::drop(&stage.stores.milvus, &collection).await?;
        let entry = wait_state(stage, &upload.file_id, "deleted").await?;
        ensure!(!entry.get_bool("deletion_requested")?, "{entry:?}");
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(letters.is_empty(), "{letters:#?}");
        ensure!(
            has_original(stage, &upload).await,
            "the original is LAYRA's"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_command_tells_earlier_from_later_tasks_by_their_offsets() -> Result<()> {
    on_stage("command", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let gone = user.put("gone.pdf", pdf::with_pages(&["Two."])).await?;
        let first = user.put("first.pdf", pdf::with_pages(&["One."])).await?;
        let second = again(&user, &first).await?;
        sender.task(0, AHEAD, &gone).await?;
        sender.task(1, AHEAD, &first).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        for file in [&gone, &first] {
            let base = user.knowledge_base.as_str();
            let arguments = ["delete", "--knowledge-base", base, "--file", &file.file_id];
            cli.run(&arguments).await?;
        }
        sender.task(1, BEHIND, &second).await?;
        process(stage).await?;
        wait_state(stage, &first.file_id, "done").await?;
        check_only(stage, &user, &first.file_id).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_dead_letter_of_a_range_has_the_key_of_its_task() -> Result<()> {
    on_stage("key", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let sender = Sender::new(stage, &user)?;
        let slow = paced(stage, "3000").await?;
        let mut fleet = Fleet::start(&slow, 1)?;
        let long = pdf::with_pages(&["Many pages."; 10]);
        let long = user.put("long.pdf", long).await?;
        let value = sender.value(&long);
        user.send_with_key(Some("a key"), value.as_bytes()).await?;
        let ranges = format!("{}.ranges", stage.topic());
        eventually("the document to be split", MINUTE, async || {
            Ok((stage.records(&ranges)?.len() == 5).then_some(()))
        })
        .await?;
        // Now the worker commits the task: only its ranges are left.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        fleet.kill(0)?;
        drop(fleet);
        let path = long.key.as_str().into();
        let other = PutPayload::from(pdf::with_pages(&["One page."]));
        stage.stores.objects.put(&path, other).await?;

        let cli = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        for range in stage.records(&ranges)? {
            ensure!(range.key.as_deref() == Some("a key"), "{range:?}");
        }
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(!letters.is_empty(), "no dead letter");
        for letter in &letters {
            ensure!(letter.key.as_deref() == Some("a key"), "{letter:?}");
            let reason = letter.header("layra-error-reason");
            ensure!(reason == Some("OriginalChanged"), "{letter:?}");
        }
        Ok(())
    })
    .await
}
