//! Faults of the operator and of the API server: what is in progress is finished, conditions say what is
//! wrong, and no operator restarts again and again. With figures: `cargo scaling stress`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::leadership::renew_operators;
use layra_e2e::pdf;
use layra_e2e::stress::{give_back, kill_leader, operator_restarts, take_right};
use serde_json::json;

use crate::kstatus::Recording;
use crate::obstacles::wait_unready;
use crate::scene::{Stage, alone_on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Waits until the Deployment asks for a number of workers that is `wanted`.
async fn wait_replicas(stage: &Stage, wanted: impl Fn(i32) -> bool) -> Result<()> {
    eventually("the number of workers", 2 * MINUTE, async || {
        let deployment = stage.scene.deployment(&stage.name).await?;
        let replicas = deployment.spec.and_then(|spec| spec.replicas);
        Ok(replicas.is_some_and(&wanted).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_leader_that_is_killed_in_the_middle_of_a_scale_up_is_made_up_for() -> Result<()> {
    alone_on_stage("killed", async |stage| {
        renew_operators(&stage.scene, 2).await?;
        let result = kill_in_a_scale_up(stage).await;
        renew_operators(&stage.scene, 1).await?;
        result
    })
    .await
}

async fn kill_in_a_scale_up(stage: &Stage) -> Result<()> {
    stage.apply_until_ready(&json!({})).await?;
    let recording = Recording::of(stage);
    let user = stage.user().await?.using_partitions_in_turn(4);
    let content = pdf::with_pages(&["The leader dies.", "Its second page."]);
    let mut uploads = Vec::new();
    for number in 0..8 {
        let name = format!("{number}.pdf");
        uploads.push(user.upload_bytes(&name, content.clone()).await?);
    }
    // The workers are only about to start.
    wait_replicas(stage, |count| count > 0).await?;
    kill_leader(&stage.scene).await?;

    stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;
    stage
        .scene
        .wait_status(&stage.name, "all workers to stop", 2 * MINUTE, |status| {
            status.replicas == Some(0) && status.lag == Some(0)
        })
        .await?;
    let audit = stage.audit(&user).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(audit.total_pages() == 16, "{audit:?}");
    let restarts = operator_restarts(&stage.scene).await?;
    ensure!(
        restarts == 1,
        "the operators were restarted {restarts} times"
    );
    let reasons = recording.judged()?;
    ensure!(!reasons.contains(&"Conflict".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn a_restart_of_the_api_server_stops_no_worker_and_the_next_edit_is_carried_out() -> Result<()>
{
    alone_on_stage("api-server", async |stage| {
        let workers = |count: u32| json!({"spec": {"scaling": {"minReplicas": count}}});
        stage.apply_until_ready(&workers(1)).await?;
        stage
            .scene
            .wait_condition(&stage.name, "WorkersAvailable", "True", "", 2 * MINUTE)
            .await?;
        let uids = async || {
            let pods = stage.scene.worker_pods(&stage.name).await?;
            anyhow::Ok(
                pods.iter()
                    .filter_map(ResourceExt::uid)
                    .collect::<BTreeSet<_>>(),
            )
        };
        let before = (uids().await?, operator_restarts(&stage.scene).await?);
        let recording = Recording::of(stage);
        let user = stage.user().await?;
        let content = pdf::with_pages(&["Nobody answers the operator."]);
        let (restarted, upload) = tokio::join!(
            stage.testbed.restart_api_server(),
            user.upload_bytes("page.pdf", content)
        );
        restarted?;
        stage
            .wait_tasks(&[upload?], "completed", 2 * MINUTE)
            .await?;

        eventually("the API server to accept an edit", MINUTE, async || {
            stage.scene.apply(&stage.pipeline(&workers(2))).await?;
            Ok(Some(()))
        })
        .await?;
        wait_replicas(stage, |count| count == 2).await?;
        let after = (uids().await?, operator_restarts(&stage.scene).await?);
        ensure!(before.0.is_subset(&after.0), "{before:?} {after:?}");
        // Once at most, if it was away for longer than the lease may wait.
        ensure!(after.1 <= before.1 + 1, "{before:?} {after:?}");
        recording.judged()?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_right_that_is_taken_from_the_operator_is_a_condition_until_it_is_given_back()
-> Result<()> {
    alone_on_stage("rights", async |stage| {
        let scene = &stage.scene;
        stage.apply_until_ready(&json!({})).await?;
        let restarts = operator_restarts(scene).await?;
        let recording = Recording::of(stage);
        let right = take_right(scene, "deployments", "patch").await?;
        let told = async {
            let one_worker = json!({"spec": {"scaling": {"minReplicas": 1}}});
            scene.apply(&stage.pipeline(&one_worker)).await?;
            let words = "cannot patch resource \"deployments\"";
            wait_unready(stage, &stage.name, "ApplyFailed", words).await
        }
        .await;
        give_back(scene, &right).await?;
        told?;
        wait_replicas(stage, |count| count == 1).await?;
        scene
            .wait_status(&stage.name, "the failure to be over", MINUTE, |status| {
                condition(status, "Ready").is_some_and(|ready| ready.reason != "ApplyFailed")
            })
            .await?;
        ensure!(operator_restarts(scene).await? == restarts);
        recording.judged()?;
        Ok(())
    })
    .await
}
