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

use super::{MINUTE, collection_of};
use crate::cluster::Scene;
use crate::layra::{User, random_id};
use crate::milvus_admin;
use crate::rebuild::{Library, Reindex, image};
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Vectors of a page, and pages of a file.
const ROWS: usize = 100;
const PAGES: usize = 10;
const DIMENSIONS: usize = 128;
const QUESTIONS: usize = 50;
/// Hits that are compared with the exact ones.
const TOP: usize = 10;
/// Between two files that are added.
const PAUSE: Duration = Duration::from_millis(250);

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct ReindexPlan {
    /// Vectors of the collection at the beginning.
    pub vectors: usize,
    /// How often the rebuild is killed, at moments of chance.
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

    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (searches, writes, took) = tokio::try_join!(
        search(&library, &questions, &stop),
        write(&library, &stop),
        async {
            let result = rebuild(&library, &cli, plan.kills).await;
            let took = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            result.map(|()| took)
        }
    )?;
    let after = mean(&recalls(&library, &questions).await?);
    files.extend(writes.added);
    let violations = library.violations(&files).await?;
    println!(
        "rebuilt in {took:.1?}, killed {} times, M {}",
        plan.kills,
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

/// Rebuilds, and kills the process at moments of chance.
async fn rebuild(library: &Library, cli: &WorkerCli, kills: usize) -> Result<()> {
    let late_writes = Duration::from_secs(10);
    for number in 0..=kills {
        let mut run = Reindex::start(cli, &library.collection, late_writes)?;
        if number == kills {
            return run.finish(60 * MINUTE, cli).await;
        }
        let moment = Duration::from_secs_f64(1.0 + fastrand::f64() * 30.0);
        tokio::time::sleep(moment).await;
        if run.ended()?.is_some() {
            println!("it ended before kill {}", number + 1);
            return run.finish(MINUTE, cli).await;
        }
        let phase = library.rebuild().await?;
        let phase = phase.and_then(|state| state.get_str("phase").ok().map(str::to_owned));
        println!("kill {}: {phase:?}", number + 1);
        run.kill()?;
    }
    Ok(())
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

/// Adds files, and deletes each third of them again.
async fn write(library: &Library, stop: &AtomicBool) -> Result<Writes> {
    let mut writes = Writes::default();
    while !stop.load(Ordering::Relaxed) {
        let file = format!("{}_live{}", library.knowledge_base, writes.inserts);
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
        writes.added.insert(file, 1);
        writes.inserts += 1;
        if writes.inserts.is_multiple_of(3) {
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
    let live = format!("{}_live", library.knowledge_base);
    let first = hits
        .into_iter()
        .filter(|(image, _)| !image.starts_with(&live));
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
