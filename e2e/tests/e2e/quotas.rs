//! Quotas: documents wait for room in Milvus and go on by themselves, and nothing becomes a dead
//! letter. Missing indexes of MongoDB are created where that is asked for.

use std::time::Duration;

use anyhow::{Result, ensure};
use layra_crds::IngestionPipelineStatus;
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::User;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use crate::order::{entry, paced, wait_state};
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Collections that no other test has: their vectors would count too.
fn template(stage: &Stage) -> String {
    format!("{}_{{knowledge_db_id}}", stage.name.replace('-', "_"))
}

fn with_quotas(stage: &Stage, quotas: &Value) -> Value {
    json!({"spec": {"stores": {"milvus": {
        "collection": template(stage), "quotas": quotas,
    }}}})
}

async fn audit(stage: &Stage, user: &User) -> Result<Audit> {
    let id = user.knowledge_base.replace('-', "_");
    let collection = template(stage).replace("{knowledge_db_id}", &id);
    Audit::of(&stage.stores, &user.knowledge_base, &collection).await
}

fn ensure_no_dead_letters(stage: &Stage) -> Result<()> {
    let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
    ensure!(letters.is_empty(), "{letters:#?}");
    Ok(())
}

/// A worker with a paced embedder stores one vector for each page.
#[tokio::test]
async fn documents_of_a_full_knowledge_base_wait_and_hold_up_no_others() -> Result<()> {
    on_stage("full", async |stage| {
        let mut object = with_quotas(stage, &json!({"perKnowledgeBase": {"vectors": 3}}));
        object["spec"]["scaling"] = json!({"mode": "Manual", "replicas": 0});
        stage.apply_until_ready(&object).await?;
        let (full, other) = (
            stage.user_called("alice").await?,
            stage.user_called("bob").await?,
        );
        let worker = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&worker, 1)?;

        let pages = pdf::with_pages(&["One.", "Two.", "Three."]);
        let first = full.upload_bytes("first.pdf", pages.clone()).await?;
        wait_state(stage, &first.file_id, "done").await?;
        let waiting = full.upload_bytes("waiting.pdf", pages).await?;
        let one = pdf::with_pages(&["One."]);
        let passes = other.upload_bytes("passes.pdf", one).await?;
        wait_state(stage, &passes.file_id, "done").await?;
        // Its message is committed: it is in no other's way.
        stage.wait_until_processed().await?;
        let parked = wait_state(stage, &waiting.file_id, "working").await?;
        ensure!(parked.get_datetime("no_room_since").is_ok(), "{parked:#?}");
        ensure!(audit(stage, &full).await?.vectors == 3);

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let base = full.knowledge_base.as_str();
        cli.run(&["delete", "--knowledge-base", base, "--file", &first.file_id])
            .await?;
        let done = wait_state(stage, &waiting.file_id, "done").await;
        if done.is_err() {
            eprintln!("{}", fleet.logs());
        }
        ensure!(
            done?
                .get("no_room_since")
                .is_none_or(|it| *it == Bson::Null)
        );
        fleet.stop().await?;
        let found = audit(stage, &full).await?;
        ensure!(found.violations.is_empty(), "{:#?}", found.violations);
        ensure!(found.vectors == 3, "{found:?}");
        ensure_no_dead_letters(stage)
    })
    .await
}

#[tokio::test]
async fn a_full_pipeline_waits_with_a_reason_and_goes_on_with_a_raised_quota() -> Result<()> {
    on_stage("quota", async |stage| {
        stage
            .apply_until_ready(&with_quotas(stage, &json!({"vectors": 1})))
            .await?;
        let user = stage.user().await?;
        let one = || pdf::with_pages(&["A page with a sentence."]);
        let first = user.upload_bytes("first.pdf", one()).await?;
        wait_state(stage, &first.file_id, "done").await?;
        let is_reached = |status: &IngestionPipelineStatus| {
            condition(status, "VectorStoreReady")
                .is_some_and(|it| it.status == "False" && it.reason == "QuotaReached")
        };
        let scene = &stage.scene;
        scene
            .wait_status(&stage.name, "the quota to be reached", MINUTE, is_reached)
            .await?;
        let second = user.upload_bytes("second.pdf", one()).await?;
        let is_held = |status: &IngestionPipelineStatus| {
            let scaling = status.scaling.as_ref();
            let limits = scaling.map(|scaling| scaling.limits.clone());
            status.lag == Some(1) && limits == Some(vec!["QuotaReached".to_owned()])
        };
        scene
            .wait_status(&stage.name, "one worker that waits", MINUTE, is_held)
            .await?;
        ensure!(entry(stage, &second.file_id).await?.is_none(), "not begun");

        let raised = with_quotas(stage, &json!({"vectors": 1000}));
        scene.apply(&stage.pipeline(&raised)).await?;
        wait_state(stage, &second.file_id, "done").await?;
        scene
            .wait_condition(&stage.name, "VectorStoreReady", "True", "", MINUTE)
            .await?;
        let found = audit(stage, &user).await?;
        ensure!(found.violations.is_empty(), "{:#?}", found.violations);
        ensure_no_dead_letters(stage)
    })
    .await
}

#[tokio::test]
async fn missing_indexes_are_created_where_the_object_asks_for_it() -> Result<()> {
    on_stage("indexes", async |stage| {
        let database = format!("{}-db", stage.name);
        let patch = json!({"spec": {
            "stores": {"mongodb": {"database": database, "manageIndexes": true}},
            "scaling": {"mode": "Manual", "replicas": 0},
        }});
        stage.apply_until_ready(&patch).await?;
        let mongodb = stage.stores.mongodb.client().database(&database);
        mongodb
            .collection::<Document>("files")
            .insert_one(doc! { "file_id": "f", "knowledge_db_id": "k" })
            .await?;
        let worker = paced(stage, "1").await?;
        let mut fleet = Fleet::start(&worker, 1)?;
        eventually("the indexes", MINUTE, async || {
            let names = mongodb
                .collection::<Document>("files")
                .list_index_names()
                .await?;
            let has = |wanted: &str| names.iter().any(|name| name == wanted);
            Ok((has("unique_file_id") && has("kb_file_query")).then_some(()))
        })
        .await?;
        fleet.stop().await?;
        mongodb.drop().await?;
        Ok(())
    })
    .await
}
