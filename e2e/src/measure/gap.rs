//! `cargo measure gap`: for how long a knowledge base is not found while a rebuild puts its new
//! collection in place, seen by clients that never pause.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use layra_testbed::Testbed;
use milvus::v2::prelude as sdk;
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{MINUTE, collection_of};
use crate::cluster::Scene;
use crate::layra::{User, random_id};
use crate::milvus_admin;
use crate::rebuild::{Library, Reindex, image};
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Files of a collection, of one page each.
const FILES: usize = 30;
const ROWS: usize = 100;
const DIMENSIONS: usize = 128;
/// How long a request may be in flight, here: the servers are local.
const LATE_WRITES: Duration = Duration::from_secs(5);

/// What a client saw of one swap.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    answered: u64,
    /// Requests that found no collection.
    failed: u64,
    /// Searches whose answer lacked a page that was there before.
    poorer: u64,
    /// From the last answer before the first failure to the next answer.
    gap: Duration,
}

/// Measures so many swaps, and prints the results.
pub async fn run(testbed: &Testbed, scene: &Scene, stores: &Stores, swaps: usize) -> Result<()> {
    ensure!(swaps > 0, "--swaps must be above 0");
    let name = format!("gap-{}", &random_id()[..6]);
    let topic = format!("{name}-tasks");
    // LAYRA's collections have M 16.
    let patch = json!({"spec": {
        "stores": {"milvus": {"index": {"m": 24, "efConstruction": 100}}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let (mut asked, mut searched) = (Vec::new(), Vec::new());
    let mut violations = Vec::new();
    for number in 1..=swaps {
        let user = User::with_knowledge_base(stores, &topic, "measure", &random_id()).await?;
        let library = Library {
            stores: stores.clone(),
            collection: collection_of(&user.knowledge_base),
            knowledge_base: user.knowledge_base,
            dimensions: DIMENSIONS,
            rows: ROWS,
        };
        let swap = Box::pin(swap(&library, &cli)).await;
        milvus_admin::drop(&stores.milvus, &library.collection).await?;
        let files = stores.mongodb.collection::<Document>("files");
        files
            .delete_many(doc! { "knowledge_db_id": &library.knowledge_base })
            .await?;
        let (exists, search, wrong) = swap?;
        println!(
            "swap {number}: not there for {:.1} ms, not searched for {:.1} ms, {} of {} searches \
             failed, {} were poorer",
            milliseconds(exists.gap),
            milliseconds(search.gap),
            search.failed,
            search.failed + search.answered,
            search.poorer,
        );
        asked.push(exists.gap);
        searched.push(search);
        violations.extend(wrong);
    }
    let gaps: Vec<Duration> = searched.iter().map(|search| search.gap).collect();
    let failed: u64 = searched.iter().map(|search| search.failed).sum();
    let poorer: u64 = searched.iter().map(|search| search.poorer).sum();
    for (what, gaps) in [("has_collection is false", asked), ("searches fail", gaps)] {
        let (median, worst) = median_and_worst(gaps);
        println!(
            "{what}: median {:.1} ms, worst {:.1} ms of {swaps} swaps",
            milliseconds(median),
            milliseconds(worst)
        );
    }
    println!(
        "searches failed {failed}, poorer {poorer}; pages missing or doubled {}",
        violations.len()
    );
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

/// Rebuilds one collection. Returns what the clients saw, and the pages that are wrong in the end.
async fn swap(library: &Library, cli: &WorkerCli) -> Result<(Seen, Seen, Vec<String>)> {
    let milvus = &library.stores.milvus;
    milvus_admin::create_like_layra(milvus, &library.collection, 128).await?;
    let mut files = BTreeMap::new();
    for number in 0..FILES {
        let file = format!("{}_{number}", library.knowledge_base);
        library.add(&file, 1, &library.collection).await?;
        files.insert(file, 1);
    }
    let stop = AtomicBool::new(false);
    let rebuilt = async {
        let run = Reindex::start(cli, &library.collection, LATE_WRITES)?;
        let ended = run.finish(5 * MINUTE, cli).await;
        stop.store(true, Ordering::Relaxed);
        ended
    };
    let (exists, search, added, ()) = tokio::try_join!(
        watch(&stop, async || is_there(library).await),
        watch(&stop, async || finds_all(library).await),
        write(library, &stop),
        rebuilt,
    )?;
    files.extend(added);
    ensure!(library.index_m().await? == "24", "it was not rebuilt");
    Ok((exists, search, library.violations(&files).await?))
}

/// Asks without a pause. The answer is whether everything was found, and `None` if the collection
/// was not.
async fn watch(stop: &AtomicBool, ask: impl AsyncFn() -> Option<bool>) -> Result<Seen> {
    let mut seen = Seen::default();
    let (mut last, mut failing_since) = (Instant::now(), None);
    while !stop.load(Ordering::Relaxed) {
        if let Some(is_complete) = ask().await {
            let now = Instant::now();
            if let Some(since) = failing_since.take() {
                seen.gap += now.duration_since(since);
            }
            last = now;
            seen.answered += 1;
            seen.poorer += u64::from(!is_complete);
        } else {
            seen.failed += 1;
            failing_since.get_or_insert(last);
        }
    }
    Ok(seen)
}

/// As LAYRA asks before it searches.
async fn is_there(library: &Library) -> Option<bool> {
    let request = sdk::HasCollectionRequest::builder()
        .collection_name(&library.collection)
        .build()
        .ok()?;
    let answer = library.stores.milvus.has_collection(request).await.ok()?;
    answer.exists().then_some(true)
}

/// Searches for a vector of the first file, which no page is nearer to than its own.
async fn finds_all(library: &Library) -> Option<bool> {
    let file = format!("{}_0", library.knowledge_base);
    let request = sdk::SearchRequest::builder()
        .collection_name(&library.collection)
        .vector_field("vector")
        .vectors(sdk::SearchVectors::Float(vec![library.vector(&file, 0, 0)]))
        .metric_type(sdk::MetricType::Ip)
        .output_fields(["image_id"])
        .limit(5)
        .build()
        .ok()?;
    let answer = library.stores.milvus.search(request).await.ok()?;
    let wanted = image(&file, 0);
    let mut results = answer.results().get_results().iter();
    Some(results.any(|result| {
        matches!(
            result.get_output_field("image_id"),
            Some(sdk::FieldData::VarChar { values, .. }) if values.contains(&wanted)
        )
    }))
}

/// Adds a file every 50 ms. As a worker does, it repeats a write while the name is missing.
async fn write(library: &Library, stop: &AtomicBool) -> Result<BTreeMap<String, usize>> {
    let documents = library.stores.mongodb.collection::<Document>("files");
    let (mut added, mut repeated) = (BTreeMap::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let file = format!("{}_live{}", library.knowledge_base, added.len());
        while let Err(error) = library.add(&file, 1, &library.collection).await {
            repeated += 1;
            ensure!(repeated < 1000, "adding a file: {error:#}");
            documents.delete_one(doc! { "file_id": &file }).await?;
        }
        added.insert(file, 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(added)
}

fn median_and_worst(mut gaps: Vec<Duration>) -> (Duration, Duration) {
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    (median, gaps.last().copied().unwrap_or_default())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn the_gap_is_the_time_without_an_answer() {
        let stop = AtomicBool::new(false);
        let answers = RefCell::new(vec![Some(true), None, None, Some(false), Some(true)]);
        let seen = watch(&stop, async || {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answer = answers.borrow_mut().remove(0);
            stop.store(answers.borrow().is_empty(), Ordering::Relaxed);
            answer
        });
        let seen = seen.await.unwrap();
        assert_eq!((seen.answered, seen.failed, seen.poorer), (3, 2, 1));
        assert!(seen.gap >= Duration::from_millis(15), "{:?}", seen.gap);
    }

    #[test]
    fn the_median_and_the_worst_are_told_apart() {
        let gaps = [9, 3, 100].map(Duration::from_millis).to_vec();
        let found = median_and_worst(gaps);
        assert_eq!(
            found,
            (Duration::from_millis(9), Duration::from_millis(100))
        );
    }
}
