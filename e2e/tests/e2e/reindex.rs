//! Rebuilds of a collection beside the one that serves: killed, and disturbed by writes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::rebuild::{Library, Reindex};
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{milvus_admin, pdf};
use milvus::v2::prelude::{HasCollectionRequest, ListCollectionsRequest, RenameCollectionRequest};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;
use uuid::Uuid;

use crate::order::{paced, wait_state, without_workers};
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
/// How long a request may be in flight, here: the servers are local.
pub(crate) const LATE_WRITES: Duration = Duration::from_secs(3);

/// A collection with LAYRA's index (M 16), and files of two pages. The object asks for M 24.
pub(crate) async fn library(stage: &Stage, files: &mut BTreeMap<String, usize>) -> Result<Library> {
    let patch = json!({"spec": {
        "stores": {"milvus": {
            "index": {"m": 24, "efConstruction": 100},
            "rebuild": {"vectorsPerSecond": 2000},
        }},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    stage.apply_until_ready(&patch).await?;
    let user = stage.user().await?;
    let library = Library {
        stores: stage.stores.clone(),
        collection: format!("colqwen{}", user.knowledge_base.replace('-', "_")),
        knowledge_base: user.knowledge_base,
        dimensions: 8,
        rows: 100,
    };
    milvus_admin::create_like_layra(&stage.stores.milvus, &library.collection, 8).await?;
    for number in 0..30 {
        add(&library, files, number, &library.collection).await?;
    }
    Ok(library)
}

fn name(library: &Library, number: usize) -> String {
    format!("{}_{number}", library.knowledge_base)
}

pub(crate) async fn add(
    library: &Library,
    files: &mut BTreeMap<String, usize>,
    number: usize,
    collection: &str,
) -> Result<()> {
    let file = name(library, number);
    library.add(&file, 2, collection).await?;
    files.insert(file, 2);
    Ok(())
}

async fn delete(
    library: &Library,
    files: &mut BTreeMap<String, usize>,
    number: usize,
) -> Result<()> {
    let file = name(library, number);
    library.delete(&file).await?;
    files.remove(&file);
    Ok(())
}

/// Waits until the state of the rebuild is as wanted.
pub(crate) async fn wait_for(
    library: &Library,
    what: &str,
    wanted: impl Fn(&Document) -> bool,
) -> Result<Document> {
    eventually(what, MINUTE, async || {
        Ok(library.rebuild().await?.filter(|rebuild| wanted(rebuild)))
    })
    .await
}

pub(crate) async fn check(
    stage: &Stage,
    library: &Library,
    files: &BTreeMap<String, usize>,
) -> Result<()> {
    let violations = library.violations(files).await?;
    ensure!(violations.is_empty(), "{violations:#?}");
    ensure!(library.index_m().await? == "24");
    ensure!(library.rebuild().await?.is_none(), "its state is left");
    let request = ListCollectionsRequest::builder().build()?;
    let answer = stage.stores.milvus.list_collections(request).await?;
    // Other tests may rebuild theirs.
    let ours = answer.collection_names().iter();
    ensure!(ours.filter(|name| **name == library.collection).count() == 1);
    milvus_admin::drop(&stage.stores.milvus, &library.collection).await
}

#[tokio::test]
async fn a_rebuild_that_is_killed_twice_loses_and_doubles_nothing() -> Result<()> {
    on_stage("reindex", async |stage| {
        let mut files = BTreeMap::new();
        let library = library(stage, &mut files).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;

        let run = Reindex::start(&cli, &library.collection, LATE_WRITES)?;
        let began = wait_for(&library, "some rows to be copied", |rebuild| {
            rebuild.get_i64("copied").is_ok_and(|copied| copied > 0)
        })
        .await?;
        let progress = run.progress().await?;
        ensure!(progress.rebuilding == 1, "{progress:?}");
        run.kill()?;
        delete(&library, &mut files, 0).await?;
        delete(&library, &mut files, 29).await?;
        add(&library, &mut files, 30, &library.collection).await?;

        let run = Reindex::start(&cli, &library.collection, LATE_WRITES)?;
        wait_for(&library, "the new collection to serve", |rebuild| {
            rebuild.get_str("phase").ok() == Some("settling")
        })
        .await?;
        run.kill()?;
        let token = began.get_str("token")?;
        let old = format!("layra_reindex_{token}_old");
        // A write that was in flight during the swap, and writes after it.
        add(&library, &mut files, 31, &old).await?;
        add(&library, &mut files, 32, &library.collection).await?;
        delete(&library, &mut files, 1).await?;

        let run = Reindex::start(&cli, &library.collection, LATE_WRITES)?;
        run.finish(MINUTE, &cli).await?;
        check(stage, &library, &files).await
    })
    .await
}

pub(crate) async fn rename(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let request = RenameCollectionRequest::builder()
        .collection_name(from)
        .new_collection_name(to)
        .build()?;
    Ok(stage.stores.milvus.rename_collection(request).await?)
}

#[tokio::test]
async fn a_worker_waits_while_its_collection_is_swapped() -> Result<()> {
    on_stage("moving", async |stage| {
        without_workers(stage).await?;
        let user = stage.user().await?;
        let collection = format!("colqwen{}", user.knowledge_base.replace('-', "_"));
        let away = format!("layra_reindex_{}_old", Uuid::new_v4().simple());
        let cli = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&cli, 1)?;
        let first = user
            .upload_bytes("first.pdf", pdf::with_pages(&["One."]))
            .await?;
        wait_state(stage, &first.file_id, "done").await?;

        let rebuilds = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        let state = doc! {
            "_id": &collection, "phase": "swapping", "token": "0", "old_id": 1_i64,
            "started_at": DateTime::now(),
        };
        rebuilds.insert_one(state).await?;
        rename(stage, &collection, &away).await?;
        let second = user
            .upload_bytes("second.pdf", pdf::with_pages(&["Two."]))
            .await?;
        wait_state(stage, &second.file_id, "working").await?;
        // Long enough to create a collection, or to give up.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let request = HasCollectionRequest::builder()
            .collection_name(&collection)
            .build()?;
        let created = stage.stores.milvus.has_collection(request).await?.exists();
        rename(stage, &away, &collection).await?;
        let filter = doc! { "_id": &collection };
        let update = doc! { "$set": { "phase": "settling" } };
        rebuilds.update_one(filter.clone(), update).await?;
        ensure!(!created, "the worker created the collection");

        wait_state(stage, &second.file_id, "done").await?;
        rebuilds.delete_one(filter).await?;
        stage.wait_until_processed().await?;
        fleet.stop().await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 2, "{audit:?}");
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(letters.is_empty(), "{letters:#?}");
        Ok(())
    })
    .await
}
