//! Requests over real connections, with a model that computes nothing and pages in memory.

mod access;
mod page;
mod requests_of_layra;
mod searches;
mod slow;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderValue;
use futures::FutureExt;
use futures::future::BoxFuture;
use layra_crds::WorkerConfig;
use layra_embedding::{Batch, EmbedError, Embedder, MultiVector, PageInput, Prepared};
use layra_rendering::{RenderOptions, Renderer, SandboxPolicy};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::access::Access;
use super::cache::Cache;
use super::library::{Library, Ranking, Request, Scored, sort};
use super::model::Model;
use super::service::Service;
use super::{api, cors, layra, listener};
use crate::pipeline::embedder::EmbedderThread;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::metrics::Metrics;
use crate::stores::mongo::{ShownBase, ShownFile, ShownPage};

/// The origin whose pages may call the search.
const ORIGIN: &str = "https://app.example.com";

/// The vectors of a text: its length, and 1.
struct Lengths;

impl Embedder for Lengths {
    fn dimensions(&self) -> usize {
        2
    }

    fn page_pixels(&self) -> Option<u32> {
        None
    }

    fn batch_tokens(&self) -> usize {
        100
    }

    fn prepare(&self, _page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        Ok(Prepared::from_passages(Vec::new()))
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        Ok(Batch::from_passages(vec![Vec::new(); pages.len()]))
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        Ok(vec![MultiVector::new(2, vec![0.0, 1.0]); batch.pages])
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        if text.contains("unreadable") {
            return Err(EmbedError::Tokenize("no".into()));
        }
        Ok(MultiVector::new(2, vec![text.len() as f32, 1.0]))
    }
}

/// What a knowledge base answers.
#[derive(Clone)]
enum Base {
    Pages(Vec<Scored>),
    Fails(Failure),
    Hangs,
}

#[derive(Clone, Default)]
struct InMemory {
    bases: Arc<Mutex<HashMap<String, Base>>>,
    files: Arc<Mutex<HashMap<String, ShownFile>>>,
    texts: Arc<Mutex<HashMap<String, String>>>,
    /// The files that each ranking was asked for.
    asked: Arc<Mutex<Vec<Vec<String>>>>,
}

impl InMemory {
    fn insert(&self, base: &str, pages: &[(&str, &str, f32)]) {
        let mut scored = Vec::new();
        for (file_id, image_id, score) in pages {
            let mut files = self.files.lock().unwrap();
            let file = files.entry((*file_id).to_owned()).or_default();
            file.name = format!("{file_id}.pdf");
            base.clone_into(&mut file.knowledge_base);
            let number = i64::try_from(file.pages.len()).unwrap() + 1;
            let key = (*image_id).to_owned();
            let page = ShownPage { number, key };
            file.pages.insert((*image_id).to_owned(), page);
            scored.push(Scored {
                image_id: (*image_id).to_owned(),
                file_id: (*file_id).to_owned(),
                score: *score,
            });
        }
        sort(&mut scored);
        self.answer(base, Base::Pages(scored));
    }

    fn answer(&self, base: &str, answer: Base) {
        self.bases.lock().unwrap().insert(base.to_owned(), answer);
    }
}

impl Library for InMemory {
    fn rank<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Ranking, Failure>> {
        self.asked.lock().unwrap().push(request.files.to_vec());
        let base = self
            .bases
            .lock()
            .unwrap()
            .get(request.knowledge_base)
            .cloned();
        async move {
            match base {
                Some(Base::Pages(pages)) => Ok(Ranking {
                    vectors: 7 * pages.len(),
                    pages,
                    ..Ranking::default()
                }),
                Some(Base::Fails(failure)) => Err(failure),
                Some(Base::Hangs) => std::future::pending().await,
                None => Err(Failure::fatal(
                    Stage::Mongodb,
                    Reason::KnowledgeBaseNotFound,
                    "secret details",
                )),
            }
        }
        .boxed()
    }

    fn files<'a>(
        &'a self,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, ShownFile>, Failure>> {
        let files = self.files.lock().unwrap();
        let found = ids
            .iter()
            .filter_map(|id| Some((id.clone(), files.get(id)?.clone())));
        let found: HashMap<_, _> = found.collect();
        async move { Ok(found) }.boxed()
    }

    fn texts<'a>(
        &'a self,
        image_ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, String>, Failure>> {
        let mut texts = self.texts.lock().unwrap().clone();
        texts.retain(|image_id, _| image_ids.contains(image_id));
        async move { Ok(texts) }.boxed()
    }

    fn knowledge_bases(&self) -> BoxFuture<'_, Result<Vec<ShownBase>, Failure>> {
        let bases = self.bases.lock().unwrap();
        let found = bases.keys().map(|id| ShownBase {
            id: id.clone(),
            name: format!("{id}'s"),
        });
        let found: Vec<ShownBase> = found.collect();
        async move { Ok(found) }.boxed()
    }

    fn vectors<'a>(
        &'a self,
        _knowledge_base: &'a str,
        _image_id: &'a str,
    ) -> BoxFuture<'a, Result<Vec<f32>, Failure>> {
        async move { Ok(Vec::new()) }.boxed()
    }

    fn fetch<'a>(&'a self, key: &'a str, _to: &'a Path) -> BoxFuture<'a, Result<(), Failure>> {
        let gone = Failure::permanent(Stage::Fetch, Reason::ObjectNotFound, key);
        async move { Err(gone) }.boxed()
    }

    fn link<'a>(&'a self, key: &'a str) -> BoxFuture<'a, String> {
        async move { format!("http://images/{key}") }.boxed()
    }
}

/// Both servers.
struct Servers {
    model: SocketAddr,
    search: SocketAddr,
    service: Arc<Service>,
    library: InMemory,
    client: Client,
    cache: tempfile::TempDir,
    _stop: DropGuard,
}

impl Servers {
    /// With a loaded model and connected stores.
    async fn ready(access: Access) -> Self {
        let servers = Self::starting(access).await;
        servers.service.has_loaded(model(servers.cache.path()));
        servers
            .service
            .has_connected(Box::new(servers.library.clone()));
        servers
    }

    async fn starting(access: Access) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let health = Arc::default();
        let metrics = Arc::new(Metrics::new());
        let service = Service::new(health, metrics, access, Cache::in_memory());
        let service = Arc::new(service);
        let stop = CancellationToken::new();
        let origins = [HeaderValue::from_static(ORIGIN)];
        let mut addresses = Vec::new();
        for router in [
            layra::router(Arc::clone(&service)),
            cors::allow(api::router(Arc::clone(&service)), &origins),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let stop = stop.clone();
            tokio::spawn(async move { listener::serve(listener, router, &stop).await });
        }
        Self {
            model: addresses[0],
            search: addresses[1],
            service,
            library: InMemory::default(),
            client: Client::new(),
            cache: tempfile::tempdir().unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    async fn embed_text(&self, body: impl Into<reqwest::Body>) -> Response {
        let url = format!("http://{}/embed_text", self.model);
        let request = self.client.post(url).body(body);
        request.send().await.unwrap()
    }

    async fn search_as(&self, token: Option<&str>, body: &Value) -> Response {
        let url = format!("http://{}/v1/search", self.search);
        let mut request = self.client.post(url).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    }

    /// The status code and the body of a search.
    async fn search(&self, body: &Value) -> (StatusCode, Value) {
        let response = self.search_as(None, body).await;
        (response.status(), response.json().await.unwrap())
    }

    async fn get(&self, address: SocketAddr, path: &str) -> (StatusCode, String) {
        let response = self.client.get(format!("http://{address}{path}")).send();
        let response = response.await.unwrap();
        (response.status(), response.text().await.unwrap())
    }
}

fn model(cache: &std::path::Path) -> Model {
    let config = WorkerConfig::from_yaml(
        "
pipeline: rag/contracts
source: {kafka: {bootstrapServers: 'kafka:9092'}}
documents:
  objectStore:
    endpoint: 'http://minio:9000'
    accessKeySecretRef: {name: s3}
    secretKeySecretRef: {name: s3}
embedding: {model: {family: minilm, uri: 'file:///models/minilm'}}
stores:
  milvus: {uri: 'http://milvus:19530'}
  mongodb: {uriSecretRef: {name: mongo}}
",
    );
    let config = config.unwrap();
    let metrics = Arc::new(Metrics::new());
    let embedder = EmbedderThread::start(Box::new(Lengths), 8, metrics).unwrap();
    // These tests open no image.
    let renderer = Renderer::new(RenderOptions {
        pdfium: PathBuf::new(),
        program: PathBuf::new(),
        page_timeout: Duration::from_secs(1),
        memory_limit_bytes: 1 << 30,
        max_pages: 1,
        processes: 1,
        soffice: PathBuf::new(),
        scratch: cache.to_owned(),
        office_timeout: Duration::from_secs(1),
        sandbox: SandboxPolicy::Required,
    });
    Model::new(embedder, renderer, &config, cache, "key".into()).unwrap()
}
