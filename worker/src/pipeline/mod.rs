//! One document, from its original to its last vector.
//!
//! [`admit`] starts, resumes or skips a task, by a [`decision`] on the ledger's entry.
//! [`range_work`] processes a page range in [`turn`]s, whose [`stages`] run concurrently.
//! [`settle`] completes everything that must precede the commit of the task. [`rejection`] records
//! failures and drops, [`cleanup`] and [`recheck`] remove data that must not be in the stores.
//! [`quota`] lets documents wait for room. [`bucket`] compares documents with the bucket they are in.
//!
//! Every effect can be repeated. A document that is ingested again is in the stores exactly once. A
//! document that cannot be processed leaves nothing but its original.

mod admit;
mod bucket;
pub(crate) mod budget;
mod cleanup;
mod decision;
mod deletion;
pub(crate) mod embedder;
mod indexes;
mod isolation;
mod limits;
mod models;
mod open_claims;
mod page_plan;
mod patience;
mod poison;
mod quota;
mod range_work;
mod recheck;
mod rejection;
pub(crate) mod settle;
pub(crate) mod stages;
mod turn;

use std::sync::Arc;

use layra_crds::{DocumentLimits, QuotaUse, RenderSpec};
use layra_rendering::{RenderError, Renderer};
use tokio_util::sync::CancellationToken;

use crate::document::bucket::Bucket;
use crate::pipeline::budget::Budget;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::stages::fetch::Originals;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::metrics::Metrics;
use crate::runtime::quotas::Quotas;
use crate::runtime::retry::Retry;
use crate::stores::Stores;
use crate::stores::ledger::{Claim, Entry, Rejection};

pub(crate) use admit::{Job, Source};
pub(crate) use cleanup::Remover;
pub(crate) use deletion::Deleter;
pub(crate) use isolation::Isolation;
pub(crate) use open_claims::OpenClaims;
pub(crate) use page_plan::{resolution, skips_bad_pages};

/// The stages and stores of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) stores: Stores,
    /// Local copies of originals.
    pub(crate) originals: Originals,
    pub(crate) renderer: Renderer,
    /// How pages are rendered.
    pub(crate) render: RenderSpec,
    /// Whether the texts of pages are kept.
    pub(crate) keeps_texts: bool,
    /// What one document may cost.
    pub(crate) limits: DocumentLimits,
    pub(crate) embedder: EmbedderThread,
    /// Pages per batch.
    pub(crate) batch_pages: usize,
    /// Pages per range.
    pub(crate) range_pages: u32,
    /// Bounds the memory of pages in progress.
    pub(crate) budget: Budget,
    /// Held during each turn of a range.
    pub(crate) isolation: Isolation,
    /// What must be given back if the worker exits before its work has ended.
    pub(crate) open_claims: OpenClaims,
    /// Retries while a server is unavailable.
    pub(crate) retry: Retry,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether there is room for further documents.
    pub(crate) quotas: Arc<Quotas>,
    /// The bucket whose notifications the messages are.
    pub(crate) bucket: Option<Bucket>,
}

/// How much of a document was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Pages that are searchable.
    pub(crate) pages: u32,
    /// Pages that were skipped.
    pub(crate) skipped: u32,
    /// Vectors of the searchable pages.
    pub(crate) vectors: u64,
}

/// How the work on a task or page range ended. [`settle`] carries out the consequences.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// All pages of the document are searchable, or skipped. This work stored the last ones.
    Stored(Stored),
    /// The pages of this range are searchable, or skipped, others are not yet.
    RangeStored,
    /// The document must be split into these ranges (first page and length).
    Split(Box<Entry>, Vec<(u32, u32)>),
    /// The document cannot be processed.
    Rejected(Box<Entry>, Rejection),
    /// The stores do not hold the document exactly once: it must be ingested again.
    Repeat(Box<Entry>),
    /// Nothing to do: all pages are searchable already.
    AlreadyStored,
    /// Nothing to do: this message was settled before.
    Settled,
    /// Nothing to do: the file was deleted after the task was sent.
    Deleted,
    /// Nothing to do: another delivery of the document continues it.
    Superseded,
    /// The knowledge base is full: the document waits in the ledger, which sends it again.
    NoRoom(QuotaUse),
}

/// The progress of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The document was opened and has this number of pages.
    Opened(u32),
    /// This number of further pages is searchable, or was skipped.
    Settled(u32),
}

/// Receives the progress of a document.
pub(crate) type Observer<'a> = &'a (dyn Fn(Event) + Send + Sync);

impl Pipeline {
    /// Runs an operation of a store, retries while its server is unavailable, and measures the
    /// time.
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

    /// Runs an operation of the ledger.
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

    /// Fails if another worker has taken over the range.
    async fn check_claim(&self, claim: &Claim, cancel: &CancellationToken) -> Result<(), Failure> {
        let range = self.ledger(cancel, || self.stores.ledger.claimed_range(claim));
        match range.await? {
            Some(_) => Ok(()),
            None => Err(Failure::superseded(Stage::Mongodb)),
        }
    }
}

/// Finds the class and the reason of a renderer's error.
pub(crate) fn render_failure(error: &RenderError) -> Failure {
    let reason = Reason::from_word(error.reason());
    match error {
        RenderError::Unavailable(_) | RenderError::SandboxUnavailable(_) => {
            Failure::fatal(Stage::Render, reason, error)
        }
        _ if error.is_document_fault() => Failure::permanent(Stage::Render, reason, error),
        _ => Failure::transient(Stage::Render, reason, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;

    #[test]
    fn only_a_documents_own_faults_reject_it() {
        for (error, class) in [
            (RenderError::Encrypted, Class::Permanent),
            (RenderError::OutOfMemory, Class::Permanent),
            (RenderError::Killed { signal: 9 }, Class::Transient),
            (RenderError::Io("disk".into()), Class::Transient),
            (RenderError::NoResources("fork".into()), Class::Transient),
            (
                RenderError::Stalled {
                    limit: std::time::Duration::from_mins(1),
                    used: std::time::Duration::from_secs(3),
                },
                Class::Transient,
            ),
            (RenderError::Unavailable("no library".into()), Class::Fatal),
            (RenderError::SandboxUnavailable("x".into()), Class::Fatal),
        ] {
            assert_eq!(render_failure(&error).class, class, "{error}");
        }
    }

    #[test]
    fn every_word_of_the_renderer_is_a_reason() {
        let text = || "x".to_owned();
        for (error, reason) in [
            (RenderError::Encrypted, Reason::Encrypted),
            (RenderError::Damaged(text()), Reason::Damaged),
            (RenderError::Empty(text()), Reason::Empty),
            (
                RenderError::TooManyPages { pages: 2, limit: 1 },
                Reason::TooManyPages,
            ),
            (RenderError::TooLarge(text()), Reason::TooLarge),
            (RenderError::Unsupported(text()), Reason::Unsupported),
            (
                RenderError::DamagedPage {
                    page: 0,
                    detail: text(),
                },
                Reason::DamagedPage,
            ),
            (
                RenderError::NoSuchPage { page: 1, pages: 1 },
                Reason::NoSuchPage,
            ),
            (
                RenderError::TimedOut {
                    limit: std::time::Duration::from_secs(1),
                },
                Reason::TimedOut,
            ),
            (RenderError::Crashed(text()), Reason::Crashed),
            (RenderError::OutOfMemory, Reason::OutOfMemory),
            (RenderError::GarbledAnswer(text()), Reason::GarbledAnswer),
            (RenderError::Killed { signal: 9 }, Reason::RendererKilled),
            (RenderError::ReadRefuted(text()), Reason::RendererKilled),
            (
                RenderError::Stalled {
                    limit: std::time::Duration::from_mins(1),
                    used: std::time::Duration::from_secs(3),
                },
                Reason::RendererStalled,
            ),
            (
                RenderError::NoResources(text()),
                Reason::RendererUnavailable,
            ),
            (
                RenderError::Unavailable(text()),
                Reason::RendererUnavailable,
            ),
            (
                RenderError::SandboxUnavailable(text()),
                Reason::SandboxUnavailable,
            ),
            (RenderError::Io(text()), Reason::Io),
        ] {
            assert_eq!(render_failure(&error).reason, reason, "{error}");
        }
    }
}
