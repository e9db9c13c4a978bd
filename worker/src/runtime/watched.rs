//! A model whose computations show in the health of the worker: a device that stops answering would
//! otherwise leave a worker that holds its partitions and does nothing.

use std::sync::Arc;
use std::time::Instant;

use layra_embedding::{Batch, EmbedError, Embedder, MultiVector, PageGrid, PageInput, Prepared};

use crate::runtime::health::Health;

/// A model, and where its computations are recorded.
pub(crate) struct Watched {
    model: Box<dyn Embedder>,
    health: Arc<Health>,
}

impl Watched {
    pub(crate) fn new(model: Box<dyn Embedder>, health: Arc<Health>) -> Self {
        Self { model, health }
    }
}

impl Embedder for Watched {
    fn dimensions(&self) -> usize {
        self.model.dimensions()
    }

    fn page_pixels(&self) -> Option<u32> {
        self.model.page_pixels()
    }

    fn batch_tokens(&self) -> usize {
        self.model.batch_tokens()
    }

    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        self.model.prepare(page)
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        let _computing = self.health.computing(Instant::now());
        self.model.upload(pages)
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let _computing = self.health.computing(Instant::now());
        self.model.forward(batch)
    }

    fn finish(&self, vectors: MultiVector) -> MultiVector {
        self.model.finish(vectors)
    }

    fn grid(&self, page: &Prepared) -> Option<PageGrid> {
        self.model.grid(page)
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        let _computing = self.health.computing(Instant::now());
        self.model.embed_query(text)
    }

    fn embed_queries(&self, texts: &[&str]) -> Result<Vec<MultiVector>, EmbedError> {
        let _computing = self.health.computing(Instant::now());
        self.model.embed_queries(texts)
    }

    fn gpu_memory_bytes(&self) -> Option<u64> {
        self.model.gpu_memory_bytes()
    }

    fn gpu_memory_total_bytes(&self) -> Option<u64> {
        self.model.gpu_memory_total_bytes()
    }

    fn release_memory(&self) {
        let _computing = self.health.computing(Instant::now());
        self.model.release_memory();
    }
}
