//! `layra-worker serve` on this machine.

use std::net::{SocketAddr, TcpListener};
use std::process::Child;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::MINUTE;
use crate::cluster::eventually;
use crate::worker_cli::WorkerCli;

/// The server, until it is dropped. Everyone may search.
pub(super) struct Server {
    process: Child,
    model: SocketAddr,
    search: SocketAddr,
    client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts it, and waits until it is ready.
    pub(super) async fn start(cli: &WorkerCli) -> Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let (model, search) = (free()?, free()?);
        let (model_listen, listen) = (model.to_string(), search.to_string());
        let arguments = [
            "serve",
            "--open",
            "--model-listen",
            &model_listen,
            "--listen",
            &listen,
        ];
        let server = Self {
            process: cli.command(&arguments, "serve").spawn()?,
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

    /// The answer to a search.
    pub(super) async fn search(&self, search: &Value) -> Result<Value> {
        let url = format!("http://{}/v1/search", self.search);
        let request = self.client.post(url).timeout(MINUTE).json(search);
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(answer)
    }

    /// The vectors of a question.
    pub(super) async fn question(&self, text: &str) -> Result<Vec<Vec<f32>>> {
        let url = format!("http://{}/embed_text", self.model);
        let request = self.client.post(url).json(&json!({ "queries": [text] }));
        let response = request.send().await?.error_for_status()?;
        let mut answer: Value = response.json().await?;
        let first = answer["embeddings"].get_mut(0).context("a question")?;
        Ok(serde_json::from_value(first.take())?)
    }

    /// Embeds a document of one page, as LAYRA asks for it.
    pub(super) async fn page(&self, document: &[u8]) -> Result<()> {
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
        let response = request.timeout(MINUTE).body(body).send().await?;
        let answer: Value = response.error_for_status()?.json().await?;
        ensure!(answer["embeddings"][0][0].is_array(), "{answer}");
        Ok(())
    }
}
