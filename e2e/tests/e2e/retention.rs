//! Retention in the cluster: a Job from its `CronJob` reports through the pod's termination message,
//! and the operator says what it reported. By hand a collection may be unused after less than a day.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use layra_e2e::cluster::eventually;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use milvus::v2::prelude::{GetLoadStateRequest, LoadState};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::collection_life::Own;
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// The pipeline's own collections, and no workers.
fn patch(stage: &Stage, retention: Option<Value>) -> Value {
    let collection = format!("{}_{{knowledge_db_id}}", stage.name.replace('-', "_"));
    let mut milvus = json!({"collection": collection, "readers": "Own"});
    if let Some(retention) = retention {
        milvus["retention"] = retention;
    }
    json!({"spec": {
        "scaling": {"mode": "Manual", "replicas": 0},
        "stores": {"milvus": milvus},
    }})
}

/// As `kubectl create job --from` does, with the arguments if there are any.
async fn start(stage: &Stage, name: &str, arguments: Option<&[&str]>) -> Result<()> {
    let cron_job = format!("{}-retention", stage.name);
    let from = format!("--from=cronjob/{cron_job}");
    let mut create = vec!["create", "job", name, &from];
    let Some(arguments) = arguments else {
        stage.scene.kubectl(&create).await?;
        return Ok(());
    };
    create.extend(["--dry-run=client", "-o", "json"]);
    let mut job: Value = serde_json::from_str(&stage.scene.kubectl(&create).await?)?;
    job["spec"]["template"]["spec"]["containers"][0]["args"] = json!(arguments);
    let job: Job = serde_json::from_value(job)?;
    let jobs = stage.scene.api::<Job>();
    jobs.create(&PostParams::default(), &job).await?;
    Ok(())
}

#[tokio::test]
async fn the_operator_says_what_a_run_of_retention_did() -> Result<()> {
    on_stage("retention", async |stage| {
        let dry = json!({"action": "Release", "noticeDays": 0, "dryRun": true});
        stage.apply_until_ready(&patch(stage, Some(dry))).await?;
        let name = format!("{}-retention", stage.name);
        let cron_jobs = stage.scene.api::<CronJob>();
        eventually("the CronJob", MINUTE, async || {
            Ok(cron_jobs.get_opt(&name).await?)
        })
        .await?;

        start(stage, &format!("{name}-now"), None).await?;
        let pipeline = stage
            .scene
            .wait_status(&stage.name, "the report", MINUTE, |status| {
                status.retention.is_some()
            })
            .await?;
        let status = pipeline.status.and_then(|status| status.retention);
        let message = status.context("status.retention")?.message;
        ensure!(message.starts_with("No unused collection"), "{message}");

        let broken = ["retain", "--config", "/nowhere.json"];
        start(stage, &format!("{name}-broken"), Some(&broken)).await?;
        let failed = eventually("the event", MINUTE, async || {
            let events = stage.scene.api::<Event>();
            let events = events.list(&ListParams::default()).await?;
            Ok(events.into_iter().find(|event| {
                let regarding = event.regarding.as_ref().and_then(|it| it.name.as_deref());
                let is_failure = event.reason.as_deref() == Some("RetentionFailed");
                is_failure && regarding == Some(stage.name.as_str())
            }))
        })
        .await?;
        let note = failed.note.unwrap_or_default();
        ensure!(note.contains("/nowhere.json"), "{note}");

        stage
            .scene
            .apply(&stage.pipeline(&patch(stage, None)))
            .await?;
        eventually("no CronJob", MINUTE, async || {
            let found = cron_jobs.get_opt(&name).await?;
            Ok(found.is_none().then_some(()))
        })
        .await
    })
    .await
}

/// What a run by hand says about the collection.
async fn run(cli: &WorkerCli, own: &Own<'_>) -> Result<Option<String>> {
    let report = cli.run(&["retain", "--unused-for-minutes", "0"]).await?;
    let report: Value = serde_json::from_str(&report)?;
    let items = report["items"].as_array().context("items")?;
    let collection = own.collection();
    let mut of_ours = items
        .iter()
        .filter(|item| item["collection"] == *collection);
    let state = of_ours.next().and_then(|item| item["state"].as_str());
    Ok(state.map(str::to_owned))
}

/// Announces an action, and carries it out.
async fn act(own: &Own<'_>, action: &str) -> Result<WorkerCli> {
    own.retain(&json!({"action": action, "noticeDays": 0}))
        .await?;
    let cli = own.cli().await?;
    let first = run(&cli, own).await?;
    let noticed = match first {
        // The first run that sees it counts as a use.
        None => run(&cli, own).await?,
        first => first,
    };
    ensure!(noticed.as_deref() == Some("Noticed"), "{noticed:?}");
    let done = run(&cli, own).await?;
    ensure!(done.as_deref() == Some("Done"), "{action}: {done:?}");
    Ok(cli)
}

#[tokio::test]
async fn an_unused_collection_is_released_archived_or_deleted_after_a_notice() -> Result<()> {
    on_stage("unused", async |stage| {
        let own = Own::new(stage).await?;
        let page = pdf::with_pages(&["A page."]);
        let first = own.user.upload_bytes("first.pdf", page.clone()).await?;
        own.process().await?;

        act(&own, "Release").await?;
        let request = GetLoadStateRequest::builder()
            .collection_name(own.collection())
            .build()?;
        let state = own.stores.milvus.get_load_state(request).await?.state();
        ensure!(state == LoadState::NotLoad, "{state:?}");
        // The next write loads it.
        let second = own.user.upload_bytes("second.pdf", page).await?;
        own.process().await?;
        own.check_pages(&first, 1).await?;
        own.check_pages(&second, 1).await?;

        let cli = act(&own, "Archive").await?;
        ensure!(!own.has_collection(&own.collection()).await?, "archived");
        let base = own.user.knowledge_base.as_str();
        cli.run(&["restore", "--knowledge-base", base]).await?;
        own.check_pages(&first, 1).await?;

        act(&own, "Delete").await?;
        ensure!(!own.has_collection(&own.collection()).await?, "deleted");
        let files = own.stores.mongodb.collection::<Document>("files");
        let left = files
            .count_documents(doc! { "knowledge_db_id": base })
            .await?;
        ensure!(left == 0, "{left} documents are left");
        Ok(())
    })
    .await
}
