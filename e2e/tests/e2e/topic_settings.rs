//! Topics that exist before their pipeline, and records that Kafka deletes before they are
//! processed.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use layra_e2e::cluster::eventually;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

fn client(stage: &Stage) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stage.testbed.endpoints().kafka);
    config
}

#[tokio::test]
async fn a_compacted_topic_is_used_and_mentioned() -> Result<()> {
    on_stage("compacted", async |stage| {
        let admin: AdminClient<DefaultClientContext> = client(stage).create()?;
        let name = stage.topic();
        let topic = NewTopic::new(&name, 4, TopicReplication::Fixed(1));
        let topic = topic.set("cleanup.policy", "compact");
        for result in admin.create_topics(&[topic], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| anyhow!("creating {name}: {code}"))?;
        }
        let patch = json!({"spec": {"source": {"kafka": {"partitions": 4}}}});
        stage.apply_until_ready(&patch).await?;
        stage
            .scene
            .wait_condition(&stage.name, "TopicReady", "True", "TopicCompacted", MINUTE)
            .await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn records_that_kafka_deletes_unprocessed_are_an_event() -> Result<()> {
    on_stage("lost", async |stage| {
        let no_workers = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&no_workers).await?;
        let topic = stage.topic();
        let producer: BaseProducer = client(stage).create()?;
        for number in 0..5 {
            let payload = format!("{{\"type\": \"workflow\", \"number\": {number}}}");
            let record = BaseRecord::<(), str>::to(&topic)
                .partition(0)
                .payload(&payload);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(KAFKA_TIMEOUT)?;

        let group = format!("{topic}-workers");
        let consumer: BaseConsumer = client(stage).set("group.id", &group).create()?;
        let at = |offset| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Offset(offset))
                .map(|()| list)
        };
        consumer.commit(&at(1)?, CommitMode::Sync)?;
        let admin: AdminClient<DefaultClientContext> = client(stage).create()?;
        admin
            .delete_records(&at(4)?, &AdminOptions::new())
            .await
            .context("deleting records")?;

        let events = stage.scene.api::<Event>();
        eventually("the event RecordsLost", MINUTE, async || {
            let all = events.list(&ListParams::default()).await?.items;
            let lost = all.into_iter().find(|event| {
                let regarding = event.regarding.as_ref();
                event.reason.as_deref() == Some("RecordsLost")
                    && regarding.and_then(|object| object.name.as_ref()) == Some(&stage.name)
            });
            let note = lost.and_then(|event| event.note);
            Ok(note.filter(|note| note.contains("up to 3 records")))
        })
        .await?;
        Ok(())
    })
    .await
}
