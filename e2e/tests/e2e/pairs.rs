//! Two pipelines that need the same things, and two operators that watch the same namespace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, LogParams};
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::processes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const LEASE: &str = "layra-operator";

#[tokio::test]
async fn of_two_copies_of_a_pipeline_the_younger_waits_until_the_older_is_gone() -> Result<()> {
    on_stage("older", async |stage| {
        let one_worker = json!({"spec": {"scaling": {"minReplicas": 1}}});
        stage.scene.apply(&stage.pipeline(&one_worker)).await?;
        let older = stage.scene.get(&stage.name).await?;
        // Timestamps of objects have seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let younger = format!("{}-copy", stage.name);
        let copy = stage.scene.pipeline(&younger, &stage.topic(), &one_worker);
        stage.scene.apply(&copy).await?;
        let result = wait_for_older(stage, &younger, &older).await;
        let pipelines = stage.scene.api::<IngestionPipeline>();
        let _ = pipelines.delete(&younger, &DeleteParams::default()).await;
        result
    })
    .await
}

async fn wait_for_older(stage: &Stage, younger: &str, older: &IngestionPipeline) -> Result<()> {
    let scene = &stage.scene;
    let stalled = scene
        .wait_condition(younger, "Stalled", "True", "Conflict", MINUTE)
        .await?;
    let status = stalled.status.context("a status")?;
    let ready = condition(&status, "Ready").context("Ready")?;
    let name = format!("{}/{}", scene.namespace, older.name_any());
    for words in [
        &name,
        "source.kafka.consumerGroup",
        "stores.mongodb.database",
    ] {
        ensure!(ready.message.contains(words), "{words}: {}", ready.message);
    }
    ensure!(ready.reason == "Conflict", "{ready:?}");
    ensure!(scene.worker_pods(younger).await?.is_empty());
    let own = scene.get(&older.name_any()).await?.status;
    let own = own.context("a status of the older pipeline")?;
    ensure!(condition(&own, "Stalled").is_none(), "{own:?}");

    let pipelines = scene.api::<IngestionPipeline>();
    pipelines
        .delete(&older.name_any(), &DeleteParams::default())
        .await?;
    scene
        .wait_condition(younger, "Ready", "True", "", 3 * MINUTE)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_change_of_the_consumer_group_waits_for_its_annotation() -> Result<()> {
    on_stage("confirm", async |stage| {
        let patch = |group: &str| {
            json!({"spec": {
                "source": {"kafka": {"consumerGroup": group}},
                "scaling": {"minReplicas": 1},
            }})
        };
        let group = format!("{}-workers", stage.topic());
        stage.apply_until_ready(&patch(&group)).await?;
        stage
            .scene
            .wait_status(&stage.name, "the settings to be noted", MINUTE, |status| {
                status.confirmed.is_some()
            })
            .await?;
        let template = async || {
            let deployment = stage.scene.deployment(&stage.name).await?;
            anyhow::Ok(deployment.spec.map(|spec| spec.template))
        };
        let before = template().await?;
        let other = format!("{group}-2");
        stage.scene.apply(&stage.pipeline(&patch(&other))).await?;
        let stalled = stage
            .scene
            .wait_condition(&stage.name, "Stalled", "True", "ChangeNotConfirmed", MINUTE)
            .await?;
        ensure!(
            template().await? == before,
            "the workers keep their template"
        );
        let annotation =
            format!("ingest.layra.io/confirm-change=source.kafka.consumerGroup={other}");
        let status = stalled.status.context("a status")?;
        let message = &condition(&status, "Ready").context("Ready")?.message;
        ensure!(message.contains(&annotation), "{message}");
        let name = stage.name.as_str();
        stage
            .scene
            .kubectl(&["annotate", "ipl", name, "--overwrite", &annotation])
            .await?;
        stage
            .scene
            .wait_status(&stage.name, "the change to be made", MINUTE, |status| {
                let confirmed = status.confirmed.as_ref();
                confirmed.is_some_and(|confirmed| confirmed.consumer_group == other)
            })
            .await?;
        ensure!(template().await? != before);
        Ok(())
    })
    .await
}

/// The leader is stopped for longer than its lease, as a machine that hangs. When it goes on, another
/// operator leads: it must exit without a write.
#[tokio::test]
async fn a_leader_that_stood_still_exits_without_a_write() -> Result<()> {
    alone_on_stage("leader", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        scale_operator(stage, 2).await?;
        let result = stand_still(stage).await;
        scale_operator(stage, 1).await?;
        result
    })
    .await
}

async fn stand_still(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    let leader = holder(stage).await?.context("a leader")?;
    let pod = scene.api::<Pod>().get(&leader).await?;
    let restarts = restarts(&pod);
    let before = applied(&log(stage, &leader, false).await?);
    let pid = processes::in_pod("layra-operator", &pod.uid().unwrap_or_default())
        .context("the leader's process")?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a pid")?;
    kill_process(pid, Signal::STOP)?;
    let stopped = Instant::now();
    let taken_over = take_over(stage, &leader).await;
    kill_process(pid, Signal::CONT)?;
    taken_over?;
    // At the latest ten seconds after its last renewal the leader would have stopped writing.
    ensure!(
        stopped.elapsed() > Duration::from_secs(10),
        "the lease was taken over after {:?}",
        stopped.elapsed()
    );

    let exited = eventually("the former leader to exit", MINUTE, async || {
        let pod = scene.api::<Pod>().get(&leader).await?;
        Ok((self::restarts(&pod) > restarts).then_some(()))
    });
    exited.await?;
    let log = log(stage, &leader, true).await?;
    ensure!(log.contains("the lease was lost"), "{log}");
    // Nothing of the edit, which it saw when it went on.
    ensure!(applied(&log) == before, "{log}");
    // The other operator's decision holds.
    let deployment = scene.deployment(&stage.name).await?;
    ensure!(deployment.spec.and_then(|spec| spec.replicas) == Some(1));
    Ok(())
}

/// The log of an operator's container, or of the one before its last restart.
pub async fn log(stage: &Stage, pod: &str, previous: bool) -> Result<String> {
    let parameters = LogParams {
        previous,
        ..LogParams::default()
    };
    Ok(stage.scene.api::<Pod>().logs(pod, &parameters).await?)
}

/// Number of objects that an operator has written.
fn applied(log: &str) -> usize {
    let writes = log.lines().filter(|line| line.contains("object applied"));
    writes.count()
}

/// Waits until another operator leads and has carried out an edit.
async fn take_over(stage: &Stage, leader: &str) -> Result<()> {
    let one_worker = json!({"spec": {"scaling": {"minReplicas": 1}}});
    stage.scene.apply(&stage.pipeline(&one_worker)).await?;
    eventually("another leader", MINUTE, async || {
        let holder = holder(stage).await?;
        Ok(holder.filter(|holder| holder != leader))
    })
    .await?;
    eventually("the edit to be carried out", MINUTE, async || {
        let deployment = stage.scene.deployment(&stage.name).await?;
        let replicas = deployment.spec.and_then(|spec| spec.replicas);
        Ok((replicas == Some(1)).then_some(()))
    })
    .await
}

pub async fn lease(stage: &Stage) -> Result<LeaseSpec> {
    let lease = stage.scene.api::<Lease>().get(LEASE).await?;
    lease.spec.context("a lease")
}

pub async fn holder(stage: &Stage) -> Result<Option<String>> {
    Ok(lease(stage).await?.holder_identity)
}

pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let containers = containers.into_iter().flatten();
    containers.map(|container| container.restart_count).sum()
}

/// Changes the number of operators and waits until all are ready.
pub async fn scale_operator(stage: &Stage, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    stage
        .scene
        .kubectl(&["scale", "deployment/layra-operator", &replicas])
        .await?;
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    eventually("the operators to be ready", 2 * MINUTE, async || {
        let pods = stage.scene.api::<Pod>().list(&selector).await?.items;
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_ref());
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|it| it.type_ == "Ready" && it.status == "True")
        };
        Ok((pods.len() == count && pods.iter().all(is_ready)).then_some(()))
    })
    .await
}
