//! The stage that computes vectors. Batches of the model may contain pages of several documents:
//! see [`embedder`](crate::pipeline::embedder).

use super::Stages;
use crate::pipeline::embedder::PageContent;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work;

impl Stages<'_> {
    /// The vectors of each page, or why the model cannot embed it, in the order of the pages. Fails
    /// if the pages are not to blame.
    pub(super) async fn embed(
        &self,
        pages: Vec<PageContent>,
    ) -> Result<Vec<Result<Vec<Vec<f32>>, Failure>>, Failure> {
        let embedded = self.pipeline.embedder.embed_pages(pages);
        let results = work::timed(Stage::Embed, embedded).await;
        let pages = results.into_iter().map(|result| match result {
            Ok(page) => Ok(Ok(page.rows().map(<[f32]>::to_vec).collect())),
            Err(failure) if failure.rejects_document() => Ok(Err(failure)),
            Err(failure) => Err(failure),
        });
        pages.collect()
    }
}
