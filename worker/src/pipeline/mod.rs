//! One document from its original to its last vector.
//!
//! [`admit`] decides, with the ledger, what a task needs; [`range_work`] does the work on a range of
//! pages, whose [`stages`] run side by side; [`cleanup`] removes what must not be there. Every
//! effect can be repeated: a document that is done again ends up in the stores once, and one that
//! cannot be processed leaves nothing behind but its original.

mod admit;
pub mod budget;
mod cleanup;
pub mod embedder;
mod page_plan;
mod range_work;
pub mod stages;

use std::sync::Arc;

use layra_crds::{MilvusSpec, RenderSpec};
use layra_rendering::{RenderError, Renderer};
use tokio_util::sync::CancellationToken;

use crate::pipeline::budget::Budget;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::stages::fetch::Originals;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::metrics::Metrics;
use crate::runtime::retry::Retry;
use crate::stores::ledger::{Claim, Entry, Ledger, Rejection, Unit};
use crate::stores::milvus::Vectors;
use crate::stores::mongo::Documents;
use crate::stores::objects::Objects;

pub use admit::{Job, Source};

/// The stages and stores that documents go through.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Originals and page images.
    pub objects: Objects,
    /// Local copies of originals.
    pub originals: Originals,
    /// Files and knowledge bases.
    pub documents: Documents,
    /// What is known of every document.
    pub ledger: Ledger,
    /// Vectors.
    pub vectors: Arc<Vectors>,
    /// Names of collections.
    pub milvus: MilvusSpec,
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

/// What became of a task or a range.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All pages of the document are searchable, the last ones through this piece of work.
    Stored(Stored),
    /// The pages of this range are searchable; others are not yet.
    PartStored,
    /// The document is to be split: these ranges (first page and length) must be in their topic
    /// before the task is committed.
    Split(Box<Entry>, Vec<(u32, u32)>),
    /// Nothing had to be done.
    Nothing(Reason),
    /// The document cannot be processed; its dead letter must be written before the task is
    /// committed.
    Rejected(Box<Entry>, Rejection),
    /// The stores do not hold the document exactly once: its task must be sent again before this
    /// one is committed.
    Again(Box<Entry>),
}

/// Why nothing had to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All of it is searchable already.
    AlreadyStored,
    /// This very message was dealt with before.
    Settled,
    /// The file was deleted after the task was sent.
    Deleted,
    /// Another delivery of the document goes on with it.
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
        self.ledger(cancel, || self.ledger.held(claim))
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

impl Reason {
    /// The name used in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyStored => "AlreadyStored",
            Self::Settled => "Settled",
            Self::Deleted => "Deleted",
            Self::Superseded => "Superseded",
        }
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
