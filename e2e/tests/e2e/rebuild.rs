//! Collections get the index of the spec: new ones, and existing ones while documents are ingested or
//! in their window.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use layra_crds::IngestionPipelineStatus;
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::layra::User;
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{milvus_admin, pdf};
use milvus::v2::prelude::{DescribeIndexRequest, IndexDesc, IndexType};
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// The pipeline's own collections, with a worker from the start.
fn patch(stage: &Stage, index: &Value, more: &Value) -> Value {
    let collection = format!("{}_{{knowledge_db_id}}", prefix(stage));
    let mut milvus = json!({"collection": collection, "index": index});
    for (key, value) in more.as_object().into_iter().flatten() {
        milvus[key] = value.clone();
    }
    json!({"spec": {"scaling": {"minReplicas": 1}, "stores": {"milvus": milvus}}})
}

fn prefix(stage: &Stage) -> String {
    stage.name.replace('-', "_")
}

fn collection(stage: &Stage, user: &User) -> String {
    let base = user.knowledge_base.replace('-', "_");
    format!("{}_{base}", prefix(stage))
}

async fn index(stage: &Stage, collection: &str) -> Result<IndexDesc> {
    let request = DescribeIndexRequest::builder()
        .collection_name(collection)
        .field_name("vector")
        .build()?;
    let answer = stage.stores.milvus.describe_index(request).await?;
    answer.indexes().first().cloned().context("an index")
}

fn number(index: &IndexDesc, name: &str) -> Result<u32> {
    let value = index.get_extra_params().get(name).context("a parameter")?;
    Ok(value.parse()?)
}

/// `M` and `efConstruction` of a collection's index.
async fn index_of(stage: &Stage, collection: &str) -> Result<(u32, u32)> {
    let index = index(stage, collection).await?;
    Ok((number(&index, "M")?, number(&index, "efConstruction")?))
}

fn index_reason(status: &IngestionPipelineStatus) -> &str {
    condition(status, "VectorStoreReady").map_or("", |condition| condition.reason.as_str())
}

fn drifted(status: &IngestionPipelineStatus) -> i64 {
    status.index.as_ref().map_or(-1, |index| index.drifted)
}

async fn has_event(stage: &Stage, reason: &str) -> Result<bool> {
    let events = stage.scene.api::<Event>();
    let events = events.list(&ListParams::default()).await?;
    Ok(events.iter().any(|event| {
        let regarding = event.regarding.as_ref().and_then(|it| it.name.as_deref());
        event.reason.as_deref() == Some(reason) && regarding == Some(stage.name.as_str())
    }))
}

#[tokio::test]
async fn other_types_of_index_are_created_and_searched() -> Result<()> {
    on_stage("types", async |stage| {
        let flat = patch(stage, &json!({"type": "FLAT"}), &json!({}));
        let clusters = patch(stage, &json!({"type": "IVF_FLAT", "nlist": 16}), &json!({}));
        for (kind, patch) in [(IndexType::Flat, flat), (IndexType::IvfFlat, clusters)] {
            stage.apply_until_ready(&patch).await?;
            let user = stage.user().await?;
            let pages = pdf::with_pages(&["The annual report.", "A recipe for soup."]);
            let upload = user.upload_bytes("pages.pdf", pages).await?;
            stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;
            let name = collection(stage, &user);
            let found = index(stage, &name).await?;
            ensure!(found.get_index_type() == kind, "{found:?}");
            if kind == IndexType::IvfFlat {
                ensure!(number(&found, "nlist")? == 16, "{found:?}");
            }
            let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
            let hits = cli.search("soup", &user.knowledge_base, 2).await?;
            ensure!(hits.len() == 2, "{kind:?}: {hits:?}");
            milvus_admin::drop(&stage.stores.milvus, &name).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn another_preset_reaches_every_collection_while_documents_flow_in() -> Result<()> {
    on_stage("preset", async |stage| {
        let policy = json!({"onIndexDrift": "RebuildBeside"});
        let balanced = patch(stage, &json!({"preset": "Balanced"}), &policy);
        stage.apply_until_ready(&balanced).await?;
        let user = stage.user().await?;
        let pages = pdf::with_pages(&["The first page.", "The second page."]);
        let first = user.upload_bytes("before.pdf", pages.clone()).await?;
        stage.wait_tasks(&[first], "completed", 2 * MINUTE).await?;
        let name = collection(stage, &user);
        ensure!(index_of(stage, &name).await? == (16, 300), "Balanced");

        let accurate = patch(stage, &json!({"preset": "Accurate"}), &policy);
        stage.scene.apply(&stage.pipeline(&accurate)).await?;
        let meanwhile = user.upload_bytes("meanwhile.pdf", pages.clone()).await?;
        stage
            .scene
            .wait_status(&stage.name, "the rebuild", MINUTE, |status| {
                index_reason(status) == "Rebuilding"
            })
            .await?;
        let late = user.upload_bytes("late.pdf", pages).await?;
        let pipeline = stage
            .scene
            .wait_status(&stage.name, "no drift", 3 * MINUTE, |status| {
                let done = status.index.as_ref().map_or(0, |index| index.done);
                drifted(status) == 0 && done == 1
            })
            .await?;
        let index = pipeline.status.and_then(|status| status.index);
        let index = index.context("status.index")?;
        ensure!(index.collections == 1, "{index:?}");
        ensure!(index_of(stage, &name).await? == (32, 500), "Accurate");
        stage
            .wait_tasks(&[meanwhile, late], "completed", 2 * MINUTE)
            .await?;
        // Before the second look at the old collection, which comes two minutes after the swap.
        eventually("every page once", MINUTE, async || {
            let audit = Audit::of(&stage.stores, &user.knowledge_base, &name).await?;
            Ok((audit.violations.is_empty() && audit.total_pages() == 6).then_some(()))
        })
        .await?;
        eventually("the event", MINUTE, async || {
            let began = has_event(stage, "RebuildStarted").await?;
            Ok(began.then_some(()))
        })
        .await?;
        milvus_admin::drop(&stage.stores.milvus, &name).await
    })
    .await
}

/// The window opens once a year.
#[tokio::test]
async fn a_closed_window_is_waited_for() -> Result<()> {
    on_stage("window", async |stage| {
        let window = json!({"start": "0 0 1 1 *", "end": "1 0 1 1 *"});
        let policy = json!({"onIndexDrift": "RebuildInPlace", "rebuild": {"window": window}});
        let balanced = patch(stage, &json!({"preset": "Balanced"}), &policy);
        stage.apply_until_ready(&balanced).await?;
        let user = stage.user().await?;
        let pages = pdf::with_pages(&["The only page."]);
        let first = user.upload_bytes("before.pdf", pages).await?;
        stage.wait_tasks(&[first], "completed", 2 * MINUTE).await?;
        let name = collection(stage, &user);
        // Until Milvus counts the vectors, the collection looks empty, and would be tried at once.
        milvus_admin::flush(&stage.stores.milvus, &name).await?;

        let accurate = patch(stage, &json!({"preset": "Accurate"}), &policy);
        stage.scene.apply(&stage.pipeline(&accurate)).await?;
        let pipeline = stage
            .scene
            .wait_status(&stage.name, "RebuildWaiting", MINUTE, |status| {
                index_reason(status) == "RebuildWaiting" && drifted(status) == 1
            })
            .await?;
        let status = pipeline.status.context("a status")?;
        let waiting = condition(&status, "VectorStoreReady").context("the condition")?;
        ensure!(waiting.status == "True", "{waiting:?}");
        ensure!(waiting.message.contains("-01-01T00:00:00Z"), "{waiting:?}");
        let job = format!("{}-reindex", stage.name);
        let jobs = stage.scene.api::<Job>();
        ensure!(jobs.get_opt(&job).await?.is_none(), "there is a Job {job}");
        ensure!(index_of(stage, &name).await? == (16, 300), "unchanged");
        milvus_admin::drop(&stage.stores.milvus, &name).await
    })
    .await
}
