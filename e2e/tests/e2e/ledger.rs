//! Documents that need the ledger: split, deleted, redriven, orphaned, or deadly for workers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{DateTime, Document, doc};
use object_store::{ObjectStore, PutOptions};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

async fn entry(stage: &Stage, file_id: &str) -> Result<Option<Document>> {
    Ok(stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_ledger")
        .find_one(doc! { "_id": file_id })
        .await?)
}

/// Keys of all objects of a user.
async fn objects(stage: &Stage, username: &str) -> Result<Vec<String>> {
    let prefix = format!("{username}_");
    let all: Vec<_> = stage.stores.objects.list(None).try_collect().await?;
    let keys = all.into_iter().map(|object| object.location.to_string());
    Ok(keys.filter(|key| key.starts_with(&prefix)).collect())
}

#[tokio::test]
async fn a_long_document_is_split_and_becomes_complete() -> Result<()> {
    on_stage("long", async |stage| {
        let patch = json!({"spec": {"documents": {"rangePages": 4}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let texts: Vec<String> = (1..=18)
            .map(|page| format!("Page number {page}."))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let long = user
            .upload_bytes("long.pdf", pdf::with_pages(&texts))
            .await?;
        let short = user
            .upload_bytes("short.pdf", pdf::with_pages(&["Short."]))
            .await?;
        stage
            .wait_tasks(&[short, long.clone()], "completed", 3 * MINUTE)
            .await?;

        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages[&long.file_id] == 18, "{audit:?}");
        ensure!(audit.vectors == 19, "{audit:?}");
        let ranges = stage.records(&format!("{}.ranges", stage.topic()))?;
        ensure!(ranges.len() == 5, "{ranges:#?}");
        let mut partitions: Vec<i32> = ranges.iter().map(|range| range.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        ensure!(
            partitions.len() >= 4,
            "ranges are spread over all partitions: {partitions:?}"
        );
        for range in &ranges {
            ensure!(
                range.value.contains(&long.file_id),
                "a range has the value of its task: {range:?}"
            );
            ensure!(
                range.header("priority") == Some("1"),
                "a range has the headers of its task: {range:?}"
            );
        }
        let entry = entry(stage, &long.file_id).await?.context("an entry")?;
        ensure!(entry.get_str("state")? == "done", "{entry:?}");
        ensure!(entry.get_document("units")?.len() == 5, "{entry:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deleted_documents_disappear_from_every_store() -> Result<()> {
    on_stage("delete", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let name = format!("d{}", &stage.name[stage.name.len() - 6..]);
        let user = stage.user_called(&name).await?;
        let gone = user
            .upload_bytes("gone.pdf", pdf::with_pages(&["One.", "Two."]))
            .await?;
        let kept = user
            .upload_bytes("kept.pdf", pdf::with_pages(&["Three."]))
            .await?;
        stage
            .wait_tasks(&[gone.clone(), kept.clone()], "completed", 2 * MINUTE)
            .await?;
        ensure!(
            objects(stage, &name).await?.len() == 5,
            "two originals and three pages"
        );

        let message = json!({
            "type": "delete_file", "file_id": gone.file_id,
            "knowledge_db_id": user.knowledge_base,
        });
        // The second message finds nothing to delete.
        user.send(message.to_string().as_bytes()).await?;
        user.send(message.to_string().as_bytes()).await?;
        eventually(
            "one file to be left, with two objects",
            MINUTE,
            async || {
                let audit = stage.audit(&user).await?;
                let left = objects(stage, &name).await?;
                let alone = audit.pages.len() == 1 && audit.pages.contains_key(&kept.file_id);
                let clean = audit.violations.is_empty() && audit.vectors == 1;
                Ok((alone && clean && left.len() == 2).then_some(()))
            },
        )
        .await?;

        let message = json!({
            "type": "delete_knowledge_base", "knowledge_db_id": user.knowledge_base,
        });
        user.send(message.to_string().as_bytes()).await?;
        eventually("the knowledge base to be deleted", MINUTE, async || {
            let bases = stage
                .stores
                .mongodb
                .collection::<Document>("knowledge_bases");
            let base = bases.find_one(doc! { "knowledge_base_id": &user.knowledge_base });
            let is_gone = base.await?.is_none() && objects(stage, &name).await?.is_empty();
            Ok(is_gone.then_some(()))
        })
        .await?;
        ensure!(
            stage.records(&format!("{}.dlq", stage.topic()))?.is_empty(),
            "a deletion is not a failure"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_dead_letter_is_redriven_once_after_its_cause_is_fixed() -> Result<()> {
    on_stage("redrive", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let content = pdf::with_pages(&["Late, but here."]);
        let mut upload = user.put("late.pdf", content.clone()).await?;
        let key = upload.key.clone();
        upload.key = format!("{key}.not-yet");
        user.send_task(&upload).await?;
        stage
            .wait_tasks(std::slice::from_ref(&upload), "failed", 2 * MINUTE)
            .await?;

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let dry = cli
            .run(&["redrive", "--reason", "ObjectNotFound", "--dry-run"])
            .await?;
        ensure!(
            dry.contains(&upload.file_id) && dry.contains("1 dead letter would"),
            "{dry}"
        );
        let other = cli.run(&["redrive", "--reason", "Encrypted"]).await?;
        ensure!(
            other.contains("0 dead letters redriven, 1 skipped"),
            "{other}"
        );

        let path = upload.key.as_str().into();
        stage
            .stores
            .objects
            .put_opts(&path, content.into(), PutOptions::default())
            .await?;
        let report = cli.run(&["redrive"]).await?;
        ensure!(report.contains("1 dead letter redriven"), "{report}");
        eventually("the page to be searchable", 2 * MINUTE, async || {
            let audit = stage.audit(&user).await?;
            let found = audit.pages.get(&upload.file_id) == Some(&1);
            Ok((found && audit.violations.is_empty()).then_some(()))
        })
        .await?;
        let again = cli.run(&["redrive"]).await?;
        ensure!(again.contains("0 dead letters redriven"), "{again}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_that_kills_workers_is_dead_lettered_and_others_are_processed() -> Result<()> {
    on_stage("poison", async |stage| {
        let patch = json!({"spec": {
            "documents": {"render": {"onBadPage": "Fail"}},
            "scaling": {"mode": "Manual", "replicas": 0},
        }});
        stage.apply_until_ready(&patch).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        // Slow, so that each attempt is still in progress when the test notices and kills it.
        let cli = cli.with_arguments(&["--benchmark-paced-embedder-ms", "3000"]);
        let mut fleet = Fleet::start(&cli, 1)?;
        let user = stage.user().await?;
        let poison = user
            .upload_bytes("poison.pdf", pdf::with_pages(&["Deadly."; 8]))
            .await?;
        let innocent = user
            .upload_bytes("innocent.pdf", pdf::with_pages(&["Fine."]))
            .await?;

        // Every worker that starts the document is killed.
        let mut turn = 0;
        let letters = eventually("a dead letter", 4 * MINUTE, async || {
            let started = entry(stage, &poison.file_id).await?.and_then(|entry| {
                let unit = entry.get_document("units").ok()?.get_document("0").ok()?;
                unit.get_i64("turns").ok()
            });
            let failed = stage.records(&format!("{}.dlq", stage.topic()))?;
            if !failed.is_empty() {
                return Ok(Some(failed));
            }
            if let Some(now) = started.filter(|now| *now > turn) {
                turn = now;
                fleet.kill(0)?;
            }
            fleet.restart_dead()?;
            Ok(None)
        })
        .await?;
        let letter = &letters[0];
        ensure!(letter.value.contains(&poison.file_id), "{letter:?}");
        ensure!(
            letter.header("layra-error-reason") == Some("WorkersDied"),
            "{letter:?}"
        );
        ensure!(
            letter.header("layra-error-class") == Some("poison"),
            "{letter:?}"
        );
        stage
            .wait_tasks(&[innocent], "completed", 2 * MINUTE)
            .await?;
        stage.wait_tasks(&[poison], "failed", MINUTE).await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 1, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_task_of_an_orphaned_document_is_sent_again() -> Result<()> {
    on_stage("orphan", async |stage| {
        let patch = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let first = user
            .upload_bytes("first.pdf", pdf::with_pages(&["One."]))
            .await?;
        stage
            .wait_tasks(std::slice::from_ref(&first), "completed", 2 * MINUTE)
            .await?;

        // Claimed by a worker that had died by the time its claim was written; the worker with the
        // message respected the claim and committed the message.
        let orphan = user.put("orphan.pdf", pdf::with_pages(&["Two."])).await?;
        let mut entry = entry(stage, &first.file_id).await?.context("an entry")?;
        let long_ago = DateTime::from_millis(DateTime::now().timestamp_millis() - 11 * 60_000);
        entry.extend(doc! {
            "_id": &orphan.file_id, "task_id": &orphan.task_id, "filename": &orphan.filename,
            "minio_filename": &orphan.key, "state": "working", "prepared": false,
            "pages": null, "vectors": null, "finished_at": null, "open": ["a claim"],
            "units": {"0": {"claim": "a claim", "turns": 1_i64, "attempts": 1_i64}},
            "recheck_at": long_ago, "updated_at": long_ago,
        });
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        ledger.insert_one(entry).await?;
        eventually(
            "the orphaned document to be ingested",
            2 * MINUTE,
            async || {
                let audit = stage.audit(&user).await?;
                let is_stored = audit.pages.get(&orphan.file_id) == Some(&1);
                Ok((is_stored && audit.vectors == 2 && audit.violations.is_empty()).then_some(()))
            },
        )
        .await?;
        let tasks = stage.records(&stage.topic())?;
        ensure!(tasks.len() == 2, "the task is sent again once: {tasks:#?}");
        let mut tasks = tasks.iter();
        let again = tasks.find(|task| task.value.contains(&orphan.file_id));
        let again = again.context("the task of the orphan")?;
        // The entry is a copy of the first one's.
        let origin = again.header("layra-request-origin").unwrap_or_default();
        ensure!(origin.starts_with(&stage.topic()), "{again:?}");
        ensure!(again.header("layra-request-at").is_some(), "{again:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_whose_renderers_are_killed_is_dead_lettered_and_the_worker_survives()
-> Result<()> {
    on_stage("deadly", async |stage| {
        let patch = json!({"spec": {
            "documents": {"render": {"onBadPage": "Fail"}},
            "scaling": {"mode": "Manual", "replicas": 0},
        }});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        let deadly = user
            .upload_bytes("deadly.pdf", pdf::with_pages(&["Too much."; 60]))
            .await?;
        let mut random = fastrand::Rng::with_seed(1);
        // As the kernel does, repeatedly, when a document exhausts the memory.
        let killing = async {
            loop {
                fleet.kill_renderer(&mut random).await?;
            }
        };
        let dead_letters = format!("{}.dlq", stage.topic());
        let letter = eventually("a dead letter", 2 * MINUTE, async || {
            Ok(stage.records(&dead_letters)?.pop())
        });
        let letter = tokio::select! {
            letter = letter => letter?,
            result = killing => { let never: Result<()> = result; never?; unreachable!() }
        };
        ensure!(letter.value.contains(&deadly.file_id), "{letter:?}");
        ensure!(
            letter.header("layra-error-reason") == Some("RendererKilled"),
            "{letter:?}"
        );
        ensure!(
            letter.header("layra-error-class") == Some("poison"),
            "{letter:?}"
        );

        let next = user
            .upload_bytes("next.pdf", pdf::with_pages(&["One."]))
            .await?;
        stage.wait_tasks(&[next], "completed", MINUTE).await?;
        fleet.restart_dead()?;
        ensure!(
            fleet.unexpected_exits().is_empty(),
            "{:?}",
            fleet.unexpected_exits()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn redrive_leaves_dead_letters_of_others_and_those_without_a_task() -> Result<()> {
    on_stage("letters", async |stage| {
        let none = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&none).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &stage.testbed.endpoints().kafka)
            .create()?;
        let (tasks, letters) = (stage.topic(), format!("{}.dlq", stage.topic()));
        let send = async |headers: &[(&str, &str)], payload: Option<&str>| {
            let headers = headers
                .iter()
                .fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header {
                        key,
                        value: Some(*value),
                    })
                });
            let mut record: FutureRecord<'_, str, str> =
                FutureRecord::to(&letters).headers(headers);
            record.payload = payload;
            let result = producer.send(record, Duration::from_secs(20)).await;
            result.map_err(|(error, _)| error)
        };
        let reason = ("layra-error-reason", "NotJson");
        let other = ("layra-error-origin-topic", "tasks-of-others");
        send(&[reason, other], Some("theirs")).await?;
        let own = ("layra-error-origin-topic", tasks.as_str());
        send(&[reason, own, ("layra-error-payload", "left out")], None).await?;

        let skipped = cli.run(&["redrive", "--reason", "Encrypted"]).await?;
        let expected = "0 dead letters redriven, 1 skipped, 1 of other pipelines";
        ensure!(skipped.contains(expected), "{skipped}");
        let failed = cli.run(&["redrive", "--reason", "NotJson"]).await;
        ensure!(failed.is_err(), "a task is missing: {failed:?}");
        let redriven = stage.records(&tasks)?;
        ensure!(redriven.is_empty(), "{redriven:?}");

        send(&[reason, own], Some("ours")).await?;
        let failed = cli.run(&["redrive", "--reason", "NotJson"]).await;
        ensure!(failed.is_err(), "one task is still missing: {failed:?}");
        let redriven = stage.records(&tasks)?;
        ensure!(
            redriven.len() == 1 && redriven[0].value == "ours",
            "{redriven:?}"
        );
        Ok(())
    })
    .await
}
