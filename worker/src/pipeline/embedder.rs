//! The model on a thread of its own, fed by a short queue.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::embed::{EmbedError, Embedder, MultiVector, PageInput, Pixels};
use crate::failure::{Failure, Stage};
use crate::metrics::Metrics;

/// Batches that wait for the model; a further one holds up its document.
const QUEUE: usize = 2;

/// What the model sees of a page.
#[derive(Clone, Debug)]
pub struct PageContent {
    /// The page's text.
    pub text: String,
    /// Its image, when the model looks at it.
    pub pixels: Option<PagePixels>,
}

/// A page's image: RGB, row by row.
#[derive(Clone, Debug)]
pub struct PagePixels {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Bytes,
}

/// A handle to the model's thread. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct EmbedderThread {
    jobs: mpsc::Sender<Job>,
    dimensions: usize,
    needs_pixels: bool,
}

struct Job {
    input: Input,
    answer: oneshot::Sender<Result<Vec<MultiVector>, EmbedError>>,
}

enum Input {
    Pages(Vec<PageContent>),
    Question(String),
}

impl EmbedderThread {
    /// Starts the thread.
    pub fn start(embedder: Box<dyn Embedder>, metrics: Arc<Metrics>) -> Result<Self, Failure> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let handle = Self {
            jobs,
            dimensions: embedder.dimensions(),
            needs_pixels: embedder.needs_pixels(),
        };
        std::thread::Builder::new()
            .name("embedder".to_owned())
            .spawn(move || work(embedder.as_ref(), queue, &metrics))
            .map_err(|error| Failure::fatal(Stage::Embed, "NoThread", error))?;
        Ok(handle)
    }

    /// Dimensions of a vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Whether pages must come with their pixels.
    #[must_use]
    pub fn needs_pixels(&self) -> bool {
        self.needs_pixels
    }

    /// The vectors of each page, in order.
    pub async fn embed_pages(&self, pages: Vec<PageContent>) -> Result<Vec<MultiVector>, Failure> {
        let count = pages.len();
        let vectors = self.ask(Input::Pages(pages)).await?;
        if vectors.len() == count {
            return Ok(vectors);
        }
        let message = format!("{} results for {count} pages", vectors.len());
        Err(Failure::permanent(Stage::Embed, "EmbeddingFailed", message))
    }

    /// The vectors of a question.
    pub async fn embed_question(&self, question: &str) -> Result<MultiVector, Failure> {
        let mut vectors = self.ask(Input::Question(question.to_owned())).await?;
        vectors.pop().ok_or_else(|| {
            Failure::permanent(
                Stage::Embed,
                "EmbeddingFailed",
                "the question has no vector",
            )
        })
    }

    async fn ask(&self, input: Input) -> Result<Vec<MultiVector>, Failure> {
        let gone = || Failure::fatal(Stage::Embed, "EmbedderDied", "the model's thread has ended");
        let (answer, result) = oneshot::channel();
        self.jobs
            .send(Job { input, answer })
            .await
            .map_err(|_| gone())?;
        result
            .await
            .map_err(|_| gone())?
            .map_err(|error| Failure::permanent(Stage::Embed, "EmbeddingFailed", error))
    }
}

fn work(embedder: &dyn Embedder, mut queue: mpsc::Receiver<Job>, metrics: &Metrics) {
    while let Some(job) = queue.blocking_recv() {
        if job.answer.is_closed() {
            continue;
        }
        let result = match &job.input {
            Input::Pages(pages) => {
                let inputs: Vec<PageInput<'_>> = pages.iter().map(page_input).collect();
                let _timer = metrics.embedding_duration.start_timer();
                embedder.embed_pages(&inputs)
            }
            Input::Question(question) => {
                embedder.embed_query(question).map(|vectors| vec![vectors])
            }
        };
        // Nobody waits for the answer when the document was called off meanwhile.
        let _ = job.answer.send(result);
    }
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
