//! One document of each kind, from the upload to the stores; and files with difficult names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_crds::IngestionPipelineStatus;
use layra_e2e::cluster::eventually;
use layra_e2e::kinds::KINDS;
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Document, doc};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::Deserialize;
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

macro_rules! field_file {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../../worker/tests/fieldfiles/files/", $name)).as_slice(),
        )
    };
}

macro_rules! office_file {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(
                "../../../worker/rendering/tests/fixtures/office/",
                $name
            ))
            .as_slice(),
        )
    };
}

/// Kinds that need LibreOffice, which this machine has and the worker's image does not.
const OFFICE: [(&str, &[u8]); 8] = [
    field_file!("letter.docx"),
    field_file!("letter.rtf"),
    field_file!("table.xlsx"),
    field_file!("slides.pptx"),
    office_file!("text.odt"),
    office_file!("drawing.vsd"),
    office_file!("text.wpd"),
    office_file!("text.hwp"),
];

#[tokio::test]
async fn a_document_of_each_kind_is_stored_and_found() -> Result<()> {
    on_stage("kinds", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let mut uploads = Vec::new();
        for ((name, content), pages) in KINDS {
            let upload = user.upload_bytes(name, content.to_vec()).await?;
            uploads.push((upload, pages));
        }
        let all: Vec<Upload> = uploads.iter().map(|(upload, _)| upload.clone()).collect();
        stage.wait_tasks(&all, "completed", 3 * MINUTE).await?;

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let knowledge_base = &user.knowledge_base;
        let mut ingest = vec!["ingest".to_owned(), "--knowledge-base".to_owned()];
        ingest.push(knowledge_base.clone());
        for (name, content) in OFFICE {
            let file = cli.directory().join(name);
            std::fs::write(&file, content)?;
            ingest.push(file.to_str().context("a path in UTF-8")?.to_owned());
        }
        let ingest: Vec<&str> = ingest.iter().map(String::as_str).collect();
        cli.run(&ingest).await?;

        // Every page is in MongoDB, in Milvus and in the bucket.
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        for (upload, pages) in &uploads {
            let stored = audit.pages.get(&upload.file_id);
            ensure!(stored == Some(pages), "{}: {stored:?}", upload.filename);
        }
        // The presentation has two slides.
        let office = audit.total_pages() - uploads.iter().map(|(_, pages)| pages).sum::<u64>();
        ensure!(office == 9, "{office} pages of office documents");
        for (question, file) in [
            ("What was the morning like?", "book.epub"),
            ("Until when is the offer valid?", "mail.eml"),
            ("Where is the ventilation duct?", "drawing.svg"),
            ("In which month does the contract end?", "letter.docx"),
            ("I am a test view", "drawing.vsd"),
        ] {
            let hits = cli.search(question, knowledge_base, 1).await?;
            ensure!(hits.iter().any(|hit| hit.file == file), "{file}: {hits:?}");
        }
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(letters.is_empty(), "{letters:#?}");
        // Pictures have no text, which this model needs: users must see it.
        let has_pages_without_text = |status: &IngestionPipelineStatus| {
            let pages = status.pages.as_ref();
            pages.is_some_and(|pages| pages.without_text_percent > 0)
        };
        stage
            .scene
            .wait_status(
                &stage.name,
                "pages without text",
                2 * MINUTE,
                has_pages_without_text,
            )
            .await?;
        Ok(())
    })
    .await
}

#[derive(Deserialize)]
struct Names {
    names: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// The difficult names that a store can hold. A line feed is refused; for 255 bytes see
/// `a_document_whose_page_images_cannot_be_named_is_dead_lettered`.
fn names() -> Result<Vec<String>> {
    let names = include_bytes!("../../../worker/tests/fieldfiles/names.json");
    let names: Names = serde_json::from_slice(names)?;
    let names = names.names.into_iter().map(|name| name.name);
    Ok(names
        .filter(|name| !name.contains('\n') && name.len() < 200)
        .collect())
}

/// The entry of `files` for a document.
async fn file_of(stage: &Stage, upload: &Upload) -> Result<Document> {
    let files = stage.stores.mongodb.collection::<Document>("files");
    let file = files.find_one(doc! { "file_id": &upload.file_id }).await?;
    file.with_context(|| format!("{} in files", upload.filename))
}

/// What a link of LAYRA's user interface opens.
async fn opened(link: &str) -> Result<Vec<u8>> {
    let answer = reqwest::get(link).await?;
    let answer = answer.error_for_status().context(link.to_owned())?;
    Ok(answer.bytes().await?.to_vec())
}

/// The document, its links and its page under this very name.
async fn check_stored(stage: &Stage, upload: &Upload, content: &[u8]) -> Result<()> {
    let file = file_of(stage, upload).await?;
    let name = &upload.filename;
    ensure!(file.get_str("filename")? == name, "{name:?}: {file}");
    ensure!(
        file.get_str("minio_filename")? == upload.key,
        "{name:?}: {file}"
    );
    // The link to the original is the one of the message.
    let key = Path::parse(&upload.key)?;
    let original = stage.stores.objects.get(&key).await?.bytes().await?;
    ensure!(original == content, "{name:?}: another file");
    let images = file.get_array("images")?;
    ensure!(images.len() == 1, "{name:?}: {file}");
    let image = images[0].as_document().context("an image")?;
    let image = opened(image.get_str("minio_url")?).await?;
    ensure!(image.starts_with(b"\x89PNG"), "{name:?}: no image");
    Ok(())
}

/// A document whose key has its very name, with characters that clients like to escape.
fn upload_called(user: &User, name: &str) -> Upload {
    let id = random_id();
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "pdf"));
    let digits = &id.replace('-', "")[..24];
    Upload {
        task_id: format!("{}_task-{id}", user.name),
        file_id: format!("{}_{id}", user.name),
        key: format!("{}_{stem}_{digits}.{extension}", user.name),
        filename: name.to_owned(),
    }
}

async fn put(stage: &Stage, upload: &Upload, content: &[u8]) -> Result<()> {
    let content = PutPayload::from(content.to_vec());
    let key = Path::parse(&upload.key)?;
    stage.stores.objects.put(&key, content).await?;
    Ok(())
}

#[tokio::test]
async fn difficult_names_go_through_every_store_and_back() -> Result<()> {
    on_stage("difficult", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?;
        let content = pdf::with_pages(&["A page."]);
        let mut uploads = Vec::new();
        let mut late = Vec::new();
        for name in names()? {
            let upload = upload_called(&user, &name);
            // The object of these comes late: they are redriven.
            let is_late = name.contains(['"', '\\', '%', '\u{301}']);
            if !is_late {
                put(stage, &upload, &content).await?;
            }
            user.send_task(&upload).await?;
            let all = if is_late { &mut late } else { &mut uploads };
            all.push(upload);
        }
        let mut broken = user.put("broken.pdf", content.clone()).await?;
        "new\nline.pdf".clone_into(&mut broken.filename);
        user.send_task(&broken).await?;
        stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;
        stage.wait_tasks(&late, "failed", 2 * MINUTE).await?;
        let letters = format!("{}.dlq", stage.topic());
        let refused = eventually("the letter of a line feed", MINUTE, async || {
            let letters = stage.records(&letters)?;
            let of = |value: &str| value.contains(&broken.file_id);
            Ok(letters.into_iter().find(|letter| of(&letter.value)))
        })
        .await?;
        let reason = refused.header("layra-error-reason");
        ensure!(reason == Some("InvalidTask"), "{refused:?}");

        for upload in &late {
            put(stage, upload, &content).await?;
        }
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        cli.run(&["redrive", "--reason", "ObjectNotFound"]).await?;
        uploads.extend(late);
        eventually("the pages of all documents", 2 * MINUTE, async || {
            let audit = stage.audit(&user).await?;
            let is_complete = audit.total_pages() == uploads.len() as u64;
            Ok((is_complete && audit.violations.is_empty()).then_some(()))
        })
        .await?;
        for upload in &uploads {
            check_stored(stage, upload, &content).await?;
        }

        for upload in &uploads {
            let message = json!({
                "type": "delete_file", "file_id": upload.file_id,
                "knowledge_db_id": user.knowledge_base,
            });
            user.send(message.to_string().as_bytes()).await?;
        }
        eventually("all documents to be deleted", 2 * MINUTE, async || {
            let audit = stage.audit(&user).await?;
            Ok((audit.pages.is_empty() && audit.vectors == 0).then_some(()))
        })
        .await?;
        stage.wait_until_processed().await?;
        for upload in &uploads {
            let key = Path::parse(&upload.key)?;
            let left = stage.stores.objects.head(&key).await;
            ensure!(left.is_err(), "{:?} is left", upload.filename);
        }
        Ok(())
    })
    .await
}
