//! Builds the parts of a worker from its settings. Retries while a server is unavailable.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layra_crds::{ModelReport, PageTexts, RenderSpec, SourceFormat};
use layra_embedding::{DeviceChoice, Paced};
use layra_rendering::{
    RENDERER_LIMIT_BYTES, RenderOptions, Renderer, SandboxPolicy, container_limit_bytes,
    renderer_count,
};
use mongodb::bson::DateTime;
use tokio_util::sync::CancellationToken;

use crate::document::bucket::{Bucket, USERNAME};
use crate::document::{Fingerprint, Recipe, Sent};
use crate::model_files;
use crate::pipeline::budget::Budget;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::stages::fetch::Originals;
use crate::pipeline::{Isolation, OpenClaims, Pipeline, render_failure};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;
use crate::runtime::quotas::Quotas;
use crate::runtime::retry::Retry;
use crate::runtime::settings::Settings;
use crate::runtime::watched::Watched;
use crate::stores::Stores;
use crate::stores::archives::Archives;
use crate::stores::ledger::{Ledger, Request};
use crate::stores::milvus::Vectors;
use crate::stores::mongo::Documents;
use crate::stores::objects::Objects;
use crate::stores::usage::UsageRecord;

/// Local paths and limits, from the command line.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The cache directory, for the model and for originals in progress.
    pub(crate) cache: PathBuf,
    pub(crate) pdfium: PathBuf,
    /// LibreOffice. Not every image has it.
    pub(crate) soffice: PathBuf,
    /// The device of the model.
    pub(crate) device: DeviceChoice,
    /// Whether the model is in the cache: then no request is sent for it.
    pub(crate) model_fetched: bool,
    /// Memory limit of pages that are rendered and not yet stored.
    pub(crate) page_memory_bytes: usize,
    /// For benchmarks and tests only: an embedder that computes nothing.
    pub(crate) paced_embedder: Option<PacedEmbedder>,
}

/// For benchmarks and tests only: what an embedder does instead of computing.
#[derive(Clone, Debug)]
pub(crate) struct PacedEmbedder {
    /// How long it sleeps for each page.
    pub(crate) page: Duration,
    /// Text of pages at which it panics.
    pub(crate) panics_at: Option<String>,
}

/// The parts that all commands use.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) settings: Settings,
    pub(crate) paths: Paths,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) quotas: Arc<Quotas>,
    /// Cancelled when the worker must shut down.
    pub(crate) stop: CancellationToken,
    recipe: Recipe,
    /// When the worker was started.
    since: DateTime,
}

impl Common {
    pub(crate) fn new(settings: Settings, paths: Paths, stop: CancellationToken) -> Self {
        let health = Arc::new(Health::default());
        let metrics = Arc::new(Metrics::new());
        let recipe = Recipe::of(&settings.config);
        let quotas = Quotas::new(
            settings.config.stores.milvus.quotas,
            Arc::clone(&health),
            Arc::clone(&metrics),
        );
        Self {
            recipe,
            since: DateTime::now(),
            settings,
            paths,
            health,
            metrics,
            quotas: Arc::new(quotas),
            stop,
        }
    }

    /// The policy while a server is unavailable.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
            self.stop.clone(),
        )
    }

    /// Fetches and loads the model, and starts its threads.
    pub(crate) async fn embedder(&self) -> Result<EmbedderThread, Failure> {
        let config = &self.settings.config;
        let batch_pages = usize::try_from(config.embedding.batch_pages).unwrap_or(1);
        if let Some(PacedEmbedder { page, panics_at }) = self.paths.paced_embedder.clone() {
            tracing::warn!(time = ?page, "benchmark mode: vectors are meaningless");
            self.health.model_loaded();
            let paced = Box::new(Paced::new(page).panicking_at(panics_at));
            let embedder = Box::new(Watched::new(paced, Arc::clone(&self.health)));
            return EmbedderThread::start(embedder, batch_pages, Arc::clone(&self.metrics));
        }
        let cache = &self.paths.cache;
        let files = if self.paths.model_fetched {
            model_files::from_cache(config, cache)?
        } else {
            self.retry()
                .run(Stage::Model, &self.stop, |_| {
                    model_files::fetch_files(&self.settings, cache)
                })
                .await?
        };
        let family = config.embedding.model.family;
        let started = std::time::Instant::now();
        let settings = model_files::settings(&config.embedding, self.paths.device)?;
        let loading = tokio::task::spawn_blocking(move || layra_embedding::load(&settings, &files));
        let embedder = loading
            .await
            .map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?
            .map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%family, dimensions = embedder.dimensions(), seconds, "model loaded");
        self.health.model_loaded();
        let embedder = Box::new(Watched::new(embedder, Arc::clone(&self.health)));
        EmbedderThread::start(embedder, batch_pages, Arc::clone(&self.metrics))
    }

    /// The fingerprint of the model that [`embedder`](Self::embedder) has loaded, with vectors of this
    /// width. `None`: in benchmark mode.
    pub(crate) async fn fingerprint(
        &self,
        dimensions: usize,
    ) -> Result<Option<Fingerprint>, Failure> {
        if self.paths.paced_embedder.is_some() {
            return Ok(None);
        }
        let config = &self.settings.config;
        let checksum = model_files::checksum_of(config, &self.paths.cache).await?;
        let spec = &config.embedding;
        Ok(Some(Fingerprint::new(spec, &checksum, dimensions)))
    }

    /// Fetches the model into the cache and describes it.
    pub(crate) async fn fetch_model(&self) -> Result<ModelReport, Failure> {
        let cache = &self.paths.cache;
        self.retry()
            .run(Stage::Model, &self.stop, |_| {
                model_files::fetch(&self.settings, cache)
            })
            .await
    }

    pub(crate) async fn objects(&self) -> Result<Objects, Failure> {
        let Settings {
            config, secrets, ..
        } = &self.settings;
        let mut objects = Objects::new(&config.documents.object_store, secrets)?;
        if config.source.kafka.format == SourceFormat::S3Event {
            objects = objects.deleting_only_own(USERNAME);
        }
        self.retry()
            .run(Stage::Objects, &self.stop, |_| objects.check())
            .await?;
        Ok(objects)
    }

    pub(crate) async fn documents(&self) -> Result<Documents, Failure> {
        let Settings {
            config, secrets, ..
        } = &self.settings;
        let database = &config.stores.mongodb.database;
        let documents = Documents::new(
            &secrets.mongodb_uri,
            secrets.authorities.mongodb.as_deref(),
            database,
        )
        .await?;
        self.retry()
            .run(Stage::Mongodb, &self.stop, |_| documents.prepare())
            .await?;
        Ok(documents)
    }

    pub(crate) async fn vectors(&self, dimensions: usize) -> Result<Vectors, Failure> {
        let Settings {
            config, secrets, ..
        } = &self.settings;
        let connect = |_| async {
            let token = secrets.milvus_token.as_ref();
            let authorities = secrets.authorities.milvus.as_deref();
            let spec = &config.stores.milvus;
            let vectors = Vectors::connect(spec, token, authorities, dimensions).await?;
            vectors.check().await?;
            Ok(vectors)
        };
        self.retry().run(Stage::Milvus, &self.stop, connect).await
    }

    pub(crate) async fn pipeline(&self) -> Result<Pipeline, Failure> {
        let config = &self.settings.config;
        // Before anything that waits for a server: a node that cannot render says so at once.
        let renderer = self.tested_renderer().await?;
        let objects = self.objects().await?;
        let originals = Originals::new(objects.clone(), self.paths.cache.clone())?;
        let documents = self.documents().await?;
        let keeps_texts = config.documents.page_texts == Some(PageTexts::Keep);
        if keeps_texts {
            let prepare = |_| documents.prepare_page_texts();
            self.retry()
                .run(Stage::Mongodb, &self.stop, prepare)
                .await?;
        }
        let embedder = self.embedder().await?;
        let dimensions = embedder.dimensions();
        self.quotas.set_dimensions(dimensions);
        let reads_images = embedder.page_pixels().is_some();
        self.metrics.model_reads_images.set(reads_images.into());
        let model = self.fingerprint(dimensions).await?;
        let stores = self
            .all_stores(objects, documents, dimensions, model)
            .await?;
        Ok(Pipeline {
            originals,
            stores,
            renderer,
            render: config.documents.render.clone(),
            keeps_texts,
            limits: config.documents.limits.clone(),
            embedder,
            batch_pages: usize::try_from(config.embedding.batch_pages)
                .unwrap_or(1)
                .max(1),
            range_pages: config.documents.range_pages,
            budget: Budget::new(
                self.paths.page_memory_bytes,
                self.metrics.pages_in_flight_bytes.clone(),
            ),
            isolation: Isolation::default(),
            open_claims: OpenClaims::default(),
            retry: self.retry(),
            metrics: Arc::clone(&self.metrics),
            quotas: Arc::clone(&self.quotas),
            bucket: Bucket::of(config),
        })
    }

    /// Connects to the stores for work without vectors. The model is not needed.
    pub(crate) async fn stores(&self) -> Result<Stores, Failure> {
        let objects = self.objects().await?;
        let documents = self.documents().await?;
        self.all_stores(objects, documents, 0, None).await
    }

    async fn all_stores(
        &self,
        objects: Objects,
        documents: Documents,
        dimensions: usize,
        model: Option<Fingerprint>,
    ) -> Result<Stores, Failure> {
        let vectors = self.vectors(dimensions).await?;
        let database = documents.database();
        let vectors = Arc::new(vectors.with_rebuilds(database).of_model(database, model));
        let collections = &self.settings.config.stores.milvus.collection;
        let counts_vectors = self.quotas.counts_vectors();
        Ok(Stores {
            usage: UsageRecord::new(documents.database(), collections, counts_vectors),
            objects,
            ledger: self.ledger(&documents).await?,
            archives: self.archives(&documents)?,
            documents,
            vectors,
            milvus: self.settings.config.stores.milvus.clone(),
        })
    }

    /// The bucket of archives is not connected to before it is needed.
    pub(crate) fn archives(&self, documents: &Documents) -> Result<Archives, Failure> {
        let Settings {
            config, secrets, ..
        } = &self.settings;
        let store = &config.documents.object_store;
        let archive = config.stores.milvus.archive.as_ref();
        let objects = archive.map(|archive| Objects::of_bucket(store, secrets, &archive.bucket));
        Ok(Archives::new(documents.database(), objects.transpose()?))
    }

    pub(crate) async fn ledger(&self, documents: &Documents) -> Result<Ledger, Failure> {
        let topic = &self.settings.config.source.kafka.topic;
        let ledger = Ledger::new(documents.database(), topic);
        self.retry()
            .run(Stage::Mongodb, &self.stop, |_| ledger.prepare())
            .await?;
        Ok(ledger)
    }

    /// A request to this worker. `origin` identifies it.
    pub(crate) fn request(&self, sent: Sent) -> Request {
        Request {
            sent,
            recipe: self.recipe.clone(),
            worker_since: self.since,
        }
    }

    /// The renderer, if this node can render.
    pub(crate) async fn tested_renderer(&self) -> Result<Renderer, Failure> {
        let renderer = self.renderer()?;
        test_renderer(&renderer).await?;
        Ok(renderer)
    }

    fn renderer(&self) -> Result<Renderer, Failure> {
        let render = &self.settings.config.documents.render;
        let Paths {
            pdfium,
            soffice,
            cache,
            ..
        } = self.paths.clone();
        renderer(render, pdfium, soffice, cache)
    }
}

/// The renderer of a worker with these settings. Office documents are converted in `scratch`.
pub(crate) fn renderer(
    render: &RenderSpec,
    pdfium: PathBuf,
    soffice: PathBuf,
    scratch: PathBuf,
) -> Result<Renderer, Failure> {
    if !pdfium.is_file() {
        let message = format!("the PDFium library {} does not exist", pdfium.display());
        return Err(Failure::fatal(
            Stage::Render,
            Reason::PdfiumNotFound,
            message,
        ));
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::fatal(Stage::Render, Reason::RendererUnavailable, error))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let container_limit_bytes = container_limit_bytes();
    let processes = renderer_count(container_limit_bytes, cores);
    tracing::info!(container_limit_bytes, processes, "number of renderers");
    Ok(Renderer::new(RenderOptions {
        pdfium,
        program,
        page_timeout: Duration::from_secs(render.timeout_seconds.into()),
        memory_limit_bytes: RENDERER_LIMIT_BYTES,
        max_pages: render.max_pages,
        processes,
        soffice,
        scratch,
        office_timeout: Duration::from_secs(render.office_timeout_seconds.into()),
        sandbox: match render.sandbox {
            layra_crds::SandboxPolicy::Required => SandboxPolicy::Required,
            layra_crds::SandboxPolicy::BestEffort => SandboxPolicy::BestEffort,
        },
    }))
}

/// Tests the renderer, so that a fault of the image or the node ends the worker and is not charged
/// to documents. A renderer that was killed, or stood still, proves no such fault.
async fn test_renderer(renderer: &Renderer) -> Result<(), Failure> {
    let Err(error) = renderer.self_test().await else {
        return Ok(());
    };
    let failure = render_failure(&error);
    if failure.class == Class::Fatal {
        return Err(failure);
    }
    tracing::warn!(%error, "renderer could not be tested");
    Ok(())
}
