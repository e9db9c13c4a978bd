//! The `tune` command: measures what index settings do to a knowledge base's own vectors, and
//! chooses a preset.
//!
//! It copies whole pages, drawn at random, into a temporary collection for each index, searches
//! there as `layra-worker search` does, and compares with `MaxSim` of each question and each page.
//! The collection itself is only read, two pages at a time. One search at a time is in flight.

mod exact;
mod grid;
mod report;
mod sample;
mod storage;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use layra_crds::{IndexPreset, VectorType};
use layra_embedding::MultiVector;
use tokio::sync::Mutex;

use crate::assembly::Common;
use crate::commands::search;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::milvus::{PageVectors, SearchLimits, Vectors, is_scratch, scratch_name};
use crate::stores::mongo::Documents;
use crate::stores::tuning::{LEASE, TuningLease};
use grid::{Cell, Index};
pub(crate) use report::Report;
use report::{QuestionSource, Refused};
use sample::Page;

/// Files whose pages a sample is drawn from.
const MOST_FILES: usize = 2_000;
/// Pages of a sample. Milvus looks at every row of the collection to read one.
const MOST_PAGES: usize = 2_000;
/// Pages of the collection that are read at the same time.
const READS: usize = 2;
/// Pages that are inserted at the same time.
const INSERTED_PAGES: usize = 16;
/// Milvus builds no index for fewer rows, and compares them all.
const FEWEST_VECTORS: u64 = 1_024;
/// Searches before the measured ones.
const WARM_UP: usize = 2;
/// How long an idempotent request is repeated while Milvus throttles it.
const PATIENCE: Duration = Duration::from_mins(1);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TuneOptions {
    /// Id of the knowledge base.
    #[arg(long)]
    knowledge_base: String,
    /// Recall at 10 that the preset must reach, of the ten best pages of an exact comparison.
    #[arg(long, default_value_t = 0.99, value_parser = recall)]
    wanted_recall: f64,
    /// A file with a question in each line, for the pipeline's model. Without it, questions are
    /// vectors of pages that are not in the copy: they need no model, but resemble its pages more
    /// than written questions do.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Number of vectors to copy at most, in whole pages. Milvus builds one index after the other,
    /// each for that many.
    #[arg(long, default_value_t = 50_000,
          value_parser = clap::value_parser!(u32).range(2_000..=200_000))]
    sample_vectors: u32,
    /// Measure only this preset: `Economy`, `Balanced`, `Accurate` or `Maximum`. May be repeated.
    /// Default: all.
    #[arg(long = "preset", value_name = "PRESET", value_parser = preset)]
    presets: Vec<IndexPreset>,
}

fn preset(text: &str) -> Result<IndexPreset, String> {
    let preset = serde_json::from_value(text.into());
    preset.map_err(|_| "it must be Economy, Balanced, Accurate or Maximum".to_owned())
}

fn recall(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(recall) if recall > 0.0 && recall <= 1.0 => Ok(recall),
        _ => Err("it must be above 0 and at most 1".to_owned()),
    }
}

/// Measures and removes every temporary collection, also after a signal.
pub(crate) async fn tune(common: &Common, options: &TuneOptions) -> anyhow::Result<Report> {
    let documents = common.documents().await?;
    let server = common.vectors(0).await?;
    let copies = Copies {
        common,
        lease: take_lease(common, &documents).await?,
        server,
        creating: Arc::default(),
    };
    let work = async {
        copies.remove_all().await?;
        let sample = Sample::take(common, &documents, &copies.server, options).await?;
        copies.measure(&sample, options).await
    };
    let result = tokio::select! {
        biased;
        () = common.stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
        result = copies.lease.hold(work) => result,
    };
    let cleaned = copies.remove_all().await;
    let ended = copies.lease.end().await;
    let report = result?;
    cleaned.context("removing the temporary collections, which the next run does")?;
    ended?;
    Ok(report)
}

/// Waits for what a killed run has left of its right, but not for a run that is going on.
async fn take_lease(common: &Common, documents: &Documents) -> anyhow::Result<TuningLease> {
    let server = &common.settings.config.stores.milvus.uri;
    let started = Instant::now();
    loop {
        if let Some(lease) = TuningLease::take(documents.database(), server).await? {
            return Ok(lease);
        }
        ensure!(
            started.elapsed() < LEASE + Duration::from_secs(2),
            "another `layra-worker tune` measures on {server}. Wait for its end"
        );
        ensure!(!common.stop.is_cancelled(), "interrupted");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The pages to copy and the questions to ask.
struct Sample {
    collection: String,
    width: usize,
    vector_type: VectorType,
    pages: Vec<Page>,
    questions: Vec<MultiVector>,
    source: QuestionSource,
}

impl Sample {
    async fn take(
        common: &Common,
        documents: &Documents,
        server: &Vectors,
        options: &TuneOptions,
    ) -> anyhow::Result<Self> {
        let base = &options.knowledge_base;
        let collection = common.settings.config.stores.milvus.collection_of(base);
        let Some((width, vector_type)) = server.vectors_of(&collection).await? else {
            anyhow::bail!("knowledge base {base} has no collection {collection}");
        };
        // The same pages in each run.
        let mut random = Rng::with_seed(0);
        let mut files = documents.files_of(base).await?;
        files.sort();
        random.shuffle(&mut files);
        files.truncate(MOST_FILES);
        let files = documents.stored_files(files).await?;
        let images = files.into_iter().flat_map(|(_, file)| file.pages);
        let mut images: Vec<String> = images.map(|(image_id, _)| image_id).collect();
        images.sort();
        random.shuffle(&mut images);
        images.truncate(MOST_PAGES);
        let reader = server.with_hnsw((width, vector_type), 0, 0);
        let most = options.sample_vectors as usize;
        let mut pages = read_pages(&reader, &collection, images, most).await?;
        let (questions, source) = if let Some(file) = &options.questions {
            let questions = embed(common, file, width).await?;
            (questions, QuestionSource::File)
        } else {
            let held_out = pages.split_off(pages.len() - sample::held_out(pages.len()));
            let held_out: Vec<MultiVector> =
                held_out.into_iter().map(|page| page.vectors).collect();
            let source = QuestionSource::HeldOutPages(held_out.len());
            (sample::questions(&held_out, &mut random), source)
        };
        let sample = Self {
            collection,
            width,
            vector_type,
            pages,
            questions,
            source,
        };
        ensure!(
            sample.rows() >= FEWEST_VECTORS && !sample.questions.is_empty(),
            "knowledge base {base} is too small to measure: a copy has {} vectors of {} pages and \
             {} questions. Milvus indexes {FEWEST_VECTORS} vectors or more and compares fewer \
             exactly, so any preset will do",
            sample.rows(),
            sample.pages.len(),
            sample.questions.len(),
        );
        Ok(sample)
    }

    fn rows(&self) -> u64 {
        let pages = self.pages.iter();
        pages.map(|page| page.vectors.len() as u64).sum()
    }
}

/// Pages in this order, until they have `most` vectors or nearly so.
async fn read_pages(
    vectors: &Vectors,
    collection: &str,
    images: Vec<String>,
    most: usize,
) -> Result<Vec<Page>, Failure> {
    let mut reads = futures::stream::iter(images)
        .map(|image_id| async move {
            let rows = vectors.page_vectors(collection, &image_id).await?;
            Ok::<_, Failure>((image_id, rows))
        })
        .buffered(READS);
    let (mut pages, mut count) = (Vec::new(), 0);
    while let Some((image_id, rows)) = reads.try_next().await? {
        count += rows.len();
        if count > most {
            break;
        }
        // A page that is being ingested may have no vectors yet.
        if let Some(width) = rows.first().map(Vec::len) {
            let vectors = MultiVector::new(width, rows.concat());
            pages.push(Page { image_id, vectors });
        }
    }
    Ok(pages)
}

/// The vectors of the questions in a file.
async fn embed(common: &Common, file: &Path, width: usize) -> anyhow::Result<Vec<MultiVector>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let embedder = common.embedder().await?;
    ensure!(
        embedder.dimensions() == width,
        "the model's vectors have width {}, the collection's {width}",
        embedder.dimensions()
    );
    let mut questions = Vec::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty()) {
        questions.push(embedder.embed_question(line).await?);
    }
    Ok(questions)
}

/// The temporary collections of this run and of killed ones.
struct Copies<'a> {
    common: &'a Common,
    server: Vectors,
    lease: TuningLease,
    /// Locked while a collection is being created. An interrupted request may still create it.
    creating: Arc<Mutex<()>>,
}

impl Copies<'_> {
    async fn measure(&self, sample: &Sample, options: &TuneOptions) -> anyhow::Result<Report> {
        let pages: Vec<MultiVector> = sample
            .pages
            .iter()
            .map(|page| page.vectors.clone())
            .collect();
        let scores = exact::scores(&sample.questions, &pages);
        let storage = storage::compare(&sample.questions, &pages, &scores);
        let spec = &self.common.settings.config.stores.milvus;
        let run = format!("{:08x}", fastrand::u32(..));
        let indexes = grid::indexes(&options.presets);
        let progress = progress(indexes.len() * grid::searches().len())?;
        let (mut cells, mut refused) = (Vec::new(), Vec::new());
        for index in indexes {
            let Index {
                preset,
                m,
                ef_construction,
            } = index;
            progress.set_message(format!(
                "{preset:?} (M {m}, efConstruction {ef_construction})"
            ));
            let trial = Trial {
                name: scratch_name(spec, &format!("{run}_{m}_{ef_construction}")),
                vectors: Arc::new(self.server.with_hnsw(
                    (sample.width, sample.vector_type),
                    m,
                    ef_construction,
                )),
                sample,
                scores: &scores,
            };
            self.create(&trial).await?;
            match self.fill(&trial).await {
                Ok(built) => {
                    for limits in grid::searches() {
                        cells.push(trial.measure(index, built, limits).await?);
                        progress.inc(1);
                    }
                }
                Err(failure) if failure.reason == Reason::MilvusRefused => {
                    let message = failure.message;
                    refused.push(Refused { index, message });
                    progress.inc(grid::searches().len() as u64);
                }
                Err(failure) => return Err(failure.into()),
            }
            self.remove(&trial.name).await?;
        }
        progress.finish_and_clear();
        let choice = grid::choose(&cells, options.wanted_recall, spec.readers).cloned();
        Ok(Report {
            knowledge_base: options.knowledge_base.clone(),
            collection: sample.collection.clone(),
            dimensions: sample.width,
            vector_type: sample.vector_type,
            pages: sample.pages.len(),
            vectors: sample.rows(),
            questions: sample.questions.len(),
            question_source: sample.source,
            wanted_recall: options.wanted_recall,
            readers: spec.readers,
            cells,
            refused,
            choice,
            storage,
        })
    }

    async fn create(&self, trial: &Trial<'_>) -> anyhow::Result<()> {
        self.lease.note(&trial.name).await?;
        let creating = Arc::clone(&self.creating).lock_owned().await;
        let (vectors, name) = (Arc::clone(&trial.vectors), trial.name.clone());
        // A task of its own goes on when this one is interrupted.
        let created = tokio::spawn(async move {
            let created = vectors.create_scratch(&name).await;
            drop(creating);
            created
        });
        Ok(created.await??)
    }

    /// Copies the pages and builds the index. Returns how long Milvus took for the index.
    async fn fill(&self, trial: &Trial<'_>) -> Result<Duration, Failure> {
        for pages in trial.sample.pages.chunks(INSERTED_PAGES) {
            let pages: Vec<PageVectors> = pages
                .iter()
                .map(|page| PageVectors {
                    image_id: page.image_id.clone(),
                    page: 0,
                    vectors: page.vectors.rows().map(<[f32]>::to_vec).collect(),
                })
                .collect();
            trial.vectors.insert(&trial.name, "tune", &pages).await?;
        }
        let flush = |_| trial.vectors.flush_scratch(&trial.name);
        self.patiently(flush).await?;
        trial
            .vectors
            .index_scratch(&trial.name, trial.sample.rows())
            .await
    }

    async fn remove(&self, name: &str) -> Result<(), Failure> {
        self.patiently(|_| async move {
            match self.server.drop_collection(name).await {
                Err(failure) if failure.reason == Reason::CollectionGone => Ok(()),
                dropped => dropped,
            }
        })
        .await?;
        self.lease.forget(name).await
    }

    /// Drops every collection that was noted.
    async fn remove_all(&self) -> Result<(), Failure> {
        let _created = self.creating.lock().await;
        for name in self.lease.collections().await? {
            if is_scratch(&name) {
                self.remove(&name).await?;
            } else {
                self.lease.forget(&name).await?;
            }
        }
        Ok(())
    }

    /// Repeats a request for a while. After a signal it is sent, but not repeated.
    async fn patiently<Attempt>(&self, request: impl FnMut(u32) -> Attempt) -> Result<(), Failure>
    where
        Attempt: Future<Output = Result<(), Failure>>,
    {
        let never = tokio_util::sync::CancellationToken::new();
        let retry = self.common.retry().limited_to(PATIENCE);
        retry.run(Stage::Milvus, &never, request).await
    }
}

/// A temporary collection with one index.
struct Trial<'a> {
    name: String,
    vectors: Arc<Vectors>,
    sample: &'a Sample,
    scores: &'a [exact::Scores],
}

impl Trial<'_> {
    /// Asks every question, one after the other.
    async fn measure(
        &self,
        index: Index,
        built: Duration,
        limits: SearchLimits,
    ) -> Result<Cell, Failure> {
        let images = self.sample.pages.iter().enumerate();
        let images: HashMap<&str, usize> = images
            .map(|(number, page)| (page.image_id.as_str(), number))
            .collect();
        for question in self.sample.questions.iter().take(WARM_UP) {
            self.ask(question, limits).await?;
        }
        let (mut recalls, mut times, mut candidates) = (Vec::new(), Vec::new(), Vec::new());
        for (question, scores) in self.sample.questions.iter().zip(self.scores) {
            let started = Instant::now();
            let found = self.ask(question, limits).await?;
            times.push(started.elapsed().as_secs_f64() * 1000.0);
            candidates.push(found.len() as f64);
            let best = found.iter().take(exact::TOP);
            let best: Vec<usize> = best.map(|image| images[image.as_str()]).collect();
            recalls.push(exact::recall(&best, scores));
        }
        Ok(Cell {
            index,
            ef: limits.ef,
            candidates: limits.candidates,
            recall_at_10: exact::mean(&recalls),
            p50_ms: layra_search::metrics::percentile(&times, 0.5),
            p99_ms: layra_search::metrics::percentile(&times, 0.99),
            candidate_pages: exact::mean(&candidates),
            build_seconds: built.as_secs_f64(),
        })
    }

    /// Both stages of a search. Returns the pages, best first.
    async fn ask(
        &self,
        question: &MultiVector,
        limits: SearchLimits,
    ) -> Result<Vec<String>, Failure> {
        let rows: Vec<Vec<f32>> = question.rows().map(<[f32]>::to_vec).collect();
        let hits = self.vectors.candidates(&self.name, &rows, limits).await?;
        let mut scored = search::score(&self.vectors, &self.name, question, hits).await?;
        scored.sort_by(|(_, _, a), (_, _, b)| b.total_cmp(a));
        Ok(scored
            .into_iter()
            .map(|(image_id, _, _)| image_id)
            .collect())
    }
}

/// A progress bar on a terminal, nothing elsewhere.
fn progress(steps: usize) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    Ok(ProgressBar::new(steps as u64).with_style(style))
}
