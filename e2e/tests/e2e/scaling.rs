//! Scaling on real servers: the backlog in a real Kafka, pods that wait for GPUs, and scaling
//! modes.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use layra_crds::{IngestionPipelineStatus, ScalingStatus};
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::pdf;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(20);
/// A message that is not a task.
const FOREIGN: &str = r#"{"type": "workflow"}"#;

fn scaling(status: &IngestionPipelineStatus) -> ScalingStatus {
    status.scaling.clone().unwrap_or_default()
}

fn client(stage: &Stage) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stage.testbed.endpoints().kafka);
    config
}

/// Sends messages to the first partition within a transaction that stays open.
fn open_transaction(stage: &Stage, messages: usize) -> Result<BaseProducer> {
    let producer: BaseProducer = client(stage)
        .set("transactional.id", format!("{}-producer", stage.name))
        .create()?;
    producer.init_transactions(KAFKA_TIMEOUT)?;
    producer.begin_transaction()?;
    let topic = stage.topic();
    for _ in 0..messages {
        let record: BaseRecord<'_, (), str> = BaseRecord::to(&topic).partition(0).payload(FOREIGN);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(KAFKA_TIMEOUT)?;
    Ok(producer)
}

async fn wait_lag(stage: &Stage, lag: i64) -> Result<()> {
    stage
        .scene
        .wait_status(&stage.name, &format!("a lag of {lag}"), MINUTE, |status| {
            status.lag == Some(lag)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn only_committed_records_that_still_exist_count_as_backlog() -> Result<()> {
    on_stage("offsets", async |stage| {
        let no_workers = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&no_workers).await?;

        let producer = open_transaction(stage, 3)?;
        // Twice the interval in which the operator reads offsets.
        tokio::time::sleep(Duration::from_secs(5)).await;
        wait_lag(stage, 0).await.context("an open transaction")?;
        producer.commit_transaction(KAFKA_TIMEOUT)?;
        // Three records and the marker that ends the transaction.
        wait_lag(stage, 4)
            .await
            .context("a group without a commit")?;

        let admin: AdminClient<DefaultClientContext> = client(stage).create()?;
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&stage.topic(), 0, Offset::Offset(2))?;
        admin
            .delete_records(&before, &AdminOptions::new())
            .await
            .context("deleting records")?;
        wait_lag(stage, 2).await.context("deleted records")?;

        drop(producer);
        let producer = open_transaction(stage, 2)?;
        producer.abort_transaction(KAFKA_TIMEOUT)?;
        wait_lag(stage, 5).await.context("an aborted transaction")?;

        // A worker skips foreign messages, and its position passes transaction markers.
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        stage
            .scene
            .wait_status(&stage.name, "an empty backlog", 3 * MINUTE, |status| {
                status.lag == Some(0)
            })
            .await
            .context("transaction markers are no backlog")?;
        stage
            .scene
            .wait_status(&stage.name, "all workers to stop", 2 * MINUTE, |status| {
                status.replicas == Some(0) && scaling(status).reason == "Idle"
            })
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_lost_when_committed_offsets_are_past_the_end_of_a_recreated_topic() -> Result<()>
{
    on_stage("recreated", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let admin: AdminClient<DefaultClientContext> = client(stage).create()?;
        let topic = stage.topic();
        for result in admin.delete_topics(&[&topic], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| anyhow!("deleting {name}: {code}"))?;
        }
        // The operator recreates it so soon that its absence may never be visible.
        tokio::time::sleep(Duration::from_secs(3)).await;
        eventually("the topic to be recreated", MINUTE, async || {
            Ok((stage.partitions(&topic)? == 4).then_some(()))
        })
        .await?;

        // As if the group had committed high offsets of the old topic.
        let consumer: BaseConsumer = client(stage)
            .set("group.id", format!("{topic}-workers"))
            .create()?;
        let mut ahead = TopicPartitionList::new();
        for partition in 0..4 {
            ahead.add_partition_offset(&topic, partition, Offset::Offset(500))?;
        }
        consumer.commit(&ahead, CommitMode::Sync)?;
        drop(consumer);

        let user = stage.user().await?;
        let upload = user
            .upload_bytes("recreated.pdf", pdf::with_pages(&["Nothing is lost."]))
            .await?;
        stage
            .scene
            .wait_status(
                &stage.name,
                "the reason CommittedAheadOfEnd",
                MINUTE,
                |status| {
                    scaling(status).reason == "CommittedAheadOfEnd"
                        && condition(status, "Scaling").is_some_and(|c| c.status == "Unknown")
                },
            )
            .await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;
        stage
            .scene
            .wait_status(&stage.name, "all workers to stop", 2 * MINUTE, |status| {
                status.replicas == Some(0) && status.lag == Some(0)
            })
            .await?;
        Ok(())
    })
    .await
}

/// Makes the test-bed's node offer this many of a resource; none removes it.
async fn offer(stage: &Stage, resource: &str, count: Option<u32>) -> Result<()> {
    let nodes: Api<Node> = Api::all(stage.scene.client.clone());
    let list = nodes.list(&ListParams::default()).await?;
    let node = list.items.first().context("a node")?.name_any();
    let amount = count.map(|count| count.to_string());
    let capacity = json!({"status": {
        "capacity": {resource: amount}, "allocatable": {resource: amount},
    }});
    nodes
        .patch_status(&node, &PatchParams::default(), &Patch::Merge(&capacity))
        .await?;
    Ok(())
}

#[tokio::test]
async fn all_workers_are_pending_at_once_and_start_when_gpus_appear() -> Result<()> {
    on_stage("gpus", async |stage| {
        let resource = format!("example.com/{}", stage.name);
        let result = wait_for_gpus(stage, &resource).await;
        result.and(offer(stage, &resource, None).await)
    })
    .await
}

async fn wait_for_gpus(stage: &Stage, resource: &str) -> Result<()> {
    let patch = json!({"spec": {
        "worker": {"gpu": {"resource": resource}},
        "scaling": {"maxReplicas": 4, "maxPendingWorkers": 2},
    }});
    stage.apply_until_ready(&patch).await?;
    // More workers than partitions with tasks are never required.
    let user = stage.user().await?.using_partitions_in_turn(4);
    // Enough pages that the operator reads the workers' counts several times while they work.
    let page = "Every word of this page is read by the model. ".repeat(60);
    let document = pdf::with_pages(&[page.as_str(); 10]);
    let mut uploads = Vec::new();
    for number in 0..24 {
        let name = format!("{number}.pdf");
        uploads.push(user.upload_bytes(&name, document.clone()).await?);
    }
    stage
        .scene
        .wait_status(&stage.name, "four pending workers", MINUTE, |status| {
            let is_waiting = condition(status, "WorkersAvailable")
                .is_some_and(|c| c.reason == "WaitingForGPU" && c.message.contains("since"));
            let scaling = scaling(status);
            is_waiting
                && scaling.desired_replicas == 4
                && !scaling.limits.contains(&"PendingWorkers".to_owned())
                && status.replicas == Some(4)
        })
        .await?;
    // Nodes come one after the other while pods are pending; none is withdrawn meanwhile.
    offer(stage, resource, Some(1)).await?;
    stage
        .scene
        .wait_status(&stage.name, "one ready worker of four", MINUTE, |status| {
            status.ready_replicas == Some(1) && status.replicas == Some(4)
        })
        .await?;
    offer(stage, resource, Some(4)).await?;
    stage.wait_tasks(&uploads, "completed", 5 * MINUTE).await?;
    let idle = stage
        .scene
        .wait_status(&stage.name, "all workers to stop", 2 * MINUTE, |status| {
            status.replicas == Some(0) && status.lag == Some(0)
        })
        .await?;
    let learned = scaling(&idle.status.unwrap_or_default())
        .learned
        .context("the learned figures of the workers")?;
    ensure!(
        learned.pages_per_second > 0.0
            && learned.provisioning_seconds > 0.0
            && learned.startup_seconds > 0.0
            && learned.longest_work_seconds > 0.0,
        "{learned:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_recommendation_is_explained_and_not_applied() -> Result<()> {
    on_stage("recommend", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {"scaling": {"mode": "Recommend"}}}))
            .await?;
        stage.user().await?.send(FOREIGN.as_bytes()).await?;
        let told = stage
            .scene
            .wait_status(&stage.name, "a recommendation", MINUTE, |status| {
                scaling(status).desired_replicas == 1
            })
            .await?;
        let told = scaling(&told.status.unwrap_or_default());
        ensure!(
            told.reason == "Draining" && told.terms.is_some(),
            "{told:?}"
        );
        let replicas = stage.scene.deployment(&stage.name).await?.spec;
        ensure!(replicas.is_some_and(|spec| spec.replicas == Some(0)));

        let scene = &stage.scene;
        let explained = scene
            .kubectl_layra(scene.kubeconfig(), &["explain", &stage.name])
            .await?;
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        for words in [
            told.message.as_str(),
            "Recommend (nothing is changed)",
            "to drain the backlog in time",
        ] {
            ensure!(
                explained.contains(words),
                "{words} is missing in {explained}"
            );
        }
        Ok(())
    })
    .await
}
