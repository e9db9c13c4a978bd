//! Knowledge bases take turns: many files of one do not hold up a file of another.

use anyhow::{Result, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::User;
use layra_e2e::pdf;
use mongodb::bson::{Document, doc};

use crate::order::{paced, wait_state, without_workers};
use crate::scene::{Stage, on_stage};

/// Files of the knowledge base that has many.
const MANY: u32 = 60;
/// Partitions of the topic.
const PARTITIONS: i32 = 4;
/// The most documents that a worker has in progress.
const IN_PROGRESS: u64 = 9;

/// Documents of a knowledge base in the ledger: all, or those in one state.
async fn count(stage: &Stage, user: &User, only: Option<&str>) -> Result<u64> {
    let mut filter = doc! { "knowledge_db_id": &user.knowledge_base };
    if let Some(state) = only {
        filter.insert("state", state);
    }
    let ledger = stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_ledger");
    Ok(ledger.count_documents(filter).await?)
}

/// The single file is the last one in its partition. When the worker dies, its offset is not
/// committed: it is delivered again, together with tasks that were read and never begun.
#[tokio::test]
async fn a_single_file_overtakes_another_knowledge_bases_many_files() -> Result<()> {
    on_stage("fair", async |stage| {
        without_workers(stage).await?;
        let many = stage.user_called("alice").await?;
        let many = many.using_partitions_in_turn(PARTITIONS);
        let single = stage.user_called("bob").await?;
        let send = |number: u32| {
            let many = &many;
            async move {
                let content = pdf::with_pages(&["One of many."]);
                many.upload_bytes(&format!("{number}.pdf"), content).await
            }
        };
        futures::stream::iter(0..MANY)
            .map(send)
            .buffer_unordered(8)
            .try_collect::<Vec<_>>()
            .await?;
        let content = pdf::with_pages(&["The only one."]);
        let file = single.upload_bytes("single.pdf", content).await?;

        let worker = paced(stage, "250").await?;
        let mut fleet = Fleet::start(&worker, 1)?;
        let done = wait_state(stage, &file.file_id, "done").await;
        if done.is_err() {
            eprintln!("{}", fleet.logs());
        }
        done?;
        let before = count(stage, &many, Some("done")).await?;
        ensure!(before < u64::from(MANY / 2), "{before} came before");
        fleet.kill(0)?;
        drop(fleet);
        let begun = count(stage, &many, None).await?;
        let done = count(stage, &many, Some("done")).await?;
        ensure!(begun <= done + IN_PROGRESS, "{begun} begun, {done} done");

        let worker = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&worker, 1)?;
        let processed = stage.wait_until_processed().await;
        if processed.is_err() {
            eprintln!("{}", fleet.logs());
        }
        processed?;
        fleet.stop().await?;
        for (user, files) in [(&many, MANY), (&single, 1)] {
            let audit = stage.audit(user).await?;
            ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
            ensure!(audit.vectors == u64::from(files), "{audit:?}");
        }
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(letters.is_empty(), "{letters:#?}");
        Ok(())
    })
    .await
}
