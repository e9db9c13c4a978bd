//! Documents with pages that cannot be rendered, and documents that cost too much.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::Upload;
use layra_e2e::pdf;
use layra_e2e::topics::Record;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// The document's entry in a collection.
async fn entry_of(stage: &Stage, collection: &str, upload: &Upload) -> Result<Document> {
    let key = if collection == "files" {
        "file_id"
    } else {
        "_id"
    };
    let entries = stage.stores.mongodb.collection::<Document>(collection);
    let entry = entries.find_one(doc! { key: &upload.file_id }).await?;
    entry.with_context(|| format!("{} in {collection}", upload.filename))
}

/// Page numbers from 1.
fn failed_pages(file: &Document) -> Result<Vec<i64>> {
    let numbers = file.get_array("pages_failed")?.iter();
    Ok(numbers.filter_map(Bson::as_i64).collect())
}

/// The dead letters of these documents, in their order.
async fn letters_of(stage: &Stage, uploads: &[Upload]) -> Result<Vec<Record>> {
    let topic = format!("{}.dlq", stage.topic());
    eventually("the dead letters", MINUTE, async || {
        let letters = stage.records(&topic)?;
        let of = |upload: &Upload| {
            let mut letters = letters.iter();
            letters
                .find(|letter| letter.value.contains(&upload.file_id))
                .cloned()
        };
        Ok(uploads.iter().map(of).collect::<Option<Vec<_>>>())
    })
    .await
}

#[tokio::test]
async fn a_document_is_stored_without_its_bad_pages() -> Result<()> {
    on_stage("skip", async |stage| {
        let patch = json!({"spec": {
            "documents": {"rangePages": 2, "render": {"timeoutSeconds": 3}},
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        }});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let texts = [
            "Bread dough rises because yeast makes carbon dioxide.",
            "Never seen.",
            "Never seen, either.",
            "The moon turns around the earth in a month.",
            "Copper conducts electricity better than iron.",
        ];
        let mixed = pdf::with_bad_pages(&texts, &[1], &[2]);
        let mixed = user.upload_bytes("mixed.pdf", mixed).await?;
        let hopeless = pdf::with_bad_pages(&texts[..3], &[0, 1], &[]);
        let hopeless = user.upload_bytes("hopeless.pdf", hopeless).await?;
        let only = pdf::with_bad_pages(&texts[..1], &[0], &[]);
        let only = user.upload_bytes("only.pdf", only).await?;
        let mixed = [mixed];
        stage.wait_tasks(&mixed, "completed", 2 * MINUTE).await?;
        let [mixed] = mixed;

        let file = entry_of(stage, "files", &mixed).await?;
        let mut failed = failed_pages(&file)?;
        failed.sort_unstable();
        ensure!(failed == [2, 3], "{file:?}");
        let done = entry_of(stage, "ingestion_ledger", &mixed).await?;
        ensure!(done.get_str("state")? == "done", "{done:?}");
        ensure!(done.get_i64("vectors")? == 3, "{done:?}");

        let letters = letters_of(stage, &[hopeless, only]).await?;
        let reason = letters[0].header("layra-error-reason");
        ensure!(reason == Some("TooManyBadPages"), "{letters:?}");
        let message = letters[0].header("layra-error-message");
        let message = message.context("a message")?;
        for part in ["2 of 3 pages", "(1-2)", "DamagedPage"] {
            ensure!(message.contains(part), "{message}");
        }
        let reason = letters[1].header("layra-error-reason");
        ensure!(reason == Some("DamagedPage"), "{letters:?}");

        // A redelivery finds the document complete.
        user.send_task(&mixed).await?;
        stage.wait_until_processed().await?;
        let again = entry_of(stage, "ingestion_ledger", &mixed).await?;
        ensure!(again.get("round") == done.get("round"), "{again:?}");

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let question = "Which metal conducts electricity?";
        let hits = cli.search(question, &user.knowledge_base, 1).await?;
        ensure!(hits.len() == 1 && hits[0].page == 5, "{hits:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.len() == 1, "{audit:?}");
        ensure!(audit.pages[&mixed.file_id] == 3, "{audit:?}");
        ensure!(audit.vectors == 3, "{audit:?}");
        let logs = stage.scene.logs().await;
        ensure!(logs.contains("page skipped"), "{logs}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_on_bad_page_fail_one_bad_page_sends_the_document_to_the_dead_letters() -> Result<()> {
    on_stage("nobad", async |stage| {
        let patch = json!({"spec": {
            "documents": {"render": {"onBadPage": "Fail"}},
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        }});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let broken = pdf::with_bad_pages(&["One.", "Two.", "Three."], &[2], &[]);
        let broken = user.upload_bytes("broken.pdf", broken).await?;
        let letters = letters_of(stage, std::slice::from_ref(&broken)).await?;
        let reason = letters[0].header("layra-error-reason");
        ensure!(reason == Some("DamagedPage"), "{letters:?}");
        stage.wait_tasks(&[broken], "failed", MINUTE).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.is_empty() && audit.vectors == 0, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_over_its_limit_becomes_a_dead_letter_that_names_the_limit() -> Result<()> {
    on_stage("costly", async |stage| {
        let patch = json!({"spec": {
            "documents": {
                "render": {"timeoutSeconds": 3},
                "limits": {"maxCpuSeconds": 2, "maxVectors": 3},
            },
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        }});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let texts = ["One.", "Two.", "Three.", "Four.", "Five."];
        let long = pdf::with_pages(&texts);
        let long = user.upload_bytes("long.pdf", long).await?;
        let slow = pdf::with_bad_pages(&texts[..3], &[], &[1]);
        let slow = user.upload_bytes("slow.pdf", slow).await?;
        let good = pdf::with_pages(&texts[..3]);
        let good = user.upload_bytes("good.pdf", good).await?;
        let costly = [long, slow];
        let letters = letters_of(stage, &costly).await?;
        for (letter, reason, advice) in [
            (
                &letters[0],
                "TooManyVectors",
                "documents.limits.maxVectors is 3",
            ),
            (
                &letters[1],
                "TooMuchCpuTime",
                "documents.limits.maxCpuSeconds is 2",
            ),
        ] {
            ensure!(
                letter.header("layra-error-reason") == Some(reason),
                "{letter:?}"
            );
            let message = letter.header("layra-error-message").context("a message")?;
            ensure!(message.contains(advice), "{message}");
        }
        stage.wait_tasks(&costly, "failed", MINUTE).await?;
        stage.wait_tasks(&[good], "completed", MINUTE).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 3, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_page_that_kills_workers_is_skipped() -> Result<()> {
    on_stage("lethal", async |stage| {
        let patch = json!({"spec": {
            "scaling": {"mode": "Manual", "replicas": 0},
            "source": {"kafka": {"sessionTimeoutSeconds": 6}},
        }});
        stage.apply_until_ready(&patch).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        // Slow, so that each attempt is still in progress when the test notices and kills it.
        let cli = cli.with_arguments(&["--benchmark-paced-embedder-ms", "3000"]);
        let mut fleet = Fleet::start(&cli, 1)?;
        let user = stage.user().await?;
        let texts = ["Deadly.", "Fine.", "Fine, too."];
        let upload = user
            .upload_bytes("lethal.pdf", pdf::with_pages(&texts))
            .await?;
        // Every worker that works on the first page is killed.
        let mut turn = 0;
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        let done = eventually("the document to be done", 3 * MINUTE, async || {
            let entry = ledger.find_one(doc! { "_id": &upload.file_id }).await?;
            let Some(entry) = entry else {
                return Ok(None);
            };
            ensure!(entry.get_str("state")? != "failed", "{entry:?}");
            if entry.get_str("state")? == "done" {
                return Ok(Some(entry));
            }
            let unit = entry
                .get_document("units")
                .and_then(|units| units.get_document("0"));
            let unit = unit.ok();
            let turns = unit
                .and_then(|unit| unit.get_i64("turns").ok())
                .unwrap_or(0);
            // The third one works page by page, and the ledger knows the page.
            let has_begun = turns < 3 || unit.is_some_and(|unit| unit.get_i64("trial").is_ok());
            if entry.get_bool("prepared")? && turns > turn && turn < 3 && has_begun {
                turn = turns;
                fleet.kill(0)?;
            }
            fleet.restart_dead()?;
            Ok(None)
        })
        .await?;
        fleet.stop().await?;
        ensure!(done.get_i64("vectors")? == 2, "{done:?}");
        let file = entry_of(stage, "files", &upload).await?;
        ensure!(failed_pages(&file)? == [1], "{file:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 2, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_that_is_deleted_while_its_pages_are_worked_on_alone_holds_up_nothing()
-> Result<()> {
    on_stage("alone", async |stage| {
        let patch = json!({"spec": {
            "scaling": {"mode": "Manual", "replicas": 0},
            "source": {"kafka": {"sessionTimeoutSeconds": 6}},
        }});
        stage.apply_until_ready(&patch).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let cli = cli.with_arguments(&["--benchmark-paced-embedder-ms", "2000"]);
        let mut fleet = Fleet::start(&cli, 1)?;
        let user = stage.user().await?;
        let upload = user
            .upload_bytes("alone.pdf", pdf::with_pages(&["A page."; 6]))
            .await?;
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        // Two workers die on it, so the third works page by page.
        let mut turn = 0;
        eventually("a page that is worked on alone", 2 * MINUTE, async || {
            fleet.restart_dead()?;
            let entry = ledger.find_one(doc! { "_id": &upload.file_id }).await?;
            let Some(entry) = entry.filter(|entry| entry.get_bool("prepared").unwrap_or(false))
            else {
                return Ok(None);
            };
            let unit = entry.get_document("units")?.get_document("0")?;
            let turns = unit.get_i64("turns")?;
            if turns > turn && turn < 2 {
                turn = turns;
                fleet.kill(0)?;
            }
            Ok(unit.get_i64("trial").ok())
        })
        .await?;
        let deletion = json!({
            "type": "delete_file", "file_id": upload.file_id,
            "knowledge_db_id": user.knowledge_base,
        });
        user.send(deletion.to_string().as_bytes()).await?;
        let other = user
            .upload_bytes("other.pdf", pdf::with_pages(&["Another page."]))
            .await?;
        stage.wait_until_processed().await?;
        let entry = entry_of(stage, "ingestion_ledger", &other).await?;
        ensure!(entry.get_str("state")? == "done", "{entry:?}");
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 1, "{audit:?}");
        Ok(())
    })
    .await
}
