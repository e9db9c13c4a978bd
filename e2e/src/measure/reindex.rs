//! `cargo measure reindex`: a large collection is rebuilt beside the one that serves, while files are
//! added, deleted and searched, and the rebuild is killed.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_testbed::Testbed;
use milvus::v2::prelude as sdk;
use mongodb::bson::doc;
use serde_json::json;

use super::{MINUTE, collection_of, kills};
use crate::cluster::Scene;
use crate::layra::{User, random_id};
use crate::milvus_admin;
use crate::rebuild::{Library, image};
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Vectors of a page, and pages of a file.
const ROWS: usize = 100;
const PAGES: usize = 10;
const DIMENSIONS: usize = 128;
const QUESTIONS: usize = 50;
/// Hits that are compared with the exact ones.
const TOP: usize = 10;
/// How long searches and writes are measured before the rebuild.
const BEFORE: Duration = Duration::from_secs(30);
/// Added files at a time: few enough that the questions' hits are mostly the others.
const MOST_ADDED: usize = 100;
/// Between two files that are added.
const PAUSE: Duration = Duration::from_millis(250);

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct ReindexPlan {
    /// Vectors of the collection at the beginning.
    pub vectors: usize,
    /// How often the rebuild is killed, at steps that are spread over it.
    pub kills: usize,
}

/// What happened beside the rebuild.
#[derive(Debug, Default)]
struct Searches {
    answered: u64,
    failed: u64,
    longest_gap: Duration,
    recalls: Vec<f64>,
    errors: Vec<String>,
}

#[derive(Debug, Default)]
struct Writes {
    added: BTreeMap<String, usize>,
    inserts: u64,
    deletions: u64,
    repeated: u64,
    /// Seconds in which a page was added, MongoDB and all repetitions included.
    times: Vec<f64>,
}

/// A question and the pages that are nearest, by exact computation.
struct Question {
    vector: Vec<f32>,
    nearest: HashSet<(String, String)>,
}

/// Measures and prints the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &ReindexPlan,
) -> Result<()> {
    let name = format!("reindex-{}", &random_id()[..6]);
    let topic = format!("{name}-tasks");
    let patch = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let user = User::with_knowledge_base(stores, &topic, "measure", &random_id()).await?;
    let library = Library {
        stores: stores.clone(),
        collection: collection_of(&user.knowledge_base),
        knowledge_base: user.knowledge_base,
        dimensions: DIMENSIONS,
        rows: ROWS,
    };
    milvus_admin::create_like_layra(&stores.milvus, &library.collection, 128).await?;
    let mut files = BTreeMap::new();
    let started = Instant::now();
    for number in 0..plan.vectors / (ROWS * PAGES) {
        let file = format!("{}_{number}", library.knowledge_base);
        library.add(&file, PAGES, &library.collection).await?;
        files.insert(file, PAGES);
    }
    wait_for_index(&library).await?;
    println!(
        "{} files, filled and indexed in {:.0?}",
        files.len(),
        started.elapsed()
    );
    let questions = questions(&library, &files);
    let before = mean(&recalls(&library, &questions).await?);

    let pause = async {
        tokio::time::sleep(BEFORE).await;
        Ok(0)
    };
    let alone = Box::pin(beside(&library, &questions, "before", pause)).await?;
    let rebuilding = Box::pin(kills::rebuild(&library, &cli, plan.kills));
    let live = Box::pin(beside(&library, &questions, "live", rebuilding)).await?;
    let (searches, writes, killed, took) = live;
    let after = mean(&recalls(&library, &questions).await?);
    ensure!(
        alone.0.failed == 0 && alone.1.repeated == 0,
        "{} searches and {} writes failed before the rebuild: {:#?}",
        alone.0.failed,
        alone.1.repeated,
        alone.0.errors
    );
    print_speeds((&alone.0, &alone.1, alone.3), (&searches, &writes, took));
    files.extend(alone.1.added);
    files.extend(writes.added);
    let violations = library.violations(&files).await?;
    println!(
        "rebuilt in {took:.1?}, killed {killed} times, M {}",
        library.index_m().await?
    );
    println!(
        "searches: {} answered, {} failed, longest gap {:.1?}",
        searches.answered, searches.failed, searches.longest_gap
    );
    println!(
        "files added {}, deleted {}, writes repeated {}",
        writes.inserts, writes.deletions, writes.repeated
    );
    println!(
        "recall@{TOP}: before {before:.4}, during {:.4} (lowest of a question {:.2}), after {after:.4}",
        mean(&searches.recalls),
        searches.recalls.iter().copied().fold(1.0, f64::min),
    );
    println!("pages missing, doubled or left: {}", violations.len());
    milvus_admin::drop(&stores.milvus, &library.collection).await?;
    let filter = doc! { "knowledge_db_id": &library.knowledge_base };
    let documents = stores
        .mongodb
        .collection::<mongodb::bson::Document>("files");
    documents.delete_many(filter).await?;
    ensure!(
        violations.is_empty(),
        "{:#?}",
        &violations[..violations.len().min(20)]
    );
    ensure!(searches.errors.is_empty(), "{:#?}", searches.errors);
    Ok(())
}

/// Searches and writes while something is done. Returns what came of each, and the time it took.
async fn beside(
    library: &Library,
    questions: &[Question],
    name: &str,
    work: impl Future<Output = Result<usize>>,
) -> Result<(Searches, Writes, usize, Duration)> {
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (searches, writes, (result, took)) = tokio::try_join!(
        search(library, questions, &stop),
        write(library, name, &stop),
        async {
            let result = work.await?;
            let took = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            Ok((result, took))
        }
    )?;
    Ok((searches, writes, result, took))
}

/// How fast searches and writes were during the rebuild, as ratios to those before.
fn print_speeds(before: (&Searches, &Writes, Duration), during: (&Searches, &Writes, Duration)) {
    let searches = |(searches, _, took): (&Searches, &Writes, Duration)| {
        searches.answered as f64 / took.as_secs_f64()
    };
    let (one, other) = (searches(before), searches(during));
    println!(
        "searches a second: {one:.1} before, {other:.1} during, {:.2} of it",
        other / one
    );
    for (name, part) in [("P50", 50), ("P99", 99)] {
        let (one, other) = (
            quantile(&before.1.times, part),
            quantile(&during.1.times, part),
        );
        println!(
            "a page of {ROWS} vectors added in {:.1} ms before, {:.1} ms during ({name}), {:.2} times \
             as long",
            one * 1000.0,
            other * 1000.0,
            other / one
        );
    }
}

fn quantile(values: &[f64], per_cent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = sorted.len().saturating_sub(1) * per_cent / 100;
    sorted.get(index).copied().unwrap_or_default()
}

/// Searches without a pause.
async fn search(library: &Library, questions: &[Question], stop: &AtomicBool) -> Result<Searches> {
    let mut searches = Searches::default();
    let mut failing_since: Option<Instant> = None;
    let mut last = Instant::now();
    for question in questions.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match hits(library, &question.vector).await {
            Ok(hits) => {
                if let Some(since) = failing_since.take() {
                    searches.longest_gap = searches.longest_gap.max(since.elapsed());
                }
                last = Instant::now();
                searches.answered += 1;
                searches.recalls.push(recall(library, question, hits));
            }
            Err(error) => {
                searches.failed += 1;
                failing_since.get_or_insert(last);
                let text = format!("{error:#}");
                // Only the name may be missing.
                if !text.contains("not found") && searches.errors.len() < 20 {
                    searches.errors.push(text);
                }
            }
        }
    }
    Ok(searches)
}

/// Adds files, and deletes some of them again.
async fn write(library: &Library, name: &str, stop: &AtomicBool) -> Result<Writes> {
    let mut writes = Writes::default();
    while !stop.load(Ordering::Relaxed) {
        let file = format!("{}_{name}{}", library.knowledge_base, writes.inserts);
        let begun = Instant::now();
        // As a worker does, a write is repeated while the name is missing.
        while let Err(error) = library.add(&file, 1, &library.collection).await {
            writes.repeated += 1;
            let files = library
                .stores
                .mongodb
                .collection::<mongodb::bson::Document>("files");
            files.delete_one(doc! { "file_id": &file }).await?;
            ensure!(writes.repeated < 1000, "adding a file: {error:#}");
        }
        writes.times.push(begun.elapsed().as_secs_f64());
        writes.added.insert(file, 1);
        writes.inserts += 1;
        if writes.inserts.is_multiple_of(3) || writes.added.len() > MOST_ADDED {
            let (file, _) = writes.added.pop_first().context("a file")?;
            // LAYRA does not repeat it: MongoDB no longer has the file.
            if library.delete(&file).await.is_err() {
                writes.repeated += 1;
            }
            writes.deletions += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(writes)
}

/// Vectors near some of the collection's, with their nearest ones by exact computation.
fn questions(library: &Library, files: &BTreeMap<String, usize>) -> Vec<Question> {
    let mut random = fastrand::Rng::with_seed(7);
    let asked: Vec<Vec<f32>> = (0..QUESTIONS)
        .map(|_| {
            (0..library.dimensions)
                .map(|_| random.f32() - 0.5)
                .collect()
        })
        .collect();
    let mut best: Vec<Vec<(f32, String, usize)>> = vec![Vec::new(); QUESTIONS];
    for (file, pages) in files {
        for page in 0..*pages {
            for row in 0..library.rows {
                let vector = library.vector(file, page, row);
                for (question, best) in asked.iter().zip(&mut best) {
                    let score: f32 = question.iter().zip(&vector).map(|(a, b)| a * b).sum();
                    best.push((score, image(file, page), row));
                    if best.len() > 20 * TOP {
                        keep_best(best);
                    }
                }
            }
        }
    }
    asked
        .into_iter()
        .zip(best)
        .map(|(vector, mut best)| {
            keep_best(&mut best);
            let nearest = best.into_iter();
            let nearest = nearest.map(|(score, image, _)| (image, format!("{score:.4}")));
            Question {
                vector,
                nearest: nearest.collect(),
            }
        })
        .collect()
}

fn keep_best(best: &mut Vec<(f32, String, usize)>) {
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    best.truncate(TOP);
}

/// Page and score of the nearest vectors that Milvus finds.
async fn hits(library: &Library, vector: &[f32]) -> Result<Vec<(String, String)>> {
    let request = sdk::SearchRequest::builder()
        .collection_name(&library.collection)
        .vector_field("vector")
        .vectors(sdk::SearchVectors::Float(vec![vector.to_vec()]))
        .metric_type(sdk::MetricType::Ip)
        .output_fields(["image_id"])
        // More than needed: files that are added meanwhile do not count.
        .limit(40)
        .build()?;
    let answer = library.stores.milvus.search(request).await?;
    let mut hits = Vec::new();
    for result in answer.results().get_results() {
        if let Some(sdk::FieldData::VarChar { values, .. }) = result.get_output_field("image_id") {
            let scores = result.get_scores().iter();
            let scores = scores.map(|score| format!("{score:.4}"));
            hits.extend(values.iter().cloned().zip(scores));
        }
    }
    Ok(hits)
}

fn recall(library: &Library, question: &Question, hits: Vec<(String, String)>) -> f64 {
    let added = ["before", "live"].map(|name| format!("{}_{name}", library.knowledge_base));
    let is_added = |image: &str| added.iter().any(|added| image.starts_with(added));
    let first = hits.into_iter().filter(|(image, _)| !is_added(image));
    let found = first.take(TOP).filter(|hit| question.nearest.contains(hit));
    found.count() as f64 / question.nearest.len() as f64
}

async fn recalls(library: &Library, questions: &[Question]) -> Result<Vec<f64>> {
    let mut recalls = Vec::new();
    for question in questions {
        let hits = hits(library, &question.vector).await?;
        recalls.push(recall(library, question, hits));
    }
    Ok(recalls)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

async fn wait_for_index(library: &Library) -> Result<()> {
    let request = sdk::FlushRequest::builder()
        .collection_names([&library.collection])
        .build()?;
    library.stores.milvus.flush(request).await?;
    loop {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(&library.collection)
            .field_name("vector")
            .build()?;
        let answer = library.stores.milvus.describe_index(request).await?;
        let index = answer.indexes().first().context("an index")?;
        if index.get_pending_rows() == 0 && index.get_state() == sdk::IndexStateCode::Finished {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
