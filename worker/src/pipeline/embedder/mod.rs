//! Embeds pages of all documents in batches, one batch after the other, and questions before them.
//!
//! ```text
//! embed_pages ─► prepare (CPU threads) ─► batches (thread) ─► model (thread) ─► finish
//! embed_question ─────────────────────────────────────────────┘
//! ```
//! While the model computes a batch, pages of the next one are prepared and, once they fill it,
//! uploaded to the device. The number of prepared pages bounds the memory. A question waits for one
//! batch of pages at most.

mod questions;
mod token_budget;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use layra_embedding::{
    Batch, EmbedError, Embedder, MultiVector, PageGrid, PageInput, Pixels, Prepared, batch_size,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::metrics::Metrics;
use questions::{Question, Questions};
use token_budget::TokenBudget;

/// How often the model is checked for being idle while a batch is not full.
const IDLE_CHECK: Duration = Duration::from_millis(2);

/// The model's input for a page.
#[derive(Clone, Debug)]
pub(crate) struct PageContent {
    pub(crate) text: String,
    /// The page's image, if the model needs it.
    pub(crate) pixels: Option<PagePixels>,
}

/// A page's image: RGB, row by row.
#[derive(Clone, Debug)]
pub(crate) struct PagePixels {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// `3 * width * height` bytes.
    pub(crate) rgb: Bytes,
}

/// A handle to the model's threads. They end when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct EmbedderThread {
    model: Arc<dyn Embedder>,
    jobs: Sender<Job>,
    questions: Arc<Questions>,
    /// Bounds the pages that are prepared at the same time.
    cores: Arc<Semaphore>,
    /// Bounds the pages that are prepared and not yet embedded.
    slots: Arc<Semaphore>,
}

enum Job {
    Page(PageJob),
    /// A question has arrived.
    Question,
}

struct PageJob {
    page: Prepared,
    answer: oneshot::Sender<Result<MultiVector, Failure>>,
    /// Released when the page is embedded, or its receiver is gone.
    _slot: OwnedSemaphorePermit,
}

/// A unit of work for the model's thread.
enum Work {
    Batch {
        pages: Vec<PageJob>,
        uploaded: Box<Result<Batch, EmbedError>>,
    },
    /// Only the questions.
    Questions,
}

impl EmbedderThread {
    /// Starts the threads. `batch_pages` bounds the number of waiting pages.
    pub(crate) fn start(
        model: Box<dyn Embedder>,
        batch_pages: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let model: Arc<dyn Embedder> = Arc::from(model);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let budget = Arc::new(Mutex::new(TokenBudget::new(model.batch_tokens())));
        let idle = Arc::new(AtomicBool::new(true));
        let questions = Arc::new(Questions::default());
        let (jobs, queue) = channel();
        // A rendezvous: while one batch is computed, one more is uploaded.
        let (work, to_do) = sync_channel(0);
        let batches = Batches {
            model: Arc::clone(&model),
            budget: Arc::clone(&budget),
            idle: Arc::clone(&idle),
            queue,
            work,
        };
        let computer = Computer {
            model: Arc::clone(&model),
            budget,
            idle,
            questions: Arc::clone(&questions),
            metrics,
        };
        spawn("batches", move || batches.run())?;
        spawn("embedder", move || computer.run(&to_do))?;
        Ok(Self {
            model,
            jobs,
            questions,
            cores: Arc::new(Semaphore::new(cores)),
            slots: Arc::new(Semaphore::new(2 * batch_pages.max(1))),
        })
    }

    /// Width of a vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.model.dimensions()
    }

    /// Largest number of pixels of a page that the model uses. `None`: it needs no pixels.
    pub(crate) fn page_pixels(&self) -> Option<u32> {
        self.model.page_pixels()
    }

    /// The vectors of each page, or its failure, in order.
    pub(crate) async fn embed_pages(
        &self,
        pages: Vec<PageContent>,
    ) -> Vec<Result<MultiVector, Failure>> {
        join_all(pages.into_iter().map(|page| self.embed_page(page))).await
    }

    async fn embed_page(&self, page: PageContent) -> Result<MultiVector, Failure> {
        let slot = permit(&self.slots).await;
        let core = permit(&self.cores).await;
        let model = Arc::clone(&self.model);
        let prepared = on_a_thread(move || {
            let prepared = model.prepare(&page_input(&page));
            drop(core);
            prepared
        });
        let page = prepared
            .await?
            .map_err(|error| Failure::permanent(Stage::Embed, Reason::EmbeddingFailed, error))?;
        let (answer, result) = oneshot::channel();
        let job = Job::Page(PageJob {
            page,
            answer,
            _slot: slot,
        });
        let vectors = self.ask(job, result).await?;
        let model = Arc::clone(&self.model);
        let core = permit(&self.cores).await;
        on_a_thread(move || {
            let vectors = model.finish(vectors);
            drop(core);
            vectors
        })
        .await
    }

    /// Where the vectors of a page lie on it, if they lie on a grid. The model computes nothing.
    pub(crate) async fn page_grid(&self, page: PageContent) -> Result<Option<PageGrid>, Failure> {
        let core = permit(&self.cores).await;
        let model = Arc::clone(&self.model);
        let grid = on_a_thread(move || {
            let prepared = model.prepare(&page_input(&page));
            let grid = prepared.map(|page| model.grid(&page));
            drop(core);
            grid
        });
        grid.await?
            .map_err(|error| Failure::permanent(Stage::Embed, Reason::EmbeddingFailed, error))
    }

    /// The vectors of a question.
    pub(crate) async fn embed_question(&self, question: &str) -> Result<MultiVector, Failure> {
        let (answer, result) = oneshot::channel();
        let text = question.to_owned();
        self.questions.push(Question { text, answer });
        self.ask(Job::Question, result).await
    }

    async fn ask(
        &self,
        job: Job,
        result: oneshot::Receiver<Result<MultiVector, Failure>>,
    ) -> Result<MultiVector, Failure> {
        self.jobs.send(job).map_err(|_| thread_ended())?;
        result.await.map_err(|_| thread_ended())?
    }
}

impl std::fmt::Debug for EmbedderThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbedderThread").finish_non_exhaustive()
    }
}

/// Forms batches of pages and uploads them to the device.
struct Batches {
    model: Arc<dyn Embedder>,
    budget: Arc<Mutex<TokenBudget>>,
    idle: Arc<AtomicBool>,
    queue: Receiver<Job>,
    work: SyncSender<Work>,
}

impl Batches {
    fn run(self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.queue.recv().ok()) {
            let work = match job {
                Job::Question => Work::Questions,
                Job::Page(first) => {
                    let pages;
                    (pages, next) = self.gather(first);
                    let inputs: Vec<&Prepared> = pages.iter().map(|job| &job.page).collect();
                    let uploaded = Box::new(self.model.upload(&inputs));
                    Work::Batch { pages, uploaded }
                }
            };
            if self.work.send(work).is_err() {
                return;
            }
        }
    }

    /// A batch that begins with `first`, and the next job, if it does not fit. A batch that is not
    /// full waits for further pages while the model computes another one.
    fn gather(&self, first: PageJob) -> (Vec<PageJob>, Option<Job>) {
        let budget = lock(&self.budget).current();
        let mut tokens = first.page.tokens;
        let mut pages = vec![first];
        while tokens < budget {
            match self.queue.recv_timeout(IDLE_CHECK) {
                Ok(Job::Page(job)) if job.answer.is_closed() => {}
                Ok(Job::Page(job)) if tokens + job.page.tokens <= budget => {
                    tokens += job.page.tokens;
                    pages.push(job);
                }
                Ok(other @ Job::Page(_)) => return (pages, Some(other)),
                Err(RecvTimeoutError::Disconnected) => break,
                // The questions are answered before this batch, if not earlier.
                Ok(Job::Question) | Err(RecvTimeoutError::Timeout) => {
                    if self.idle.load(Ordering::Acquire) {
                        break;
                    }
                }
            }
        }
        (pages, None)
    }
}

/// Computes batches, and splits those that do not fit into the device's memory. Answers some of the
/// waiting questions before each batch.
struct Computer {
    model: Arc<dyn Embedder>,
    budget: Arc<Mutex<TokenBudget>>,
    idle: Arc<AtomicBool>,
    questions: Arc<Questions>,
    metrics: Arc<Metrics>,
}

impl Computer {
    fn run(&self, to_do: &Receiver<Work>) {
        loop {
            let work = if self.questions.is_empty() {
                to_do.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                to_do.try_recv()
            };
            self.idle.store(false, Ordering::Release);
            self.answer_questions();
            match work {
                Ok(Work::Batch { pages, uploaded }) => self.compute(pages, *uploaded),
                Ok(Work::Questions) | Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            if let Some(bytes) = self.model.gpu_memory_bytes() {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                self.metrics.gpu_memory_usage_bytes.set(bytes);
            }
            if let Some(bytes) = self.model.gpu_memory_total_bytes() {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                self.metrics.gpu_memory_total_bytes.set(bytes);
            }
            self.idle.store(true, Ordering::Release);
        }
    }

    /// Answers the questions that have waited longest.
    fn answer_questions(&self) {
        let questions = self.questions.take();
        if questions.is_empty() {
            return;
        }
        let texts: Vec<&str> = questions.iter().map(|one| one.text.as_str()).collect();
        match self.model.embed_queries(&texts) {
            Ok(vectors) if vectors.len() == questions.len() => {
                for (question, vectors) in questions.into_iter().zip(vectors) {
                    question.reply(Ok(vectors));
                }
            }
            // The failure of one must not affect the others.
            _ => {
                for question in questions {
                    let result = self.model.embed_query(&question.text);
                    question.reply(result.map_err(|error| self.failure(&error)));
                }
            }
        }
    }

    fn compute(&self, pages: Vec<PageJob>, uploaded: Result<Batch, EmbedError>) {
        let tokens: usize = pages.iter().map(|job| job.page.tokens).sum();
        let timer = self.metrics.embedding_duration.start_timer();
        let result = uploaded.and_then(|batch| self.model.forward(batch));
        match result {
            Ok(vectors) if vectors.len() == pages.len() => {
                timer.observe_duration();
                self.metrics.embedding_batch_tokens.observe(tokens as f64);
                let count = pages.len() as f64;
                self.metrics.embedding_batch_pages.observe(count);
                lock(&self.budget).fitted(tokens);
                for (job, vectors) in pages.into_iter().zip(vectors) {
                    let _ = job.answer.send(Ok(vectors));
                }
            }
            Ok(vectors) => {
                timer.stop_and_discard();
                let message = format!(
                    "the model returned {} results for {} pages",
                    vectors.len(),
                    pages.len()
                );
                refuse(
                    pages,
                    &Failure::permanent(Stage::Embed, Reason::EmbeddingFailed, message),
                );
            }
            Err(error) if pages.len() > 1 => {
                timer.stop_and_discard();
                self.compute_in_parts(pages, tokens, &error);
            }
            Err(error) => {
                timer.stop_and_discard();
                refuse(pages, &self.failure(&error));
            }
        }
    }

    /// Computes the pages of a failed batch in smaller batches: they may fit into memory, and the
    /// failure of one page must not affect the others.
    fn compute_in_parts(&self, pages: Vec<PageJob>, tokens: usize, error: &EmbedError) {
        let mut budget = 1;
        if error.is_out_of_memory() {
            self.metrics.embedding_out_of_memory.inc();
            let mut shared = lock(&self.budget);
            shared.out_of_memory(tokens);
            budget = shared.current();
            drop(shared);
            self.model.release_memory();
            tracing::warn!(
                tokens,
                pages = pages.len(),
                next = budget,
                "out of device memory, retrying with smaller batches"
            );
        }
        let mut rest = pages;
        while !rest.is_empty() {
            let size = batch_size(rest.iter().map(|job| job.page.tokens), budget);
            let batch: Vec<PageJob> = rest.drain(..size).collect();
            let inputs: Vec<&Prepared> = batch.iter().map(|job| &job.page).collect();
            let uploaded = self.model.upload(&inputs);
            self.compute(batch, uploaded);
            self.answer_questions();
        }
    }

    /// The failure of a batch with a single page, or of a question.
    fn failure(&self, error: &EmbedError) -> Failure {
        if error.is_out_of_memory() {
            let message = format!(
                "one page does not fit into the device's memory ({error}): lower \
                 embedding.maxVisualTokens, choose a smaller embedding.precision, or use a GPU \
                 with more memory"
            );
            return Failure::fatal(Stage::Embed, Reason::OutOfMemory, message);
        }
        // A GPU context does not recover from a failed kernel: a new process is needed.
        if error.is_computation() && self.model.gpu_memory_bytes().is_some() {
            return Failure::fatal(Stage::Embed, Reason::DeviceFailed, error);
        }
        Failure::permanent(Stage::Embed, Reason::EmbeddingFailed, error)
    }
}

fn refuse(pages: Vec<PageJob>, failure: &Failure) {
    for job in pages {
        let _ = job.answer.send(Err(failure.clone()));
    }
}

fn thread_ended() -> Failure {
    Failure::fatal(
        Stage::Embed,
        Reason::EmbedderDied,
        "the embedding thread exited",
    )
}

fn lock(budget: &Mutex<TokenBudget>) -> std::sync::MutexGuard<'_, TokenBudget> {
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    permit.expect("the semaphore is never closed")
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| Failure::permanent(Stage::Embed, Reason::EmbeddingFailed, error))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| Failure::fatal(Stage::Embed, Reason::NoThread, error))
}

fn page_input(page: &PageContent) -> PageInput<'_> {
    let pixels = page.pixels.as_ref().map(|pixels| Pixels {
        width: pixels.width,
        height: pixels.height,
        rgb: &pixels.rgb,
    });
    PageInput {
        text: &page.text,
        pixels,
    }
}

#[cfg(test)]
mod tests;
