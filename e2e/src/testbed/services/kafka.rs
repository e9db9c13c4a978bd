//! One Kafka broker that is its own controller (KRaft).

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::super::settings::{NODE_IP, Settings};

/// Any 16 bytes in URL-safe base64: a bed has one cluster, which ends with it.
const CLUSTER_ID: &str = "bGF5cmEtdGVzdGJlZC0wMQ";

pub(super) fn command(settings: &Settings) -> Result<Command> {
    let folder = settings.data("kafka");
    let properties = folder.join("server.properties");
    fs::write(&properties, configuration(settings))?;
    if !folder.join("log/meta.properties").exists() {
        let output = java(settings, "64m")
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(&properties)
            .stdin(Stdio::null())
            .output()
            .context("running java")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            bail!("Kafka's storage cannot be formatted: {text}");
        }
    }
    let mut command = java(settings, "300m");
    command.arg("kafka.Kafka").arg(properties);
    Ok(command)
}

/// The broker lists itself.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let servers = format!("{NODE_IP}:{}", settings.ports.kafka);
    tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            // The client's own complaints about a server that is not up yet.
            .set("log_level", "0")
            .create()?;
        let metadata = client.fetch_metadata(None, Duration::from_secs(2))?;
        ensure!(
            !metadata.brokers().is_empty(),
            "the cluster has no broker yet"
        );
        Ok(())
    })
    .await?
}

fn java(settings: &Settings, memory: &str) -> Command {
    let artifact = settings.cache.join("kafka");
    let mut command = Command::new("java");
    command
        .args([&format!("-Xmx{memory}"), "-Xss512k", "-XX:+UseSerialGC"])
        .arg("-XX:TieredStopAtLevel=1")
        .arg(format!(
            "-Dlog4j2.configurationFile={}/log4j2.yaml",
            artifact.display()
        ))
        .arg("-cp")
        .arg(artifact.join("lib/*"));
    command
}

fn configuration(settings: &Settings) -> String {
    let port = settings.ports.kafka;
    let controller = port + 1;
    let log = settings.data("kafka").join("log");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://{NODE_IP}:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{NODE_IP}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={log}
# Topics are made by the operator or by a test, never by accident.
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Short waits: tests kill members and brokers.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=10000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
",
        log = log.display()
    )
}
