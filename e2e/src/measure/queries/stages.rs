//! The stages of searches in a large collection of vectors that have no meaning.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use milvus::v2::prelude as sdk;
use mongodb::bson::{Bson, Document, doc};
use serde::Serialize;
use serde_json::{Value, json};

use super::Quantiles;
use super::server::Server;
use crate::layra::random_id;
use crate::measure::collection_of;
use crate::milvus_admin;
use crate::rebuild::{Library, image};
use crate::stores::Stores;

/// Width of the test-bed's model.
const DIMENSIONS: u32 = 384;
/// Vectors of a page, and pages of a file.
const ROWS: usize = 100;
const PAGES: usize = 10;
const SEARCHES: usize = 200;
/// Of an answer's `explain`; `candidates` and `compare` are in its knowledge base.
const STAGES: [&str; 6] = [
    "total",
    "embed",
    "candidates",
    "compare",
    "check",
    "snippet",
];

/// The searches of one collection.
#[derive(Debug, Serialize)]
pub(super) struct LargeCollection {
    vectors: usize,
    pages: usize,
    searches: usize,
    fill_seconds: f64,
    index_seconds: f64,
    stages: Vec<Stage>,
}

#[derive(Debug, Serialize)]
struct Stage {
    stage: &'static str,
    #[serde(flatten)]
    times: Quantiles,
}

/// Fills a collection, searches it one question after the other, and drops it.
pub(super) async fn measure(
    stores: &Stores,
    server: &Server,
    questions: &[String],
    vectors: usize,
) -> Result<LargeCollection> {
    let knowledge_base = format!("queries_{}", random_id());
    let library = Library {
        stores: stores.clone(),
        collection: collection_of(&knowledge_base),
        knowledge_base,
        dimensions: usize::try_from(DIMENSIONS)?,
        rows: ROWS,
    };
    let measured = searches(&library, server, questions, vectors).await;
    milvus_admin::drop(&stores.milvus, &library.collection).await?;
    let base = &library.knowledge_base;
    let database = &stores.mongodb;
    let files = database.collection::<Document>("files");
    files.delete_many(doc! { "knowledge_db_id": base }).await?;
    let bases = database.collection::<Document>("knowledge_bases");
    bases.delete_one(doc! { "knowledge_base_id": base }).await?;
    measured
}

async fn searches(
    library: &Library,
    server: &Server,
    questions: &[String],
    vectors: usize,
) -> Result<LargeCollection> {
    let base = &library.knowledge_base;
    let database = &library.stores.mongodb;
    let bases = database.collection::<Document>("knowledge_bases");
    bases
        .insert_one(doc! { "knowledge_base_id": base, "knowledge_base_name": base })
        .await?;
    milvus_admin::create_like_layra(&library.stores.milvus, &library.collection, DIMENSIONS)
        .await?;
    let files = (vectors / (ROWS * PAGES)).max(1);
    println!("\n{vectors} vectors: filling {files} files of {PAGES} pages");
    let began = Instant::now();
    for number in 0..files {
        add(library, &format!("{base}_{number}")).await?;
    }
    let fill_seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    wait_for_index(library).await?;
    let index_seconds = began.elapsed().as_secs_f64();
    println!("filled in {fill_seconds:.0} s, indexed in {index_seconds:.0} s more");

    let mut times: Vec<Vec<f64>> = vec![Vec::new(); STAGES.len()];
    for number in 0..SEARCHES {
        let question = format!("{} ({number})", questions[number % questions.len()]);
        let search = json!({ "question": question, "knowledge_bases": [base], "explain": true });
        let answer = server.search(&search).await?;
        let explain = &answer["explain"];
        let of_base = &explain["knowledge_bases"][0];
        ensure!(of_base["cached"] == false, "{explain}");
        ensure!(
            answer["pages"][0].is_object(),
            "no page was found: {answer}"
        );
        for (stage, times) in STAGES.iter().zip(&mut times) {
            let name = format!("{stage}_ms");
            let time = explain.get(&name).or_else(|| of_base.get(&name));
            times.push(time.and_then(Value::as_f64).context(name)?);
        }
    }
    let stages = STAGES.iter().zip(&times);
    Ok(LargeCollection {
        vectors: files * PAGES * ROWS,
        pages: files * PAGES,
        searches: SEARCHES,
        fill_seconds,
        index_seconds,
        stages: stages
            .map(|(stage, times)| Stage {
                stage,
                times: Quantiles::of(times),
            })
            .collect(),
    })
}

/// Adds a file with its pages to both stores.
async fn add(library: &Library, file: &str) -> Result<()> {
    library.add(file, PAGES, &library.collection).await?;
    let images = (0..PAGES).map(|page| {
        let image_id = image(file, page);
        let number = i64::try_from(page + 1).unwrap_or_default();
        Bson::from(doc! {
            "images_id": &image_id, "minio_filename": &image_id, "page_number": number,
        })
    });
    let images: Vec<Bson> = images.collect();
    let entry = doc! { "filename": file, "minio_filename": file, "images": images };
    let files = library.stores.mongodb.collection::<Document>("files");
    files
        .update_one(doc! { "file_id": file }, doc! { "$set": entry })
        .await?;
    Ok(())
}

async fn wait_for_index(library: &Library) -> Result<()> {
    let milvus = &library.stores.milvus;
    milvus_admin::flush(milvus, &library.collection).await?;
    loop {
        let request = sdk::DescribeIndexRequest::builder()
            .collection_name(&library.collection)
            .field_name("vector")
            .build()?;
        let answer = milvus.describe_index(request).await?;
        let index = answer.indexes().first().context("an index")?;
        if index.get_pending_rows() == 0 && index.get_state() == sdk::IndexStateCode::Finished {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub(super) fn print(all: &[LargeCollection]) {
    println!("\n| vectors | pages | stage | P50 ms | P99 ms |");
    println!("|---|---|---|---|---|");
    for it in all {
        for stage in &it.stages {
            println!(
                "| {} | {} | {} | {:.1} | {:.1} |",
                it.vectors, it.pages, stage.stage, stage.times.p50_ms, stage.times.p99_ms
            );
        }
    }
}
