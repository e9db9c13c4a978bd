//! The texts of pages: kept when they are ingested, shown as snippets by `layra-worker serve` while
//! `files` has the page, and removed with the file, or by an audit.
//!
//! The test has a database and a bucket of its own: an audit sees all of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use layra_e2e::clients::{bucket, create_bucket};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::{User, random_id};
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Document, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::collection_life::{audit, outcome};
use crate::scene::on_stage;
use crate::serve::Server;

const MINUTE: Duration = Duration::from_mins(1);
const PAGES: [&str; 2] = [
    "Bread dough rises because yeast makes carbon dioxide.",
    "The moon pulls the water of the sea, and the tide comes in.",
];
const QUESTION: &str = "Why is there high tide?";

fn patch(id: &str) -> Value {
    json!({"spec": {
        "documents": {"objectStore": {"bucket": id}, "pageTexts": "Keep"},
        "stores": {
            "milvus": {"collection": format!("{id}{{knowledge_db_id}}"), "readers": "Own"},
            "mongodb": {"database": id},
        },
    }})
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one story, from the document to its deletion"
)]
async fn texts_of_pages_become_snippets_and_go_with_their_files() -> Result<()> {
    on_stage("page-texts", async |stage| {
        let id = format!("texts{}", &random_id()[..8]);
        let s3 = &stage.testbed.endpoints().s3;
        create_bucket(s3, &id).await?;
        stage.apply_until_ready(&patch(&id)).await?;
        let mut stores = stage.stores.clone();
        stores.mongodb = stores.mongodb.client().database(&id);
        stores.objects = Arc::new(bucket(s3, &id)?);
        let user =
            User::with_knowledge_base(&stores, &stage.topic(), "alice", &random_id()).await?;
        let mut uploads = Vec::new();
        for name in ["first.pdf", "second.pdf"] {
            let document = pdf::with_pages(&PAGES);
            uploads.push(user.upload_bytes(name, document).await?);
        }
        stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;
        let [first, second] = &uploads[..] else {
            anyhow::bail!("two uploads");
        };
        let texts = stores
            .mongodb
            .collection::<Document>("ingestion_page_texts");
        let count = async |file_id: &str| {
            let filter = doc! { "file_id": file_id };
            anyhow::Ok(texts.count_documents(filter).await?)
        };
        ensure!(count(&first.file_id).await? == 2 && count(&second.file_id).await? == 2);

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let base = user.knowledge_base.as_str();
        let server = Server::start(&cli, base).await?;
        let search = json!({ "question": QUESTION, "knowledge_bases": [base], "top": 4 });
        // A search may miss writes of the last seconds, and its answer is remembered for a minute.
        let answer = eventually("all pages to be found", 3 * MINUTE, async || {
            let (status, answer) = server.search(&search).await?;
            ensure!(status == StatusCode::OK, "{status}: {answer}");
            let pages = answer["pages"].as_array().context("pages")?.len();
            Ok((pages == 4).then_some(answer))
        })
        .await?;
        let page = &answer["pages"][0];
        ensure!(
            page["page"] == 2 && page["snippet"] == PAGES[1],
            "{answer:#}"
        );

        // The link works, and not for long.
        let link = page["image_url"].as_str().context("a link")?;
        let image = server.client.get(link).send().await?;
        ensure!(
            image.status() == StatusCode::OK,
            "{}: {link}",
            image.status()
        );
        let (_, expires) = link.rsplit_once("&Expires=").context("an end")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        ensure!(
            expires.parse::<u64>()? < now.as_secs() + 2 * 3_600,
            "{link}"
        );

        // Texts without a page: one that LAYRA has deleted, and one of a file that nobody knows.
        for (image_id, file_id) in [("alice_9", &*second.file_id), ("bob_1", "bob_unknown")] {
            let stray = doc! { "_id": image_id, "file_id": file_id, "text": "stray" };
            texts.insert_one(stray).await?;
        }
        let kind = "TextWithoutPage";
        let (report, is_clean) = audit(&cli, &[]).await?;
        ensure!(!is_clean, "{report:#}");
        ensure!(
            outcome(&report, kind, &second.file_id) == Some("Found"),
            "{report:#}"
        );
        let (report, _) = audit(&cli, &["--repair"]).await?;
        ensure!(
            outcome(&report, kind, &second.file_id) == Some("Removed"),
            "{report:#}"
        );
        ensure!(
            outcome(&report, kind, &first.file_id).is_none(),
            "{report:#}"
        );
        ensure!(count(&first.file_id).await? == 2 && count(&second.file_id).await? == 2);

        // LAYRA deletes a file without a word to anybody.
        let files = stores.mongodb.collection::<Document>("files");
        files.delete_one(doc! { "file_id": &first.file_id }).await?;
        let (_, answer) = server.search(&search).await?;
        let pages = answer["pages"].as_array().context("pages")?;
        ensure!(pages.len() == 2, "{answer:#}");
        ensure!(
            pages
                .iter()
                .all(|page| page["file_id"] == second.file_id.as_str()),
            "{answer:#}"
        );
        // A file that is deleted from every store has no texts.
        cli.run(&[
            "delete",
            "--knowledge-base",
            base,
            "--file",
            &second.file_id,
        ])
        .await?;
        ensure!(count(&second.file_id).await? == 0);
        cli.run(&["delete", "--knowledge-base", base]).await?;
        ensure!(count(&first.file_id).await? == 0);
        Ok(())
    })
    .await
}
