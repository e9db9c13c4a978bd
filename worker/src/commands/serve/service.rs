//! What all requests share: the model and the stores once they are there, and limits.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::access::Access;
use super::cache::Cache;
use super::library::Library;
use super::measured::Measured;
use super::model::Model;
use super::refusal::Refusal;
use crate::runtime::failure::{Class, Failure, Reason};
use crate::runtime::health::Health;
use crate::runtime::metrics::Metrics;

/// Requests for the vectors of texts at the same time. Further ones are refused.
const TEXTS: usize = 512;
/// The same for images, including those that wait to be read.
const IMAGES: usize = 64;
/// Requests for the vectors of images whose bodies are read. Each may hold the vectors of a long
/// document.
const IMAGES_READ: usize = 4;
/// Searches at the same time for which originals are fetched and opened. Further ones wait, and then
/// go without.
const HEATS: usize = 4;
/// Searches at the same time. Further ones are refused.
const SEARCHES: usize = 256;

/// What all requests share.
pub(super) struct Service {
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) measured: Measured,
    pub(super) access: Access,
    pub(super) cache: Cache,
    model: OnceLock<Model>,
    library: OnceLock<Box<dyn Library>>,
    texts: Arc<Semaphore>,
    images: Arc<Semaphore>,
    images_read: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    heats: Arc<Semaphore>,
    failure: watch::Sender<Option<Failure>>,
}

impl Service {
    pub(super) fn new(
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        access: Access,
        cache: Cache,
    ) -> Self {
        Self {
            health,
            metrics,
            measured: Measured::new(),
            access,
            cache,
            model: OnceLock::new(),
            library: OnceLock::new(),
            texts: Arc::new(Semaphore::new(TEXTS)),
            images: Arc::new(Semaphore::new(IMAGES)),
            images_read: Arc::new(Semaphore::new(IMAGES_READ)),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            heats: Arc::new(Semaphore::new(HEATS)),
            failure: watch::Sender::new(None),
        }
    }

    pub(super) fn has_loaded(&self, model: Model) {
        // It is loaded once.
        let _ = self.model.set(model);
    }

    pub(super) fn has_connected(&self, library: Box<dyn Library>) {
        let _ = self.library.set(library);
    }

    pub(super) fn model(&self) -> Result<&Model, Refusal> {
        self.model.get().ok_or_else(Refusal::loading)
    }

    pub(super) fn library(&self) -> Result<&dyn Library, Refusal> {
        let library = self.library.get().map(|library| &**library);
        library.ok_or_else(|| Refusal::later("Connecting", 5, "the stores do not answer yet"))
    }

    /// Why requests are refused. Empty: all are answered.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.model.get().is_none() {
            problems.push("the model is not loaded".to_owned());
        } else if self.library.get().is_none() {
            problems.push("the stores do not answer yet".to_owned());
        }
        problems.extend(self.health.retries());
        problems
    }

    pub(super) fn enter_text(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        enter(&self.texts)
    }

    pub(super) fn enter_search(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        enter(&self.searches)
    }

    /// Waits until originals may be fetched for a search.
    pub(super) async fn enter_heat(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let entered = Arc::clone(&self.heats).acquire_owned().await;
        entered.map_err(|_| Refusal::busy())
    }

    /// Waits until the body of a request for vectors of images may be read.
    pub(super) async fn enter_images(&self) -> Result<[OwnedSemaphorePermit; 2], Refusal> {
        let entered = enter(&self.images)?;
        let reading = Arc::clone(&self.images_read).acquire_owned().await;
        Ok([entered, reading.map_err(|_| Refusal::busy())?])
    }

    /// The answer to a failed request. A model that cannot go on ends the server.
    pub(super) fn refuse(&self, failure: Failure) -> Refusal {
        let ends = [Reason::EmbedderDied, Reason::DeviceFailed];
        if failure.class == Class::Fatal && ends.contains(&failure.reason) {
            self.failure.send_replace(Some(failure.clone()));
        }
        failure.into()
    }

    /// Waits for a failure that ends the server.
    pub(super) async fn failed(&self) -> Failure {
        let mut failures = self.failure.subscribe();
        let failure = failures.wait_for(Option::is_some).await;
        match failure.ok().and_then(|failure| failure.clone()) {
            Some(failure) => failure,
            // The sender is `self`'s.
            None => std::future::pending().await,
        }
    }
}

fn enter(limit: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(limit)
        .try_acquire_owned()
        .map_err(|_| Refusal::busy())
}
