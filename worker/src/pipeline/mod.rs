//! One document from its original to its last vector.
//!
//! Every effect can be repeated: a document that is done again ends up in the stores once. A
//! document that cannot be processed leaves nothing behind but its original.

pub mod embedder;
mod plan;
mod stages;
mod token_budget;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use layra_crds::{MilvusSpec, RenderSpec};
use tokio_util::sync::CancellationToken;

use crate::failure::{Class, Failure, Stage};
use crate::fetch;
use crate::metrics::Metrics;
use crate::pipeline::embedder::EmbedderThread;
use crate::pipeline::plan::Plan;
use crate::render::{Document, RenderError, Renderer};
use crate::retry::Retry;
use crate::store::milvus::Vectors;
use crate::store::mongo::Documents;
use crate::store::objects::Objects;
use crate::task::Task;

/// The stages and stores that documents go through.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Originals and page images.
    pub objects: Objects,
    /// Files and knowledge bases.
    pub documents: Documents,
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
    /// Waits for servers.
    pub retry: Retry,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Pages.
    pub pages: u32,
    /// Vectors of all pages.
    pub vectors: usize,
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
    /// Fetches and stores a document. A knowledge base that does not exist is an error: LAYRA
    /// makes it before it sends the first task, so it was deleted, and storing into it would bring
    /// back a collection that nobody deletes any more.
    pub async fn ingest(
        &self,
        task: &Task,
        cache: &Path,
        cancel: &CancellationToken,
    ) -> Result<Stored, Failure> {
        let timer = self.metrics.fetch_duration.start_timer();
        let original = self
            .retry
            .run(Stage::Fetch, cancel, |_| {
                fetch::fetch(&self.objects, &task.file.key, cache)
            })
            .await?;
        timer.stop_and_record();
        self.store(task, &original, cancel, &|_| {}).await
    }

    /// Stores a document whose original is the local file `original`, again if need be: until
    /// Milvus holds its vectors exactly once.
    pub async fn store(
        &self,
        task: &Task,
        original: &Path,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Stored, Failure> {
        let attempt = |_| self.store_once(task, original, cancel, observer);
        self.retry.run(Stage::Milvus, cancel, attempt).await
    }

    async fn store_once(
        &self,
        task: &Task,
        original: &Path,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Stored, Failure> {
        let open = || async {
            self.renderer
                .open(original)
                .await
                .map_err(|e| render_failure(&e))
        };
        let document = tokio::select! {
            opened = self.retry.run(Stage::Render, cancel, |_| open()) => opened?,
            () = cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
        };
        let plan = Plan::new(
            task,
            document.pages(),
            &self.render,
            &self.milvus,
            self.embedder.needs_pixels(),
        );
        observer(Event::Opened(plan.pages));
        self.begin(&plan, cancel).await?;
        match self.stream(document, &plan, cancel, observer).await {
            Err(failure) if failure.class == Class::Permanent => {
                self.withdraw(&plan, cancel).await?;
                Err(failure)
            }
            Ok(stored) => self.verify(&plan, stored, cancel).await,
            stopped => stopped,
        }
    }

    /// Milvus refuses no second copy of a row. When the same document is delivered twice at once,
    /// to one worker or to two, each of them may have deleted before the other inserted; whoever
    /// ends last sees it here.
    async fn verify(
        &self,
        plan: &Plan<'_>,
        stored: Stored,
        cancel: &CancellationToken,
    ) -> Result<Stored, Failure> {
        let file_id = &plan.task.file.file_id;
        let count = || self.vectors.count_file(&plan.collection, file_id);
        let found = self.milvus(cancel, |_| count()).await?;
        if found == stored.vectors {
            return Ok(stored);
        }
        let message = format!(
            "Milvus holds {found} vectors of the file instead of {}: somebody else worked on it",
            stored.vectors
        );
        Err(Failure::transient(Stage::Milvus, "NotOnce", message))
    }

    /// Enters the file. One that was here before has its rows removed, which are written anew, and
    /// those pages that this run would not overwrite.
    async fn begin(&self, plan: &Plan<'_>, cancel: &CancellationToken) -> Result<(), Failure> {
        let knowledge_base = &plan.task.knowledge_base;
        let exists = self.mongodb(cancel, || self.documents.has_knowledge_base(knowledge_base));
        if !exists.await? {
            let message = format!("knowledge base {knowledge_base} does not exist");
            return Err(Failure::permanent(
                Stage::Mongodb,
                "KnowledgeBaseNotFound",
                message,
            ));
        }
        let collection = &plan.collection;
        self.milvus(cancel, |_| self.vectors.ensure_collection(collection))
            .await?;

        let file = &plan.task.file;
        let url = file
            .url
            .clone()
            .unwrap_or_else(|| self.objects.link(&file.key));
        let known = self
            .mongodb(cancel, || self.documents.enter_file(plan.task, &url))
            .await?;
        if !known {
            return Ok(());
        }
        tracing::info!("the file was here before; it is stored anew");
        self.metrics.files.with_label_values(&["retried"]).inc();
        self.milvus(cancel, |_| {
            self.vectors.delete_file(collection, &file.file_id)
        })
        .await?;
        let expected: BTreeSet<(String, String)> = (0..plan.pages)
            .map(|page| (plan.image_id(page), plan.image_key(page)))
            .collect();
        let stored = self
            .mongodb(cancel, || self.documents.stored_file(&file.file_id))
            .await?;
        let stale: Vec<String> = stored
            .unwrap_or_default()
            .pages
            .into_iter()
            .filter(|page| !expected.contains(page))
            .map(|(_, key)| key)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.mongodb(cancel, || {
            self.documents.remove_pages(&file.file_id, &stale)
        })
        .await?;
        self.objects(cancel, || self.objects.delete_all(stale.clone()))
            .await
    }

    /// Removes what a document has left in the stores, vectors first: a vector that MongoDB does
    /// not know would make LAYRA delete the whole file.
    async fn withdraw(&self, plan: &Plan<'_>, cancel: &CancellationToken) -> Result<(), Failure> {
        let file_id = &plan.task.file.file_id;
        let collection = &plan.collection;
        self.milvus(cancel, |_| async {
            if self.vectors.has_collection(collection).await? {
                self.vectors.delete_file(collection, file_id).await?;
            }
            Ok(())
        })
        .await?;
        let stored = self
            .mongodb(cancel, || self.documents.stored_file(file_id))
            .await?;
        let stored = stored
            .unwrap_or_default()
            .pages
            .into_iter()
            .map(|(_, key)| key);
        let keys: BTreeSet<String> = plan.image_keys().chain(stored).collect();
        let keys: Vec<String> = keys.into_iter().collect();
        self.objects(cancel, || self.objects.delete_all(keys.clone()))
            .await?;
        self.mongodb(cancel, || self.documents.remove_file(plan.task))
            .await
    }

    async fn stream(
        &self,
        document: Document,
        plan: &Plan<'_>,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Stored, Failure> {
        stages::Stages {
            pipeline: self,
            plan,
            cancel,
            observer,
        }
        .run(document)
        .await
    }

    async fn mongodb<T, Attempt>(
        &self,
        cancel: &CancellationToken,
        operation: impl Fn() -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let _timer = self
            .metrics
            .store_duration
            .with_label_values(&["mongodb"])
            .start_timer();
        self.retry
            .run(Stage::Mongodb, cancel, |_| operation())
            .await
    }

    async fn milvus<T, Attempt>(
        &self,
        cancel: &CancellationToken,
        operation: impl Fn(u32) -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let _timer = self
            .metrics
            .store_duration
            .with_label_values(&["milvus"])
            .start_timer();
        self.retry.run(Stage::Milvus, cancel, operation).await
    }

    async fn objects<T, Attempt>(
        &self,
        cancel: &CancellationToken,
        operation: impl Fn() -> Attempt,
    ) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let _timer = self
            .metrics
            .store_duration
            .with_label_values(&["objects"])
            .start_timer();
        self.retry
            .run(Stage::Objects, cancel, |_| operation())
            .await
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
