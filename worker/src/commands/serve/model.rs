//! The model, and the renderer that opens images for it.

use std::path::Path;

use futures::future::try_join_all;
use layra_crds::{RenderSpec, WorkerConfig};
use layra_embedding::{MultiVector, PageGrid};
use layra_rendering::{Document, ImageFormat, PageRequest, RenderedPage, Renderer, Word};
use tempfile::{NamedTempFile, TempDir};

use crate::assembly::Common;
use crate::document::Recipe;
use crate::pipeline::embedder::{EmbedderThread, PageContent, PagePixels};
use crate::pipeline::{render_failure, resolution};
use crate::runtime::failure::{Failure, Reason, Stage};

/// The model, and the renderer that opens images for it.
pub(super) struct Model {
    embedder: EmbedderThread,
    renderer: Renderer,
    render: RenderSpec,
    /// Directory of the images that are being embedded. It is removed with this.
    scratch: TempDir,
    /// Two models with the same key give the same vectors.
    pub(super) key: String,
}

impl Model {
    /// Tests the renderer, then loads the model.
    pub(super) async fn load(common: &Common) -> Result<Self, Failure> {
        let renderer = common.tested_renderer().await?;
        let config = &common.settings.config;
        let known = common.settings.known_model.reference.as_ref();
        let checksum = known.map_or("", |known| known.checksum.as_str());
        let key = format!("{}/{checksum}", Recipe::of(config).digest());
        let embedder = common.embedder().await?;
        Self::new(embedder, renderer, config, &common.paths.cache, key)
    }

    pub(super) fn new(
        embedder: EmbedderThread,
        renderer: Renderer,
        config: &WorkerConfig,
        cache: &Path,
        key: String,
    ) -> Result<Self, Failure> {
        let unwritable = |error: std::io::Error| {
            let message = format!("{}: {error}", cache.display());
            Failure::fatal(Stage::Fetch, Reason::CacheUnwritable, message)
        };
        std::fs::create_dir_all(cache).map_err(unwritable)?;
        let scratch = tempfile::Builder::new().prefix("serve-").tempdir_in(cache);
        Ok(Self {
            embedder,
            renderer,
            render: config.documents.render.clone(),
            scratch: scratch.map_err(unwritable)?,
            key,
        })
    }

    pub(super) fn dimensions(&self) -> usize {
        self.embedder.dimensions()
    }

    /// The vectors of each question, in order.
    pub(super) async fn questions(&self, texts: &[String]) -> Result<Vec<MultiVector>, Failure> {
        let answers = texts.iter().map(|text| self.embedder.embed_question(text));
        let vectors = try_join_all(answers).await?;
        vectors.iter().try_for_each(check_finite)?;
        Ok(vectors)
    }

    /// The vectors of each text, in order, as those of pages.
    pub(super) async fn texts(&self, texts: Vec<String>) -> Result<Vec<MultiVector>, Failure> {
        let pages = texts.into_iter();
        let pages = pages.map(|text| PageContent { text, pixels: None });
        let vectors = self.embedder.embed_pages(pages.collect()).await;
        vectors.into_iter().collect()
    }

    /// Whether the model reads the images of pages, and not their text.
    pub(super) fn reads_images(&self) -> bool {
        self.embedder.page_pixels().is_some()
    }

    /// Opens an original in the sandbox.
    pub(super) async fn open(&self, file: &Path) -> Result<Document, Failure> {
        let document = self.renderer.open(file).await;
        document.map_err(|error| render_failure(&error))
    }

    /// The words of a page, counted from 0, and where they are.
    pub(super) async fn words(
        &self,
        document: &mut Document,
        page: u32,
    ) -> Result<Vec<Word>, Failure> {
        let words = document.words(page).await;
        words.map_err(|error| render_failure(&error))
    }

    /// Where the vectors of a page, counted from 0, lie on it.
    pub(super) async fn grid(
        &self,
        document: &mut Document,
        page: u32,
    ) -> Result<Option<PageGrid>, Failure> {
        let pixels = self.embedder.page_pixels();
        let request = PageRequest {
            page,
            resolution: resolution(&self.render, document.pages(), pixels),
            format: ImageFormat::Png,
            quality: 80,
            pixels: true,
        };
        let page = document.render(request).await;
        let page = page.map_err(|error| render_failure(&error))?;
        self.embedder.page_grid(content(page)).await
    }

    /// A new file for an image.
    pub(super) fn new_file(&self) -> Result<NamedTempFile, Failure> {
        NamedTempFile::new_in(&self.scratch)
            .map_err(|error| Failure::transient(Stage::Fetch, Reason::CacheUnwritable, error))
    }

    /// The vectors of an image in a file, as those of a page that is ingested. The renderer opens
    /// the file: images are hostile.
    pub(super) async fn image(&self, file: &Path) -> Result<MultiVector, Failure> {
        let pixels = self.embedder.page_pixels();
        let request = PageRequest {
            page: 0,
            resolution: resolution(&self.render, 1, pixels),
            format: ImageFormat::Png,
            quality: 80,
            pixels: pixels.is_some(),
        };
        let failed = |error| render_failure(&error);
        let mut document = self.renderer.open(file).await.map_err(failed)?;
        // A PDF of one page is taken, too: a text model has nothing to read in a picture. Plain text
        // would be drawn, whatever it is.
        if !document.is_picture() && document.format() != "pdf" {
            let message = format!("it is no image, but has the format {}", document.format());
            return Err(refused(Reason::Unsupported, message));
        }
        if document.pages() > 1 {
            let message = format!("it has {} pages: send each as an image", document.pages());
            return Err(refused(Reason::TooManyPages, message));
        }
        let page = document.render(request).await.map_err(failed)?;
        drop(document);
        if pixels.is_none() && page.text.trim().is_empty() {
            let message = "the model reads text, and the image has none that can be read";
            return Err(refused(Reason::Unsupported, message.to_owned()));
        }
        let mut embedded = self.embedder.embed_pages(vec![content(page)]).await;
        let vectors = embedded.pop().unwrap_or_else(|| {
            let message = "the model returned nothing";
            Err(refused(Reason::EmbeddingFailed, message.to_owned()))
        })?;
        check_finite(&vectors)?;
        Ok(vectors)
    }
}

fn content(page: RenderedPage) -> PageContent {
    let (width, height) = (page.width, page.height);
    PageContent {
        text: page.text,
        pixels: page.pixels.map(|rgb| PagePixels { width, height, rgb }),
    }
}

fn refused(reason: Reason, message: String) -> Failure {
    Failure::permanent(Stage::Embed, reason, message)
}

/// JSON has no number that is not finite.
fn check_finite(vectors: &MultiVector) -> Result<(), Failure> {
    if vectors.values().iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let message = "the model computed a value that is not a finite number";
    Err(refused(Reason::VectorsNotFinite, message.to_owned()))
}
