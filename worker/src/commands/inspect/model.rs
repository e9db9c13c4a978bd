//! The model of the `inspect` command: a checkpoint on the disk, of whatever family it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use layra_crds::EmbeddingSpec;
use layra_embedding::{
    CheckpointFiles, DeviceChoice, EmbedError, Embedder, ModelFamily, PageInput, Pixels, Settings,
};
use layra_rendering::RenderedPage;

use super::report::Embedded;
use crate::model_files;

pub(super) struct Model(Arc<dyn Embedder>);

impl Model {
    /// Loads a checkpoint, with a pipeline's settings where there are any.
    pub(super) async fn load(
        directory: PathBuf,
        device: DeviceChoice,
        embedding: Option<&EmbeddingSpec>,
    ) -> anyhow::Result<Self> {
        let files = CheckpointFiles {
            directory,
            adapter: None,
        };
        let settings = match embedding {
            Some(spec) => model_files::settings(spec, device)?,
            None => Settings {
                family: family_of(&files)?,
                device,
                precision: None,
                max_visual_tokens: None,
                batch_pages: 1,
                pool_factor: 1,
            },
        };
        let loading = tokio::task::spawn_blocking(move || layra_embedding::load(&settings, &files));
        let embedder = loading.await?.context("cannot load the model")?;
        Ok(Self(embedder.into()))
    }

    pub(super) fn page_pixels(&self) -> Option<u32> {
        self.0.page_pixels()
    }

    /// Embeds a page. The inner error is the page's fault.
    pub(super) async fn embed(
        &self,
        page: RenderedPage,
    ) -> anyhow::Result<Result<Embedded, EmbedError>> {
        let embedder = Arc::clone(&self.0);
        let work = move || {
            let input = PageInput {
                text: &page.text,
                pixels: page.pixels.as_deref().map(|rgb| Pixels {
                    width: page.width,
                    height: page.height,
                    rgb,
                }),
            };
            let started = Instant::now();
            let vectors = embedder.embed_pages(&[input])?;
            let milliseconds = (started.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
            Ok(Embedded {
                vectors: vectors.first().map_or(0, layra_embedding::MultiVector::len),
                milliseconds,
            })
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }
}

/// The family of a checkpoint: the one that can describe it.
fn family_of(files: &CheckpointFiles) -> anyhow::Result<ModelFamily> {
    const FAMILIES: [ModelFamily; 4] = [
        ModelFamily::Minilm,
        ModelFamily::ColQwen2,
        ModelFamily::ColQwen2_5,
        ModelFamily::ColQwen3,
    ];
    let mut refusals = Vec::new();
    for family in FAMILIES {
        match layra_embedding::describe(family, files) {
            Ok(_) => return Ok(family),
            Err(error) => refusals.push(format!("{family:?}: {error}")),
        }
    }
    bail!(
        "{} holds no model that this worker knows: {}",
        files.directory.display(),
        refusals.join("; ")
    )
}
