//! Putting a worker together from its settings. Servers that are away are waited for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layra_crds::{ModelStatus, WorkerConfig};
use layra_embedding::{DeviceChoice, Paced};
use layra_rendering::{RenderOptions, Renderer};
use mongodb::bson::DateTime;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::model_files;
use crate::pipeline::Pipeline;
use crate::pipeline::budget::Budget;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::stages::fetch::Originals;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::retry::Retry;
use crate::runtime::settings::Settings;
use crate::stores::Stores;
use crate::stores::ledger::{Ledger, Request};
use crate::stores::milvus::Vectors;
use crate::stores::mongo::Documents;
use crate::stores::objects::Objects;

/// Memory that one renderer may take.
const RENDERER_MEMORY_BYTES: u64 = 1 << 30;

/// Where the worker finds its files, and how much of the machine it may take.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The cache directory: the model, and originals while they are worked on.
    pub cache: PathBuf,
    /// The PDFium library.
    pub pdfium: PathBuf,
    /// LibreOffice, where the image has it.
    pub soffice: PathBuf,
    /// Where the model runs.
    pub device: DeviceChoice,
    /// The model is in the cache already: no server is asked for it.
    pub model_fetched: bool,
    /// Memory for pages that are drawn and not yet stored.
    pub page_memory_bytes: usize,
    /// For benchmarks alone: how long an embedder that computes nothing takes for a page.
    pub paced_embedder: Option<Duration>,
}

/// What all commands share.
#[derive(Clone, Debug)]
pub struct Common {
    /// Configuration and secrets.
    pub settings: Settings,
    /// Local files.
    pub paths: Paths,
    /// The worker's state.
    pub health: Arc<Health>,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the worker is told to stop.
    pub stop: CancellationToken,
    /// A digest of everything in the configuration that decides what a page becomes.
    recipe: String,
    /// When the worker started.
    since: DateTime,
}

impl Common {
    /// A worker that has done nothing yet.
    #[must_use]
    pub fn new(settings: Settings, paths: Paths, stop: CancellationToken) -> Self {
        let health = Arc::new(Health::default());
        let recipe = recipe(&settings.config);
        Self {
            recipe,
            since: DateTime::now(),
            settings,
            paths,
            health,
            metrics: Arc::new(Metrics::new()),
            stop,
        }
    }

    /// The policy for servers that are away.
    #[must_use]
    pub fn retry(&self) -> Retry {
        Retry::new(
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
            self.stop.clone(),
        )
    }

    /// The model, on its thread.
    pub async fn embedder(&self) -> Result<EmbedderThread, Failure> {
        let Settings { config, secrets } = &self.settings;
        let batch_pages = usize::try_from(config.embedding.batch_pages).unwrap_or(1);
        if let Some(time) = self.paths.paced_embedder {
            tracing::warn!(?time, "a benchmark: vectors mean nothing");
            self.health.model_loaded();
            let embedder = Box::new(Paced::new(time));
            return EmbedderThread::start(embedder, batch_pages, Arc::clone(&self.metrics));
        }
        let cache = &self.paths.cache;
        let files = if self.paths.model_fetched {
            model_files::from_cache(config, cache)?
        } else {
            self.retry()
                .run(Stage::Model, &self.stop, |_| {
                    model_files::obtain(config, secrets, cache)
                })
                .await?
        };
        let family = config.embedding.model.family;
        let started = std::time::Instant::now();
        let settings = model_files::settings(&config.embedding, self.paths.device)?;
        let loading = tokio::task::spawn_blocking(move || layra_embedding::load(&settings, &files));
        let embedder = loading
            .await
            .map_err(|error| Failure::fatal(Stage::Model, "ModelUnusable", error))?
            .map_err(|error| Failure::fatal(Stage::Model, "ModelUnusable", error))?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%family, dimensions = embedder.dimensions(), seconds, "the model is loaded");
        self.health.model_loaded();
        EmbedderThread::start(embedder, batch_pages, Arc::clone(&self.metrics))
    }

    /// Fetches the model into the cache and says which it is.
    pub async fn fetch_model(&self) -> Result<ModelStatus, Failure> {
        let Settings { config, secrets } = &self.settings;
        let cache = &self.paths.cache;
        self.retry()
            .run(Stage::Model, &self.stop, |_| {
                model_files::fetch(config, secrets, cache)
            })
            .await
    }

    /// The object store, once its bucket answers.
    pub async fn objects(&self) -> Result<Objects, Failure> {
        let Settings { config, secrets } = &self.settings;
        let objects = Objects::new(&config.documents.object_store, secrets)?;
        self.retry()
            .run(Stage::Objects, &self.stop, |_| objects.check())
            .await?;
        Ok(objects)
    }

    /// MongoDB, once it answers.
    pub async fn documents(&self) -> Result<Documents, Failure> {
        let Settings { config, secrets } = &self.settings;
        let database = &config.stores.mongodb.database;
        let documents = Documents::new(&secrets.mongodb_uri, database).await?;
        self.retry()
            .run(Stage::Mongodb, &self.stop, |_| documents.prepare())
            .await?;
        Ok(documents)
    }

    /// Milvus, once it answers.
    pub async fn vectors(&self, dimensions: usize) -> Result<Vectors, Failure> {
        let Settings { config, secrets } = &self.settings;
        let connect = |_| async {
            let token = secrets.milvus_token.as_ref();
            let vectors = Vectors::connect(&config.stores.milvus, token, dimensions).await?;
            vectors.check().await?;
            Ok(vectors)
        };
        self.retry().run(Stage::Milvus, &self.stop, connect).await
    }

    /// Everything that documents go through.
    pub async fn pipeline(&self) -> Result<Pipeline, Failure> {
        let config = &self.settings.config;
        let renderer = self.renderer()?;
        let objects = self.objects().await?;
        let documents = self.documents().await?;
        let embedder = self.embedder().await?;
        let dimensions = embedder.dimensions();
        let stores = self.all_stores(objects, documents, dimensions).await?;
        Ok(Pipeline {
            originals: Originals::new(stores.objects.clone(), self.paths.cache.clone())?,
            stores,
            renderer,
            render: config.documents.render.clone(),
            embedder,
            batch_pages: usize::try_from(config.embedding.batch_pages)
                .unwrap_or(1)
                .max(1),
            range_pages: config.documents.range_pages,
            budget: Budget::new(
                self.paths.page_memory_bytes,
                self.metrics.pages_in_flight_bytes.clone(),
            ),
            together: Arc::default(),
            retry: self.retry(),
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// The stores, for work that adds no vectors: the model is not needed.
    pub async fn stores(&self) -> Result<Stores, Failure> {
        let objects = self.objects().await?;
        let documents = self.documents().await?;
        self.all_stores(objects, documents, 0).await
    }

    async fn all_stores(
        &self,
        objects: Objects,
        documents: Documents,
        dimensions: usize,
    ) -> Result<Stores, Failure> {
        let vectors = Arc::new(self.vectors(dimensions).await?);
        Ok(Stores {
            objects,
            ledger: self.ledger(&documents).await?,
            documents,
            vectors,
            milvus: self.settings.config.stores.milvus.clone(),
        })
    }

    /// The ledger.
    pub async fn ledger(&self, documents: &Documents) -> Result<Ledger, Failure> {
        let topic = &self.settings.config.source.kafka.topic;
        let ledger = Ledger::new(documents.database(), topic);
        self.retry()
            .run(Stage::Mongodb, &self.stop, |_| ledger.prepare())
            .await?;
        Ok(ledger)
    }

    /// A request for a document that came to this worker. `origin` names it.
    #[must_use]
    pub fn request(&self, origin: String, at: DateTime) -> Request {
        Request {
            origin,
            at,
            recipe: self.recipe.clone(),
            worker_since: self.since,
        }
    }

    fn renderer(&self) -> Result<Renderer, Failure> {
        let pdfium = self.paths.pdfium.clone();
        if !pdfium.is_file() {
            let message = format!("{} does not exist", pdfium.display());
            return Err(Failure::fatal(Stage::Render, "PdfiumNotFound", message));
        }
        let program = std::env::current_exe()
            .map_err(|error| Failure::fatal(Stage::Render, "RendererUnavailable", error))?;
        let render = &self.settings.config.documents.render;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Renderer::new(RenderOptions {
            pdfium,
            program,
            page_timeout: Duration::from_secs(render.timeout_seconds.into()),
            memory_limit_bytes: RENDERER_MEMORY_BYTES,
            max_pages: render.max_pages,
            processes: cores.max(2),
            soffice: self.paths.soffice.clone(),
            scratch: self.paths.cache.clone(),
            office_timeout: Duration::from_secs(render.office_timeout_seconds.into()),
        }))
    }
}

/// A digest of the model and of how pages are drawn.
fn recipe(config: &WorkerConfig) -> String {
    let parts = serde_json::json!([config.embedding, config.documents.render]);
    let digest = Sha256::digest(parts.to_string());
    digest[..8].iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
