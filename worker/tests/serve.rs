//! `layra-worker serve` as LAYRA's model server: its own requests, as its client httpx writes them,
//! against the vectors of the reference. The stores are not there: the model server needs none.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use candle_core::{Device, Tensor};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use reqwest::{Client, Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Largest accepted difference of a value from the reference.
const TOLERANCE: f64 = 1e-5;
const PAGES: usize = 3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("embedding/tests/fixtures")
}

fn checkpoint() -> PathBuf {
    fixtures().join("tiny-colqwen2.5")
}

fn pdfium() -> PathBuf {
    let in_cache = || {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        let cache = std::env::var_os("LAYRA_TESTBED_CACHE").map_or_else(
            || Path::new(&home).join(".cache/layra-testbed"),
            PathBuf::from,
        );
        cache.join("pdfium/libpdfium.so")
    };
    std::env::var_os("LAYRA_PDFIUM").map_or_else(in_cache, PathBuf::from)
}

/// The server, until it is dropped.
struct Server {
    process: Child,
    model: SocketAddr,
    search: SocketAddr,
    client: Client,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Waits until the model is loaded.
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more variables of the environment.
    async fn start_with(variables: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "
pipeline: rag/contracts
source: {{kafka: {{bootstrapServers: '127.0.0.1:9'}}}}
documents:
  objectStore:
    endpoint: 'http://127.0.0.1:9'
    accessKeySecretRef: {{name: s3}}
    secretKeySecretRef: {{name: s3}}
  render: {{dpi: [{{dpi: 200}}], sandbox: BestEffort}}
embedding: {{model: {{family: colqwen2_5, uri: 'file://{}'}}}}
stores:
  milvus: {{uri: 'http://127.0.0.1:9'}}
  mongodb: {{uriSecretRef: {{name: mongo}}}}
",
            checkpoint().display()
        );
        for (path, text) in [
            ("worker.yaml", config.as_str()),
            ("secrets/object-store/accessKey", "a"),
            ("secrets/object-store/secretKey", "s"),
            ("secrets/mongodb/uri", "mongodb://127.0.0.1:9"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (model, search) = (free(), free());
        let process = Command::new(env!("CARGO_BIN_EXE_layra-worker"))
            .arg("serve")
            .arg("--config")
            .arg(directory.path().join("worker.yaml"))
            .arg("--secrets")
            .arg(directory.path().join("secrets"))
            .arg("--cache-dir")
            .arg(directory.path().join("cache"))
            .arg("--pdfium")
            .arg(pdfium())
            .args(["--device", "cpu", "--model-listen", &model.to_string()])
            .args(["--open", "--listen", &search.to_string()])
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let mut server = Self {
            process,
            model,
            search,
            client: Client::new(),
            _directory: directory,
        };
        let began = Instant::now();
        loop {
            let health = server.client.get(format!("http://{model}/healthy-check"));
            if let Ok(response) = health.send().await
                && response.status() == StatusCode::OK
            {
                return server;
            }
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            assert!(began.elapsed() < Duration::from_mins(3), "not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends images as httpx does: `files=[("images", (name, bytes, "image/png")), ...]`.
    async fn embed_images(&self, query: &str, images: &[Vec<u8>]) -> Response {
        let boundary = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let mut body = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"images\"; \
                 filename=\"Bericht 2024.pdf_{number}.png\"\r\nContent-Type: image/png\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(image);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        let url = format!("http://{}/embed_image{query}", self.model);
        let kind = format!("multipart/form-data; boundary={boundary}");
        let request = self.client.post(url).header("content-type", kind);
        request.body(body).send().await.unwrap()
    }
}

/// Takes spans, as a collector does, at the address that it returns.
async fn collector() -> (String, Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&requests);
    let take = move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        taken.lock().unwrap().push(request);
        async {}
    };
    let router = Router::new().route("/v1/traces", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), requests)
}

/// The rows of a tensor of the reference.
fn reference(name: &str) -> Vec<Vec<f32>> {
    let file = checkpoint().join("reference.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let tensor: &Tensor = &tensors[name];
    tensor.to_vec2().unwrap()
}

#[track_caller]
fn assert_close(found: &Value, expected: &[Vec<f32>], what: &str) {
    let rows = found.as_array().unwrap();
    assert_eq!(rows.len(), expected.len(), "{what}");
    for (row, expected) in rows.iter().zip(expected) {
        let row = row.as_array().unwrap();
        assert_eq!(row.len(), expected.len(), "{what}");
        for (found, expected) in row.iter().zip(expected) {
            let difference = (found.as_f64().unwrap() - f64::from(*expected)).abs();
            assert!(difference <= TOLERANCE, "{what}: off by {difference}");
        }
    }
}

#[tokio::test]
async fn layras_requests_get_the_vectors_of_the_reference() {
    let server = Server::start().await;
    let facts = std::fs::read(checkpoint().join("reference.json")).unwrap();
    let facts: Value = serde_json::from_slice(&facts).unwrap();
    let url = format!("http://{}/embed_text", server.model);
    let request = server.client.post(&url);
    let request = request.json(&json!({ "queries": facts["queries"] }));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    let embeddings = body["embeddings"].as_array().unwrap();
    assert_eq!(embeddings.len(), facts["queries"].as_array().unwrap().len());
    for (number, vectors) in embeddings.iter().enumerate() {
        let name = format!("query{number}.embeddings");
        assert_close(vectors, &reference(&name), &name);
    }

    let images: Vec<Vec<u8>> = (0..PAGES)
        .map(|page| std::fs::read(fixtures().join(format!("pages/page{page}.png"))).unwrap())
        .collect();
    let response = server.embed_images("", &images).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    let embeddings = body["embeddings"].as_array().unwrap();
    assert_eq!(embeddings.len(), PAGES);
    for (page, vectors) in embeddings.iter().enumerate() {
        let name = format!("page{page}.embeddings");
        assert_close(vectors, &reference(&name), &name);
    }
    let response = server.embed_images("?encoding=base64_f16", &images).await;
    let body: Value = response.json().await.unwrap();
    let expected = reference("page0.embeddings");
    let characters = body["embeddings"][0].as_str().unwrap().len();
    let bytes = 2 * expected.len() * expected[0].len();
    assert_eq!(characters, bytes.div_ceil(3) * 4);

    // Images that cannot be opened are named. The server goes on.
    let readable = images[0].clone();
    let bomb = "tests/fieldfiles/files/400-megapixels.png";
    let bomb = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(bomb)).unwrap();
    for bad in [b"no image".to_vec(), bomb] {
        let response = server.embed_images("", &[readable.clone(), bad]).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let body: Value = response.json().await.unwrap();
        let message = body["detail"][0]["msg"].as_str().unwrap();
        assert!(message.starts_with("image 2: "), "{message}");
    }
    let many = vec![b"x".to_vec(); 10_000];
    let response = server.embed_images("", &many).await;
    assert!(response.status().is_client_error(), "{}", response.status());
    let response = server.embed_images("", &[readable]).await;
    assert_eq!(response.status(), StatusCode::OK);

    // The stores are not there.
    let url = format!("http://{}/v1/search", server.search);
    let search = json!({ "question": "who", "knowledge_bases": ["a"] });
    let response = server.client.post(url).json(&search).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let url = format!("http://{}/readyz", server.search);
    let ready = server.client.get(url).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_request_continues_its_callers_trace() {
    let (endpoint, requests) = collector().await;
    let mut server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ])
    .await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = server
        .client
        .post(format!("http://{}/embed_text", server.model));
    let request = request.header("traceparent", parent);
    let request = request.json(&json!({ "queries": ["who signs the form?"] }));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);

    // The last spans are delivered before the process ends.
    let pid = Pid::from_raw(server.process.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let began = Instant::now();
    while server.process.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_mins(1), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let requests = requests.lock().unwrap();
    let resources: Vec<_> = requests.iter().flat_map(|of| &of.resource_spans).collect();
    let described = &resources[0].resource.as_ref().unwrap().attributes;
    for key in ["service.name", "service.version", "deployment.environment"] {
        assert!(
            described.iter().any(|of| of.key == key),
            "{key}: {described:?}"
        );
    }
    let scopes = resources.iter().flat_map(|resource| &resource.scope_spans);
    let spans: Vec<_> = scopes.flat_map(|scope| &scope.spans).collect();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let request = named("POST /embed_text");
    assert_eq!(
        request.parent_span_id,
        0xb7ad_6b71_6920_3331_u64.to_be_bytes()
    );
    let embed = named("embed");
    assert_eq!(embed.parent_span_id, request.span_id);
    assert_eq!(embed.trace_id, request.trace_id);
}
