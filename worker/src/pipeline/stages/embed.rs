//! The stage that computes vectors. Batches of the model may contain pages of several documents:
//! see [`embedder`](crate::pipeline::embedder).

use super::Stages;
use crate::pipeline::embedder::PageContent;
use crate::runtime::failure::Failure;

impl Stages<'_> {
    /// The vectors of each page, in the order of the pages.
    pub(super) async fn embed(
        &self,
        pages: Vec<PageContent>,
    ) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
        let vectors = self.pipeline.embedder.embed_pages(pages).await?;
        let rows = vectors
            .iter()
            .map(|page| page.rows().map(<[f32]>::to_vec).collect());
        Ok(rows.collect())
    }
}
