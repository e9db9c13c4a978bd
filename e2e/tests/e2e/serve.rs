//! `layra-worker serve` on the real stores: LAYRA's requests to its model server, and searches whose
//! pages are checked against MongoDB.

use std::net::{SocketAddr, TcpListener};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Document, doc};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);
const PAGES: [&str; 3] = [
    "Bread dough rises because yeast makes carbon dioxide.",
    "The moon pulls the water of the sea, and the tide comes in.",
    "A bicycle chain needs a drop of oil after every wet ride.",
];
const QUESTION: &str = "Why is there high tide?";
const TOKEN: &str = "of-the-first-user-0123456789";

/// The server, until it is dropped.
pub(crate) struct Server {
    process: Child,
    model: SocketAddr,
    search: SocketAddr,
    pub(crate) client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts it with a token for one knowledge base, and waits until it is ready.
    pub(crate) async fn start(cli: &WorkerCli, knowledge_base: &str) -> Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let (model, search) = (free()?, free()?);
        let tokens = cli.directory().join("tokens.yaml");
        let grants = json!([{ "token": TOKEN, "knowledgeBases": [knowledge_base] }]);
        std::fs::write(&tokens, grants.to_string())?;
        let (model_listen, listen) = (model.to_string(), search.to_string());
        let arguments = [
            "serve",
            "--model-listen",
            &model_listen,
            "--listen",
            &listen,
        ];
        let mut command = cli.command(&arguments, "serve");
        let process = command.arg("--tokens").arg(&tokens).spawn()?;
        let server = Self {
            process,
            model,
            search,
            client: Client::new(),
        };
        eventually("the server to be ready", 3 * MINUTE, async || {
            let ready = server.client.get(format!("http://{search}/readyz"));
            let ready = ready.send().await?.status();
            Ok((ready == StatusCode::OK).then_some(()))
        })
        .await?;
        Ok(server)
    }

    /// The status code and the body of a search.
    pub(crate) async fn search(&self, search: &Value) -> Result<(StatusCode, Value)> {
        let url = format!("http://{}/v1/search", self.search);
        let request = self.client.post(url).bearer_auth(TOKEN).json(search);
        let response = request.send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// The embeddings of texts and of one document, asked for as LAYRA does.
    async fn embeddings(&self, texts: &[&str], document: &[u8]) -> Result<[Value; 2]> {
        let url = format!("http://{}/embed_text", self.model);
        let request = self.client.post(url).json(&json!({ "queries": texts }));
        let texts: Value = request.send().await?.error_for_status()?.json().await?;
        // As httpx writes `files=[("images", ("a.pdf_0.png", bytes, "image/png"))]`.
        let boundary = "b7c2f1a09d8e4c5fa1b2c3d4e5f60718";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"images\"; \
             filename=\"a.pdf_0.png\"\r\nContent-Type: image/png\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(document);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let url = format!("http://{}/embed_image", self.model);
        let kind = format!("multipart/form-data; boundary={boundary}");
        let request = self.client.post(url).header("content-type", kind);
        let images: Value = request
            .body(body)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        Ok([texts["embeddings"].clone(), images["embeddings"].clone()])
    }
}

/// Pages of an answer, as file name and number.
fn pages(answer: &Value) -> Vec<(&str, u64)> {
    let pages = answer["pages"].as_array().into_iter().flatten();
    pages
        .filter_map(|page| Some((page["file"].as_str()?, page["page"].as_u64()?)))
        .collect()
}

/// The only sentence of the page is what the question concerns.
async fn check_heat(server: &Server, base: &str) -> Result<()> {
    let search = json!({
        "question": QUESTION, "knowledge_bases": [base], "top": 1, "heat": true,
    });
    let (_, found) = server.search(&search).await?;
    let heat = &found["pages"][0]["heat"][0];
    let top = heat["top"].as_f64().context("heat")?;
    ensure!(
        heat["weight"] == 1.0 && (0.0..1.0).contains(&top),
        "{found:#}"
    );
    Ok(())
}

#[tokio::test]
async fn questions_are_answered_with_pages_that_the_stores_have() -> Result<()> {
    on_stage("serve", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let mut uploads = Vec::new();
        for name in ["first.pdf", "second.pdf"] {
            let document = pdf::with_pages(&PAGES);
            uploads.push(user.upload_bytes(name, document).await?);
        }
        stage.wait_tasks(&uploads, "completed", 2 * MINUTE).await?;
        let other = stage.user_called("bob").await?;

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let base = user.knowledge_base.as_str();
        let expected = cli.search(QUESTION, base, 6).await?;
        let server = Server::start(&cli, base).await?;

        // The model server: the page's vectors are those of a question with the same text.
        let document = pdf::with_pages(&PAGES[..1]);
        let [texts, images] = server
            .embeddings(&[PAGES[0], "", "Why?"], &document)
            .await?;
        ensure!(texts.as_array().map(Vec::len) == Some(3), "{texts}");
        ensure!(images.as_array().map(Vec::len) == Some(1), "{images}");
        let width = |vectors: &Value| vectors[0][0].as_array().map(Vec::len);
        ensure!(width(&texts) == Some(384) && width(&images) == Some(384));
        for (a, b) in (0..384).map(|at| (&texts[0][0][at], &images[0][0][at])) {
            let (a, b) = a.as_f64().zip(b.as_f64()).context("numbers")?;
            ensure!((a - b).abs() < 0.05, "{a} and {b}");
        }

        let search = json!({
            "question": QUESTION, "knowledge_bases": [base], "top": 6, "explain": true,
        });
        // A search may miss writes of the last seconds, and its answer is remembered for a minute.
        let answer = eventually("all pages to be found", 3 * MINUTE, async || {
            let (status, answer) = server.search(&search).await?;
            ensure!(status == StatusCode::OK, "{status}: {answer}");
            Ok((pages(&answer).len() == 6).then_some(answer))
        })
        .await?;
        ensure!(pages(&answer)[0].1 == 2, "{answer:#}");
        for (page, expected) in answer["pages"]
            .as_array()
            .context("pages")?
            .iter()
            .zip(&expected)
        {
            let score = page["score"].as_f64().context("a score")?;
            ensure!(
                (score - expected.score).abs() < 1e-4,
                "{page} or {expected:?}"
            );
            let image = page["image_url"].as_str().context("an address")?;
            ensure!(image.starts_with("http"), "{page}");
        }
        let explain = &answer["explain"]["knowledge_bases"][0];
        ensure!(explain["candidate_pages"] == 6, "{explain}");
        let (_, again) = server.search(&search).await?;
        ensure!(
            again["explain"]["knowledge_bases"][0]["cached"] == true,
            "{again:#}"
        );
        ensure!(again["pages"] == answer["pages"], "{again:#}");

        check_heat(&server, base).await?;
        let (_, one) = server
            .search(&json!({
                "question": QUESTION, "knowledge_bases": [base], "files": [uploads[1].file_id],
            }))
            .await?;
        ensure!(pages(&one).len() == 3, "{one:#}");
        ensure!(
            pages(&one).iter().all(|(file, _)| *file == "second.pdf"),
            "{one:#}"
        );

        // LAYRA deletes a file from MongoDB first: its pages are gone, although the cache has them.
        let files = stage.stores.mongodb.collection::<Document>("files");
        files
            .delete_one(doc! { "file_id": &uploads[0].file_id })
            .await?;
        let (_, rest) = server.search(&search).await?;
        ensure!(pages(&rest).len() == 3, "{rest:#}");
        ensure!(
            pages(&rest).iter().all(|(file, _)| *file == "second.pdf"),
            "{rest:#}"
        );

        // Another's knowledge base is answered as one that does not exist.
        let mut refusals = Vec::new();
        for base in [other.knowledge_base.as_str(), "nobody_nothing"] {
            let search = json!({ "question": QUESTION, "knowledge_bases": [base] });
            refusals.push(server.search(&search).await?);
        }
        ensure!(refusals[0].0 == StatusCode::NOT_FOUND && refusals[0] == refusals[1]);
        let empty = json!({ "question": "", "knowledge_bases": [base] });
        let (status, problem) = server.search(&empty).await?;
        ensure!(status == StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        Ok(())
    })
    .await
}
