use candle_core::Error;
use layra_embedding::colqwen::ColQwenError;

use super::*;
use crate::runtime::failure::Class;

/// A model whose device has memory for `capacity` tokens. A page has one token for each byte of its
/// text, and a single vector with the number of tokens. Pages that contain `!` fail for good.
struct Small {
    capacity: usize,
    batches: Arc<Mutex<Vec<usize>>>,
    /// How long it computes a batch.
    takes: Duration,
}

impl Embedder for Small {
    fn dimensions(&self) -> usize {
        1
    }

    fn page_pixels(&self) -> Option<u32> {
        None
    }

    fn batch_tokens(&self) -> usize {
        100
    }

    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        let ids = page.text.bytes().map(u32::from).collect();
        Ok(Prepared::from_passages(vec![ids]))
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        let passages = pages.iter().map(|page| page.passages().unwrap().to_vec());
        Ok(Batch::from_passages(passages.collect()))
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let pages = batch.passages().unwrap();
        let tokens: usize = pages.iter().map(|page| page[0].len()).sum();
        if tokens > self.capacity {
            return Err(ColQwenError::from(Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into())).into());
        }
        if pages.iter().any(|page| page[0].contains(&u32::from(b'!'))) {
            return Err(Error::Msg("a kernel failed".into()).into());
        }
        std::thread::sleep(self.takes);
        self.batches.lock().unwrap().push(pages.len());
        let vector = |page: &Vec<Vec<u32>>| MultiVector::new(1, vec![page[0].len() as f32]);
        Ok(pages.iter().map(vector).collect())
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        Ok(MultiVector::new(1, vec![text.len() as f32]))
    }
}

struct Bench {
    thread: EmbedderThread,
    metrics: Arc<Metrics>,
    batches: Arc<Mutex<Vec<usize>>>,
}

fn start(capacity: usize) -> Bench {
    start_slow(capacity, Duration::ZERO)
}

fn start_slow(capacity: usize, takes: Duration) -> Bench {
    let metrics = Arc::new(Metrics::new());
    let batches = Arc::default();
    let model = Small {
        capacity,
        batches: Arc::clone(&batches),
        takes,
    };
    Bench {
        thread: EmbedderThread::start(Box::new(model), 8, Arc::clone(&metrics)).unwrap(),
        metrics,
        batches,
    }
}

fn pages(lengths: &[usize]) -> Vec<PageContent> {
    let page = |length: &usize| PageContent {
        text: "x".repeat(*length),
        pixels: None,
    };
    lengths.iter().map(page).collect()
}

async fn embedded(bench: &Bench, lengths: &[usize]) -> Vec<MultiVector> {
    let results = bench.thread.embed_pages(pages(lengths)).await;
    results.into_iter().map(Result::unwrap).collect()
}

fn lengths(vectors: &[MultiVector]) -> Vec<f32> {
    vectors.iter().map(|page| page.values()[0]).collect()
}

#[tokio::test]
async fn every_page_gets_its_own_vectors_in_order() {
    let bench = start(1000);
    let wanted = [30, 10, 90, 100, 5, 40, 40, 40, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let vectors = embedded(&bench, &wanted).await;
    assert_eq!(lengths(&vectors), wanted.map(|length| length as f32));
    let question = bench.thread.embed_question("why").await.unwrap();
    assert_eq!(question.values(), [3.0]);
    let batches = bench.batches.lock().unwrap();
    assert!(
        batches.len() >= 4,
        "400 tokens in batches of 100: {batches:?}"
    );
}

#[tokio::test]
async fn a_batch_that_does_not_fit_is_computed_in_parts() {
    let bench = start(30);
    let wanted = [20; 12];
    let vectors = embedded(&bench, &wanted).await;
    assert_eq!(lengths(&vectors), [20.0; 12]);
    assert!(bench.batches.lock().unwrap().iter().all(|size| *size == 1));
}

#[tokio::test]
async fn a_page_that_does_not_fit_alone_ends_the_worker_with_advice() {
    let bench = start(30);
    let mut results = bench.thread.embed_pages(pages(&[40])).await;
    let failure = results.remove(0).unwrap_err();
    assert_eq!(
        (failure.class, failure.reason),
        (Class::Fatal, Reason::OutOfMemory)
    );
    assert!(failure.message.contains("maxVisualTokens"), "{failure}");
    assert_eq!(
        bench.metrics.embedding_out_of_memory.get(),
        0,
        "no smaller batch was tried"
    );
}

#[tokio::test]
async fn a_pages_own_failure_is_not_its_neighbours() {
    let bench = start(1000);
    let mut mixed = pages(&[5, 1, 6]);
    mixed[1].text = "!".into();
    let mut results = bench.thread.embed_pages(mixed).await;
    let failure = results.remove(1).unwrap_err();
    assert_eq!(failure.class, Class::Permanent);
    let good: Vec<MultiVector> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(lengths(&good), [5.0, 6.0]);
}

/// Each batch is a single page. Without the order of questions before pages, the question would wait
/// for all pages that were there first.
#[tokio::test]
async fn a_question_does_not_wait_for_the_pages_that_were_there_first() {
    let bench = start_slow(1000, Duration::from_millis(20));
    let all = bench.thread.embed_pages(pages(&[100; 40]));
    let ask = async {
        while bench.batches.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = bench.batches.lock().unwrap().len();
        let answers = (0..40).map(|_| bench.thread.embed_question("who"));
        for answer in join_all(answers).await {
            assert_eq!(answer.unwrap().values(), [3.0]);
        }
        bench.batches.lock().unwrap().len() - before
    };
    let (embedded, batches) = tokio::join!(all, ask);
    assert!(embedded.iter().all(Result::is_ok));
    // Two groups of questions, with one batch of pages between them.
    assert!(batches <= 8, "{batches} batches came first");
}
