//! The model, and where pages come from: their images, or for a model that reads text their texts.

use futures::{StreamExt as _, TryStreamExt as _};
use layra_crds::{PageTexts, RenderSpec};
use layra_rendering::{ImageFormat, PageRequest, Renderer};
use tempfile::{NamedTempFile, TempDir};
use tokio_util::sync::CancellationToken;

use crate::assembly::Common;
use crate::document::Fingerprint;
use crate::pipeline::embedder::{EmbedderThread, PageContent, PagePixels};
use crate::pipeline::{render_failure, resolution};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::retry::Retry;
use crate::stores::milvus::{PageVectors, check_finite};
use crate::stores::objects::Objects;

/// Images that are opened at the same time, of one batch.
const OPENED_AT_ONCE: usize = 4;

/// A page of a file, as `files` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) file_id: String,
    pub(super) image_id: String,
    /// From 0.
    pub(super) number: u32,
    /// The key of its image.
    pub(super) key: String,
    /// Pages of its file.
    pub(super) of: u32,
    /// Its text, for a model that reads text. `None`: none is kept.
    pub(super) text: Option<String>,
}

/// The model that embeds collections again, and what it needs.
pub(crate) struct Reembedding {
    own: Fingerprint,
    embedder: EmbedderThread,
    renderer: Renderer,
    render: RenderSpec,
    objects: Objects,
    /// Directory of the images that are being embedded. It is removed with this.
    scratch: TempDir,
    retry: Retry,
    stop: CancellationToken,
}

impl Reembedding {
    /// Loads the model. Fails if pages cannot be embedded again with it.
    pub(crate) async fn prepare(common: &Common) -> Result<Self, Failure> {
        let config = &common.settings.config;
        let keeps_texts = config.documents.page_texts == Some(PageTexts::Keep);
        if !config.embedding.model.family.is_visual() && !keeps_texts {
            let message = "the model reads the text of pages, and the texts are not kept \
                           (documents.pageTexts: Keep), so nothing can be embedded again. Delete \
                           the knowledge base, and upload its documents again";
            return Err(Failure::fatal(Stage::Model, Reason::RebuildFailed, message));
        }
        let cache = &common.paths.cache;
        let unwritable = |error: std::io::Error| {
            let message = format!("{}: {error}", cache.display());
            Failure::fatal(Stage::Fetch, Reason::CacheUnwritable, message)
        };
        std::fs::create_dir_all(cache).map_err(unwritable)?;
        let scratch = tempfile::Builder::new()
            .prefix("reembed-")
            .tempdir_in(cache);
        let renderer = common.tested_renderer().await?;
        let embedder = common.embedder().await?;
        let own = common.fingerprint(embedder.dimensions()).await?;
        let own = own.ok_or_else(|| {
            Failure::fatal(Stage::Model, Reason::ModelUnusable, "a model is needed")
        })?;
        Ok(Self {
            own,
            embedder,
            renderer,
            render: config.documents.render.clone(),
            objects: common.objects().await?,
            scratch: scratch.map_err(unwritable)?,
            retry: common.retry(),
            stop: common.stop.clone(),
        })
    }

    /// The model's fingerprint.
    pub(crate) fn own(&self) -> &Fingerprint {
        &self.own
    }

    /// Width of the model's vectors.
    pub(crate) fn dimensions(&self) -> usize {
        self.embedder.dimensions()
    }

    /// Whether the model reads texts, and not images.
    pub(super) fn reads_text(&self) -> bool {
        self.embedder.page_pixels().is_none()
    }

    /// The vectors of pages, in order, or why a page cannot be embedded. Fails if no page is to blame.
    pub(super) async fn embed(
        &self,
        pages: &[Page],
    ) -> Result<Vec<Result<PageVectors, Failure>>, Failure> {
        let contents: Vec<Result<PageContent, Failure>> = futures::stream::iter(pages)
            .map(|page| async move { blamed(self.content(page).await) })
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let good = contents.iter().filter_map(|content| content.as_ref().ok());
        let mut embedded = self
            .embedder
            .embed_pages(good.cloned().collect())
            .await
            .into_iter();
        let mut results = Vec::with_capacity(pages.len());
        for (page, content) in pages.iter().zip(contents) {
            if let Err(failure) = content {
                results.push(Err(failure));
                continue;
            }
            let vectors = embedded.next().unwrap_or_else(|| {
                let message = "the model returned nothing";
                Err(Failure::permanent(
                    Stage::Embed,
                    Reason::EmbeddingFailed,
                    message,
                ))
            });
            let vectors = vectors.map(|vectors| PageVectors {
                image_id: page.image_id.clone(),
                page: page.number,
                vectors: vectors.rows().map(<[f32]>::to_vec).collect(),
            });
            let checked = vectors.and_then(|page| {
                check_finite(std::slice::from_ref(&page))?;
                Ok(page)
            });
            results.push(blamed(checked)?);
        }
        Ok(results)
    }

    async fn content(&self, page: &Page) -> Result<PageContent, Failure> {
        let Some(pixels) = self.embedder.page_pixels() else {
            let text = page.text.clone().unwrap_or_default();
            return Ok(PageContent { text, pixels: None });
        };
        let get = |_| self.objects.get(&page.key);
        let image = self.retry.run(Stage::Objects, &self.stop, get).await?;
        let unwritable = |error: std::io::Error| {
            Failure::transient(Stage::Fetch, Reason::CacheUnwritable, error)
        };
        let file = NamedTempFile::new_in(&self.scratch).map_err(unwritable)?;
        tokio::fs::write(file.path(), image)
            .await
            .map_err(unwritable)?;
        let request = PageRequest {
            page: 0,
            resolution: resolution(&self.render, page.of, Some(pixels)),
            format: ImageFormat::Png,
            quality: 80,
            pixels: true,
        };
        let failed = |error| render_failure(&error);
        let mut document = self.renderer.open(file.path()).await.map_err(failed)?;
        let page = document.render(request).await.map_err(failed)?;
        let (width, height) = (page.width, page.height);
        Ok(PageContent {
            text: page.text,
            pixels: page.pixels.map(|rgb| PagePixels { width, height, rgb }),
        })
    }
}

/// A failure that a page is to blame for is its result, and others end the work.
fn blamed<T>(result: Result<T, Failure>) -> Result<Result<T, Failure>, Failure> {
    match result {
        Err(failure) if !failure.rejects_document() => Err(failure),
        result => Ok(result),
    }
}
