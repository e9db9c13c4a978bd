//! The two-stage search must find what comparing everything finds: candidates from an HNSW index,
//! then exact scores, against `MaxSim` of the question with every page. The test computes that
//! itself, from the rows in Milvus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::Upload;
use layra_e2e::pdf;
use layra_e2e::rows::Rows;
use layra_e2e::worker_cli::{Hit, WorkerCli};
use layra_testbed::settings::repository;
use milvus::v2::prelude::{
    FieldData, FlushRequest, ListQuerySegmentsRequest, MetricType, SearchRequest, SearchVectors,
};
use milvus::v2::{QuerySegmentInfo, SegmentState};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};
use crate::visual::{MODEL, fixtures, reference, serve_model};

const MINUTE: Duration = Duration::from_mins(1);
const DOCUMENTS: u64 = 4;
const PAGES_OF_A_DOCUMENT: usize = 50;
const QUESTIONS: usize = 10;
/// The pages of an answer that are compared.
const TOP: usize = 10;
const WANTED: f64 = 0.99;
/// Scores that differ by less are equal: they are sums of products in another order.
const SCORE_TOLERANCE: f32 = 1e-3;
/// Candidates that LAYRA asks for, without any parameter of the index.
const CANDIDATES_OF_LAYRA: i64 = 50;
/// Words of the pages and of the questions.
const WORDS: &str = "account annual archive average balance board budget capital chapter claim \
    contract cost customer debt delivery demand director dividend energy engine equity estimate \
    export factory figure forecast growth index industry interest invoice labour ledger liability \
    market material merger network offer output partner patent payment pension plant price \
    product profit project quarter rate region report reserve result revenue risk royalty salary \
    sales schedule section share site staff standard stock subsidy supplier tariff tax team trade \
    transport treaty turnover union value volume wage warehouse year yield";

#[tokio::test]
async fn a_search_finds_what_an_exact_comparison_of_all_pages_finds() -> Result<()> {
    on_stage("recall", async |stage| {
        serve_model(stage).await?;
        stage.apply_until_ready(&pipeline()).await?;
        let user = stage.user().await?;
        let mut uploads = Vec::new();
        for number in 0..DOCUMENTS {
            let name = format!("{number}.pdf");
            uploads.push(user.upload_bytes(&name, document(number)).await?);
        }
        stage.wait_tasks(&uploads, "completed", 2 * MINUTE).await?;

        let collection = format!("recall_{}", user.knowledge_base.replace('-', "_"));
        let pages = Pages::read(stage, &collection, &uploads).await?;
        let all = usize::try_from(DOCUMENTS)? * PAGES_OF_A_DOCUMENT;
        ensure!(pages.vectors.len() == all, "{} pages", pages.vectors.len());
        use_the_index(stage, &collection, pages.rows()).await?;

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let questions = questions();
        let vectors = embed(&cli, &questions).await?;
        let exact: Vec<BTreeMap<&Page, f32>> = vectors
            .iter()
            .map(|vectors| pages.scores(vectors))
            .collect();
        let base = &user.knowledge_base;
        let found = search(&cli, &questions, base, &[], &exact).await?;
        let few = search(&cli, &questions, base, &["--candidates", "3"], &exact).await?;
        let (recall, few) = (recall(&found, &exact), recall(&few, &exact));
        let layra = recall_of_layra(stage, &collection, &pages, &vectors, &exact).await?;
        println!(
            "pages={all} rows={} recall={recall:.4} with_3_candidates={few:.4} layra={layra:.4}",
            pages.rows(),
        );
        ensure!(recall >= WANTED, "recall@{TOP} of the search: {recall}");
        ensure!(layra >= WANTED, "recall@{TOP} of LAYRA's search: {layra}");
        ensure!(
            few < WANTED,
            "3 candidates find as much: {few}. The pages are too easy"
        );
        Ok(())
    })
    .await
}

/// The best pages of each question, whose scores must be exact.
async fn search(
    cli: &WorkerCli,
    questions: &[String],
    base: &str,
    more: &[&str],
    exact: &[BTreeMap<&Page, f32>],
) -> Result<Vec<BTreeSet<Page>>> {
    let runs = questions
        .iter()
        .zip(exact)
        .map(|(question, exact)| async move {
            let arguments = ["search", question, "--knowledge-base", base, "--top", "10"];
            let arguments = [&arguments[..], &["--output", "json"], more].concat();
            let hits: Vec<Hit> = serde_json::from_str(&cli.run(&arguments).await?)?;
            ensure!(hits.len() == TOP, "{} pages", hits.len());
            let mut found = BTreeSet::new();
            for hit in hits {
                let page = (hit.file, hit.page);
                let difference = (f64::from(exact[&page]) - hit.score).abs();
                ensure!(
                    difference <= f64::from(SCORE_TOLERANCE),
                    "{page:?} is off by {difference}"
                );
                found.insert(page);
            }
            Ok(found)
        });
    // Each mostly waits for the latest writes to be visible.
    futures::stream::iter(runs)
        .buffered(QUESTIONS)
        .try_collect()
        .await
}

/// Few vectors a page, so that there are more pages than any question has candidates.
fn pipeline() -> Value {
    json!({"spec": {
        "stores": {"milvus": {"collection": "recall_{knowledge_db_id}"}},
        "documents": {"render": {"dpi": [{"dpi": 60}]}},
        "embedding": {
            "model": {"family": "colqwen2_5", "uri": format!("s3://models/{MODEL}")},
            "maxVisualTokens": 16,
            "batchPages": 32,
        },
    }})
}

/// Pages with very different amounts of text, the same in each run.
pub(crate) fn document(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let texts: Vec<String> = (0..PAGES_OF_A_DOCUMENT)
        .map(|_| {
            let words = random.usize(5..600);
            text(&mut random, words)
        })
        .collect();
    pdf::with_pages(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn questions() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(DOCUMENTS);
    (0..QUESTIONS)
        .map(|_| {
            let words = random.usize(3..9);
            format!("What is the {}?", text(&mut random, words))
        })
        .collect()
}

pub(crate) fn text(random: &mut fastrand::Rng, words: usize) -> String {
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let chosen: Vec<&str> = (0..words).map(|_| all[random.usize(..all.len())]).collect();
    chosen.join(" ")
}

/// The vectors of each question, from the model that the workers use.
async fn embed(cli: &WorkerCli, questions: &[String]) -> Result<Vec<Vec<Vec<f32>>>> {
    let output = cli.directory().join("questions.safetensors");
    let mut command = tokio::process::Command::new(repository().join("dist/layra-worker"));
    command
        .arg("embed")
        .arg("--model")
        .arg(fixtures().join(MODEL));
    command.arg("--output").arg(&output);
    for question in questions {
        command.arg("--query").arg(question);
    }
    let done = command.output().await?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "layra-worker embed: {error}");
    let bytes = std::fs::read(&output)?;
    let file = SafeTensors::deserialize(&bytes)?;
    (0..questions.len())
        .map(|number| reference(&file, &format!("query_{number}")))
        .collect()
}

/// File name and page number, from 1.
type Page = (String, u64);

/// The vectors of every page, as they are in Milvus.
struct Pages {
    vectors: BTreeMap<Page, Vec<Vec<f32>>>,
    /// The pages by `image_id`.
    images: BTreeMap<String, Page>,
}

impl Pages {
    async fn read(stage: &Stage, collection: &str, uploads: &[Upload]) -> Result<Self> {
        let fields = ["image_id", "file_id", "page_number", "vector"];
        let mut rows = Rows::of(&stage.stores, collection, &fields);
        let mut pages = Self {
            vectors: BTreeMap::new(),
            images: BTreeMap::new(),
        };
        let mut keys = BTreeSet::new();
        while let Some(batch) = rows.next().await? {
            for row in batch.results().rows()? {
                let file = row.get_str("file_id")?;
                let upload = uploads.iter().find(|upload| upload.file_id == file);
                let number = u64::try_from(row.get_i64("page_number")?)? + 1;
                let page = (upload.context("an upload")?.filename.clone(), number);
                ensure!(keys.insert(row.get_i64("pk")?), "a row was read twice");
                let image = row.get_str("image_id")?.to_owned();
                pages.images.insert(image, page.clone());
                let vector = row.get_float_vector("vector")?.to_vec();
                pages.vectors.entry(page).or_default().push(vector);
            }
        }
        Ok(pages)
    }

    fn rows(&self) -> usize {
        self.vectors.values().map(Vec::len).sum()
    }

    /// `MaxSim` of a question with every page.
    fn scores(&self, question: &[Vec<f32>]) -> BTreeMap<&Page, f32> {
        let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let best = |question: &Vec<f32>, rows: &[Vec<f32>]| {
            let products = rows.iter().map(|row| dot(question, row));
            products.fold(f32::NEG_INFINITY, f32::max)
        };
        let score = |rows: &[Vec<f32>]| question.iter().map(|vector| best(vector, rows)).sum();
        let scores = self.vectors.iter();
        scores.map(|(page, rows)| (page, score(rows))).collect()
    }
}

/// The part of the best pages that was found. A page counts if its score is as good as that of the
/// last of the best ones.
fn recall(found: &[BTreeSet<Page>], exact: &[BTreeMap<&Page, f32>]) -> f64 {
    let hits = found.iter().zip(exact).map(|(found, exact)| {
        let mut scores: Vec<f32> = exact.values().copied().collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let enough = scores[TOP - 1] - SCORE_TOLERANCE;
        found.iter().filter(|page| exact[page] >= enough).count()
    });
    hits.sum::<usize>() as f64 / (TOP * exact.len()) as f64
}

/// The same of LAYRA's own search, which asks Milvus as `search.py` does and then compares the
/// pages that it gets.
async fn recall_of_layra(
    stage: &Stage,
    collection: &str,
    pages: &Pages,
    questions: &[Vec<Vec<f32>>],
    exact: &[BTreeMap<&Page, f32>],
) -> Result<f64> {
    let mut found = Vec::new();
    for (question, exact) in questions.iter().zip(exact) {
        let request = SearchRequest::builder()
            .collection_name(collection)
            .vector_field("vector")
            .vectors(SearchVectors::Float(question.clone()))
            .metric_type(MetricType::Ip)
            .output_fields(["image_id"])
            .limit(CANDIDATES_OF_LAYRA)
            .build()?;
        let answer = stage.stores.milvus.search(request).await?;
        let mut candidates = BTreeSet::new();
        for result in answer.results().get_results() {
            let Some(FieldData::VarChar { values, .. }) = result.get_output_field("image_id")
            else {
                continue;
            };
            candidates.extend(values.iter().filter_map(|image| pages.images.get(image)));
        }
        let mut scored: Vec<(f32, &Page)> = candidates
            .into_iter()
            .map(|page| (exact[page], page))
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(TOP);
        found.push(scored.into_iter().map(|(_, page)| page.clone()).collect());
    }
    Ok(recall(&found, exact))
}

/// Seals the rows and waits until searches use their index. Until then Milvus compares all of them,
/// and a search would find everything.
async fn use_the_index(stage: &Stage, collection: &str, rows: usize) -> Result<()> {
    let milvus = &stage.stores.milvus;
    let flush = FlushRequest::builder()
        .collection_names([collection])
        .wait_flushed_ms(30_000)
        .build()?;
    milvus.flush(flush).await?;
    eventually("the index to be used", MINUTE, async || {
        let request = ListQuerySegmentsRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = milvus.list_query_segments(request).await?;
        let indexed = answer.segments().iter().filter(|segment| {
            segment.get_state() == SegmentState::Sealed
                && segment.get_index_name() == "vector_index"
        });
        let indexed: i64 = indexed.map(QuerySegmentInfo::get_row_count).sum();
        Ok((usize::try_from(indexed)? >= rows).then_some(()))
    })
    .await
}
