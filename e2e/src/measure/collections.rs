//! `cargo measure collections`: what very many collections cost the operator. LAYRA makes one for each
//! conversation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use layra_crds::IngestionPipelineStatus;
use milvus::v2::prelude::DropIndexRequest;
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::MINUTE;
use crate::cluster::Scene;
use crate::layra::random_id;
use crate::milvus_admin;
use crate::processes::{resident_bytes, with_pid};
use crate::rebuild::Library;
use crate::stores::Stores;

/// Vectors of the page, and their width. The check reads none.
const ROWS: usize = 10;
const DIMENSIONS: u32 = 8;
/// Collections that are created, or dropped, at the same time.
const CONCURRENCY: usize = 4;
/// Collections that the status names.
const MOST_NAMED: usize = 20;

/// Measures, prints the results and drops the collections.
pub async fn run(scene: &Scene, stores: &Stores, count: usize) -> Result<()> {
    ensure!(count > 0, "--collections must be above 0");
    let id = random_id();
    let name = format!("collections-{}", &id[..6]);
    let prefix = format!("collections_{}_", &id[..6]);
    let base = format!("measure_{id}");
    let names: Vec<String> = (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect();
    let started = Instant::now();
    let created = names
        .iter()
        .map(|collection| create(stores, &base, collection));
    let created = futures::stream::iter(created).buffer_unordered(CONCURRENCY);
    let measured = match created.try_collect::<Vec<()>>().await {
        Ok(_) => {
            println!("{count} collections created in {:.0?}", started.elapsed());
            Box::pin(measure(scene, stores, &name, &prefix, &names)).await
        }
        Err(error) => Err(error),
    };
    let dropped = names.iter();
    let dropped = dropped.map(|collection| milvus_admin::drop(&stores.milvus, collection));
    let dropped = futures::stream::iter(dropped).buffer_unordered(CONCURRENCY);
    let dropped: Vec<Result<()>> = dropped.collect().await;
    let files = stores.mongodb.collection::<Document>("files");
    files.delete_many(doc! { "knowledge_db_id": &base }).await?;
    measured?;
    dropped.into_iter().collect()
}

/// A collection with LAYRA's index and one page, not loaded: the check does not need that.
async fn create(stores: &Stores, base: &str, collection: &str) -> Result<()> {
    milvus_admin::create_unloaded(&stores.milvus, collection, DIMENSIONS).await?;
    let library = Library {
        stores: stores.clone(),
        knowledge_base: base.to_owned(),
        collection: collection.to_owned(),
        dimensions: DIMENSIONS as usize,
        rows: ROWS,
    };
    library.add(collection, 1, collection).await
}

async fn measure(
    scene: &Scene,
    stores: &Stores,
    name: &str,
    prefix: &str,
    names: &[String],
) -> Result<()> {
    let before = operator_mib(scene).await?;
    let collection = format!("{prefix}{{knowledge_db_id}}");
    let patch = json!({"spec": {
        "scaling": {"mode": "Manual", "replicas": 0},
        "stores": {"milvus": {"collection": collection}},
    }});
    let applied = Instant::now();
    let object = scene.pipeline(name, &format!("{name}-tasks"), &patch);
    scene.apply(&object).await?;
    let seen = wait_for_drift(scene, name, "all collections", names.len());
    let seen = Box::pin(seen).await?;
    let first_check = applied.elapsed();
    let bytes = serde_json::to_vec(&seen)?.len();
    let listed = seen.drifted_collections.len();
    // Two further turns of the check.
    tokio::time::sleep(2 * MINUTE).await;
    let after = operator_mib(scene).await?;

    let changed = &names[names.len() / 2];
    let request = DropIndexRequest::builder()
        .collection_name(changed)
        .field_name("vector")
        .index_name("vector_index")
        .build()?;
    stores.milvus.drop_index(request).await?;
    milvus_admin::create_index(&stores.milvus, changed, 32).await?;
    let by_hand = Instant::now();
    let seen_again = wait_for_drift(scene, name, "the change by hand", names.len() - 1);
    Box::pin(seen_again).await?;
    println!(
        "collections={} first_check={:.1}s change_seen_in={:.1}s status_bytes={bytes} listed={listed} \
         operator_mib={before}->{after}",
        names.len(),
        first_check.as_secs_f32(),
        by_hand.elapsed().as_secs_f32()
    );
    ensure!(
        listed <= MOST_NAMED,
        "the status names {listed} collections"
    );
    Ok(())
}

/// Waits until the status counts so many drifted collections.
async fn wait_for_drift(
    scene: &Scene,
    name: &str,
    what: &str,
    drifted: usize,
) -> Result<IngestionPipelineStatus> {
    let drifted = i64::try_from(drifted)?;
    let limit = Duration::from_mins(10);
    let pipeline = scene
        .wait_status(name, what, limit, |status| {
            let index = status.index.as_ref();
            index.is_some_and(|index| index.drifted == drifted)
        })
        .await?;
    pipeline.status.context("a status")
}

/// Resident memory of the operator.
async fn operator_mib(scene: &Scene) -> Result<u64> {
    let pid = scene.operator_process().await?.context("the operator")?;
    Ok(resident_bytes(&with_pid(pid)?.status()?) >> 20)
}
