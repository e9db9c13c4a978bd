//! One document from its original to its last vector.
//!
//! [`admit`] lets a task in by a [`decision`] on what the ledger knows; [`range_work`] does the
//! work on a range of pages, whose [`stages`] run side by side; [`settle`] does what must have
//! happened before the task is committed; [`cleanup`] and [`recheck`] remove what must not be
//! there. Every effect can be repeated: a document that is done again ends up in the stores once,
//! and one that cannot be processed leaves nothing behind but its original.

mod admit;
pub mod budget;
mod cleanup;
mod decision;
mod deletion;
pub mod embedder;
mod page_plan;
mod poison;
mod range_work;
mod recheck;
pub mod settle;
pub mod stages;

use std::sync::Arc;

use layra_crds::RenderSpec;
use layra_rendering::{RenderError, Renderer};
use tokio_util::sync::CancellationToken;

use crate::pipeline::budget::Budget;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::stages::fetch::Originals;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::metrics::Metrics;
use crate::runtime::retry::Retry;
use crate::stores::Stores;
use crate::stores::ledger::{Claim, Entry, Rejection, Unit};

pub use admit::{Job, Source};
pub use deletion::Deleter;

/// The stages and stores that documents go through.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Where documents end up.
    pub stores: Stores,
    /// Local copies of originals.
    pub originals: Originals,
    /// Draws pages.
    pub renderer: Renderer,
    /// How pages are drawn.
    pub render: RenderSpec,
    /// Embeds pages.
    pub embedder: EmbedderThread,
    /// Pages of one batch.
    pub batch_pages: usize,
    /// Pages of one range.
    pub range_pages: u32,
    /// Memory for pages.
    pub budget: Budget,
    /// Held by everybody, or by one alone that works on a document on which a worker has died.
    pub together: Arc<tokio::sync::RwLock<()>>,
    /// Waits for servers.
    pub retry: Retry,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
}

/// What was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Pages.
    pub pages: u32,
    /// Vectors of all pages.
    pub vectors: u64,
}

/// What became of a task or a range. [`settle`] does what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All pages of the document are searchable, the last ones through this piece of work.
    Stored(Stored),
    /// The pages of this range are searchable; others are not yet.
    PartStored,
    /// The document is to be split into these ranges (first page and length).
    Split(Box<Entry>, Vec<(u32, u32)>),
    /// The document cannot be processed.
    Rejected(Box<Entry>, Rejection),
    /// The stores do not hold the document exactly once: it is to be done again.
    Again(Box<Entry>),
    /// Nothing had to be done: all of it is searchable already.
    AlreadyStored,
    /// Nothing had to be done: this very message was dealt with before.
    Settled,
    /// Nothing had to be done: the file was deleted after the task was sent.
    Deleted,
    /// Nothing had to be done: another delivery of the document goes on with it.
    Superseded,
}

/// How far a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The document was opened and has so many pages.
    Opened(u32),
    /// So many more pages are searchable.
    Stored(u32),
}

/// Is told how far a document is.
pub type Observer<'a> = &'a (dyn Fn(Event) + Send + Sync);

impl Pipeline {
    /// Waits for a store's server, and measures.
    async fn server<T, Attempt>(
        &self,
        stage: Stage,
        cancel: &CancellationToken,
        operation: impl FnMut(u32) -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let _timer = self
            .metrics
            .store_duration
            .with_label_values(&[stage.as_str()])
            .start_timer();
        self.retry.run(stage, cancel, operation).await
    }

    /// Asks or tells the ledger.
    async fn ledger<T, Attempt>(
        &self,
        cancel: &CancellationToken,
        operation: impl Fn() -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        self.server(Stage::Mongodb, cancel, |_| operation()).await
    }

    /// Fails when somebody else has taken over.
    async fn hold(&self, claim: &Claim, cancel: &CancellationToken) -> Result<(), Failure> {
        self.held(claim, cancel).await.map(|_| ())
    }

    /// How far the claim's range is. Fails when somebody else has taken over.
    async fn held(&self, claim: &Claim, cancel: &CancellationToken) -> Result<Unit, Failure> {
        self.ledger(cancel, || self.stores.ledger.held(claim))
            .await?
            .ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }
}

/// Sorts the renderer's errors.
fn render_failure(error: &RenderError) -> Failure {
    match error {
        RenderError::Unavailable(_) => Failure::fatal(Stage::Render, error.reason(), error),
        _ if error.is_document_fault() => Failure::permanent(Stage::Render, error.reason(), error),
        _ => Failure::transient(Stage::Render, error.reason(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;

    #[test]
    fn a_document_is_blamed_only_for_its_own_faults() {
        for (error, class) in [
            (RenderError::Encrypted, Class::Permanent),
            (RenderError::OutOfMemory, Class::Permanent),
            (RenderError::Killed { signal: 9 }, Class::Transient),
            (RenderError::Io("disk".into()), Class::Transient),
            (RenderError::Unavailable("no library".into()), Class::Fatal),
        ] {
            assert_eq!(render_failure(&error).class, class, "{error}");
        }
    }
}
