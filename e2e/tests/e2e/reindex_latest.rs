//! What is written until the last moment before a rebuilt collection takes its place.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::milvus_admin;
use layra_e2e::rebuild::{Library, Reindex};
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Document, doc};
use tokio::time::Instant;

use crate::reindex::library;
use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);
/// The second look at the old collection comes too late to help.
const NEVER: Duration = Duration::from_mins(10);

/// Adds files until the new collection serves. Copying is limited to three times the rate.
async fn write_until_swapped(library: &Library, files: &mut BTreeMap<String, usize>) -> Result<()> {
    let documents = library.stores.mongodb.collection::<Document>("files");
    let end = Instant::now() + 2 * MINUTE;
    for number in 0.. {
        ensure!(Instant::now() < end, "it is not swapped");
        let file = format!("{}_live{number}", library.knowledge_base);
        if library.add(&file, 2, &library.collection).await.is_ok() {
            files.insert(file, 2);
        } else {
            // The name is missing for a moment.
            documents.delete_one(doc! { "file_id": &file }).await?;
        }
        let state = library.rebuild().await?;
        if state.is_some_and(|state| state.get_str("phase").ok() == Some("settling")) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_written_until_the_swap_is_found_soon_after_it() -> Result<()> {
    on_stage("reindex-latest", async |stage| {
        let mut files = BTreeMap::new();
        let library = library(stage, &mut files).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let run = Reindex::start(&cli, &library.collection, NEVER)?;
        write_until_swapped(&library, &mut files).await?;
        // Milvus' proxies remember the nodes of the old collection for three seconds.
        tokio::time::sleep(Duration::from_secs(4)).await;
        eventually("every page once", MINUTE, async || {
            Ok(library.violations(&files).await?.is_empty().then_some(()))
        })
        .await?;
        ensure!(library.index_m().await? == "24", "it was not rebuilt");
        run.kill()?;

        let state = library.rebuild().await?.context("a state")?;
        let old = format!("layra_reindex_{}_old", state.get_str("token")?);
        let milvus = &library.stores.milvus;
        milvus_admin::drop(milvus, &old).await?;
        milvus_admin::drop(milvus, &library.collection).await?;
        let rebuilds = library
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        rebuilds
            .delete_one(doc! { "_id": &library.collection })
            .await?;
        Ok(())
    })
    .await
}
