//! Retention in the cluster: a Job from its `CronJob` reports through the pod's termination message,
//! and the operator says what it reported. No collection can be unused here: Milvus knows when it was
//! created, and a day is the shortest time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use layra_e2e::cluster::eventually;
use serde_json::{Value, json};

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
