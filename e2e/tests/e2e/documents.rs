//! Valid and invalid documents, delivered once, twice, or while processes are killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use layra_e2e::cluster::eventually;
use layra_e2e::layra::Upload;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::scene::{alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const LZW_TIFF: &[u8] = include_bytes!("../../../worker/rendering/tests/fixtures/tiff/lzw.tiff");
const THREE_PAGES: &[u8] =
    include_bytes!("../../../worker/rendering/tests/fixtures/tiff/three-pages.tiff");
const DOCX: &[u8] = include_bytes!("../../../worker/rendering/tests/fixtures/office/text.docx");

#[tokio::test]
async fn documents_that_cannot_be_processed_are_dead_lettered_with_their_reason() -> Result<()> {
    on_stage("bad", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let good = pdf::with_pages(&["A good page.", "Another good page."]);

        user.send(b"this is no JSON").await?;
        user.send(br#"{"task_id": "alice_incomplete", "username": "alice"}"#)
            .await?;
        user.send(br#"{"type": "workflow", "task_id": "alice_workflow", "workflow_data": {}}"#)
            .await?;
        let mut missing = user.put("missing.pdf", good.clone()).await?;
        missing.key = "alice_nowhere.pdf".to_owned();
        user.send_task(&missing).await?;
        let bad = [
            user.upload_bytes("empty.pdf", Vec::new()).await?,
            user.upload_bytes("truncated.pdf", good[..40].to_vec())
                .await?,
            user.upload_bytes("encrypted.pdf", include_bytes!("encrypted.pdf").to_vec())
                .await?,
            user.upload_bytes(
                "noise.xyz",
                (0..4096_u32).map(|i| (i * 31 % 251) as u8).collect(),
            )
            .await?,
            user.upload_bytes("report.docx", DOCX.to_vec()).await?,
        ];
        let after = user.upload_bytes("good.pdf", good).await?;

        stage.wait_tasks(&[after], "completed", 3 * MINUTE).await?;
        stage.wait_tasks(&bad, "failed", MINUTE).await?;
        let dead_letters = format!("{}.dlq", stage.topic());
        let letters = eventually("eight dead letters", MINUTE, async || {
            let letters = stage.records(&dead_letters)?;
            Ok((letters.len() >= 8).then_some(letters))
        })
        .await?;
        ensure!(
            letters.len() == 8,
            "the workflow message must not be dead-lettered: {letters:#?}"
        );
        let reason_of = |needle: &str| -> Result<&str> {
            let letter = letters
                .iter()
                .find(|letter| letter.value.contains(needle))
                .with_context(|| format!("a dead letter with {needle}"))?;
            for name in [
                "layra-error-message",
                "layra-error-stage",
                "layra-error-origin-partition",
                "layra-error-origin-offset",
            ] {
                ensure!(
                    letter.header(name).is_some(),
                    "{needle} lacks {name}: {letter:?}"
                );
            }
            ensure!(letter.header("layra-error-origin-topic") == Some(stage.topic().as_str()));
            letter
                .header("layra-error-reason")
                .context("layra-error-reason")
        };
        for (needle, reason) in [
            ("this is no JSON", "NotJson"),
            ("alice_incomplete", "InvalidTask"),
            ("alice_nowhere.pdf", "ObjectNotFound"),
            ("empty.pdf", "Empty"),
            ("truncated.pdf", "Damaged"),
            ("encrypted.pdf", "Encrypted"),
            ("noise.xyz", "Unsupported"),
            // The image of worker/Containerfile contains no LibreOffice.
            ("report.docx", "Unsupported"),
        ] {
            let found = reason_of(needle)?;
            ensure!(found == reason, "{needle}: {found}, expected {reason}");
        }
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 2, "{audit:?}");
        let logs = stage.scene.logs().await;
        ensure!(logs.contains("dead letter"), "the workers' logs: {logs}");
        ensure!(
            !logs.contains("renderer sandbox is incomplete"),
            "an ordinary container's renderers lack a part of their sandbox: {logs}"
        );
        Ok(())
    })
    .await
}

/// Eight of them take all places of a worker, so that nothing else would get one.
#[tokio::test]
async fn corrupt_images_stop_no_worker_and_every_page_of_a_tiff_is_stored() -> Result<()> {
    on_stage("tiff", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let mut corrupt = Vec::new();
        for number in 0..8 {
            let mut content = LZW_TIFF.to_vec();
            // The beginning of the compressed pixels.
            content[8..40].fill(0xff);
            let name = format!("corrupt-{number}.tiff");
            corrupt.push(user.upload_bytes(&name, content).await?);
        }
        let scanned = user
            .upload_bytes("three-pages.tiff", THREE_PAGES.to_vec())
            .await?;
        let good = user
            .upload_bytes("good.pdf", pdf::with_pages(&["A good page."]))
            .await?;
        stage
            .wait_tasks(&[scanned, good], "completed", 2 * MINUTE)
            .await?;
        stage.wait_tasks(&corrupt, "failed", MINUTE).await?;
        let dead_letters = format!("{}.dlq", stage.topic());
        let letters = eventually("eight dead letters", MINUTE, async || {
            let letters = stage.records(&dead_letters)?;
            Ok((letters.len() >= 8).then_some(letters))
        })
        .await?;
        for letter in &letters {
            ensure!(
                letter.header("layra-error-reason") == Some("Damaged"),
                "{letter:?}"
            );
        }
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 4, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_that_is_delivered_again_is_stored_once() -> Result<()> {
    on_stage("twice", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let upload = user
            .upload_bytes("twice.pdf", pdf::with_pages(&["One.", "Two.", "Three."]))
            .await?;
        stage
            .wait_tasks(std::slice::from_ref(&upload), "completed", 2 * MINUTE)
            .await?;
        user.send_task(&upload).await?;
        user.send_task(&upload).await?;
        stage.wait_until_processed().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 3 && audit.vectors == 3, "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_lost_when_operator_and_workers_are_killed() -> Result<()> {
    alone_on_stage("kill", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {"scaling": {"minReplicas": 1}}}))
            .await?;
        let user = stage.user().await?;
        let mut uploads: Vec<Upload> = Vec::new();
        for document in 0..12 {
            let texts: Vec<String> = (0..6)
                .map(|page| format!("Document {document}, page {page}: {}", "words ".repeat(150)))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            uploads.push(
                user.upload_bytes(&format!("doc{document}.pdf"), pdf::with_pages(&texts))
                    .await?,
            );
        }
        eventually("some pages to be stored", 2 * MINUTE, async || {
            let pages =
                layra_e2e::timeline::stored_pages(&stage.stores, &user.knowledge_base).await?;
            Ok((pages >= 6).then_some(()))
        })
        .await?;
        stage.scene.kill_operator().await?;
        let pods = stage.scene.worker_pods(&stage.name).await?;
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        for pod in pods {
            stage
                .scene
                .api::<k8s_openapi::api::core::v1::Pod>()
                .delete(&pod.name_any(), &now)
                .await?;
        }
        stage.wait_tasks(&uploads, "completed", 5 * MINUTE).await?;
        stage.wait_until_processed().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(
            audit.pages.len() == 12 && audit.pages.values().all(|pages| *pages == 6),
            "{audit:?}"
        );
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", 2 * MINUTE)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn foreign_messages_are_forwarded_and_page_images_can_be_webp() -> Result<()> {
    on_stage("foreign", async |stage| {
        let target = format!("{}-workflows", stage.name);
        stage.create_topic(&target).await?;
        let patch = json!({"spec": {
            "source": {"kafka": {"foreignMessages": {"action": "Forward", "topic": target}}},
            "documents": {"render": {"imageFormat": "WebP", "quality": 80}},
        }});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let workflow = r#"{"type": "workflow", "task_id": "alice_w", "workflow_data": {}}"#;
        user.send_with_key(Some("run 7"), workflow.as_bytes())
            .await?;
        let upload = user
            .upload_bytes("webp.pdf", pdf::with_pages(&["Small.", "Smaller."]))
            .await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;
        let forwarded = eventually("the forwarded message", MINUTE, async || {
            Ok(stage.records(&target)?.pop())
        })
        .await?;
        ensure!(forwarded.value == workflow, "byte for byte: {forwarded:?}");
        ensure!(forwarded.header("priority") == Some("1"), "{forwarded:?}");
        ensure!(forwarded.key.as_deref() == Some("run 7"), "{forwarded:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 2, "{audit:?}");
        let images = stage.page_images(&user).await?;
        ensure!(images.len() == 2, "{images:?}");
        for (key, content) in images {
            let extension = key.rsplit_once('.').map(|(_, extension)| extension);
            ensure!(extension == Some("webp"), "{key}");
            ensure!(
                content.starts_with(b"RIFF") && content[8..12] == *b"WEBP",
                "{key} is not a WebP image"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn office_documents_are_searchable_where_libreoffice_is_installed() -> Result<()> {
    on_stage("office", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        // The test-bed installs LibreOffice on this machine; the worker's image does not contain
        // it.
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let file = cli.directory().join("report of the quarter");
        std::fs::write(&file, DOCX)?;
        let file = file.to_str().context("a path in UTF-8")?;
        let knowledge_base = &user.knowledge_base;
        cli.run(&["ingest", "--knowledge-base", knowledge_base, file])
            .await?;
        let hits = cli
            .search("the quarterly report", knowledge_base, 3)
            .await?;
        ensure!(hits.len() == 1 && hits[0].page == 1, "{hits:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_file_is_ingested_again_after_it_failed_or_was_deleted() -> Result<()> {
    on_stage("again", async |stage| {
        let none = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&none).await?;
        let user = stage.user().await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let file = cli.directory().join("again.pdf");
        std::fs::write(&file, pdf::with_pages(&["Once more."]))?;
        let file = file.to_str().context("a path in UTF-8")?;
        let knowledge_base = user.knowledge_base.as_str();
        let ingest = ["ingest", "--knowledge-base", knowledge_base, file];
        cli.run(&ingest).await?;
        let audit = stage.audit(&user).await?;
        let file_id = audit.pages.keys().next().context("a file")?.clone();
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");

        cli.run(&[
            "delete",
            "--file",
            &file_id,
            "--knowledge-base",
            knowledge_base,
        ])
        .await?;
        cli.run(&ingest).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.get(&file_id) == Some(&1), "{audit:?}");

        // As after a failure whose cause is gone now.
        let failure = doc! {
            "stage": "render", "reason": "Unsupported", "message": "no LibreOffice",
            "poison": false, "letter": true, "redriven": false,
        };
        let failed = doc! { "$set": { "state": "failed", "failure": failure } };
        ledger.update_one(doc! { "_id": &file_id }, failed).await?;
        cli.run(&ingest).await?;
        let entry = ledger.find_one(doc! { "_id": &file_id }).await?;
        let entry = entry.context("the entry")?;
        ensure!(entry.get_str("state")? == "done", "{entry:?}");
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.pages.get(&file_id) == Some(&1), "{audit:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_whose_page_images_cannot_be_named_is_dead_lettered() -> Result<()> {
    on_stage("names", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        // The object store takes 255 bytes between two slashes. The original's key is short.
        let mut long = user.put("short.pdf", pdf::with_pages(&["One."])).await?;
        long.filename = format!("{}.pdf", "x".repeat(240));
        user.send_task(&long).await?;
        stage.wait_tasks(&[long], "failed", MINUTE).await?;
        let letter = stage.records(&format!("{}.dlq", stage.topic()))?;
        let letter = letter.first().context("a dead letter")?;
        let reason = letter.header("layra-error-reason");
        ensure!(reason == Some("ObjectStoreRefused"), "{letter:?}");

        let good = pdf::with_pages(&["Two."]);
        let good = user.upload_bytes("good.pdf", good).await?;
        stage.wait_tasks(&[good], "completed", MINUTE).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 1, "{audit:?}");
        Ok(())
    })
    .await
}
