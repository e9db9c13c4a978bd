//! One Kafka broker that is its own controller (KRaft).

use std::fs;
use std::process::{Command, Stdio};

use super::wire::{self, Length};
use crate::settings::{NODE_IP, Settings};
use anyhow::{Context, Result, bail, ensure};

/// Any 16 bytes in URL-safe base64.
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
            bail!("formatting Kafka's storage failed: {text}");
        }
    }
    let mut command = java(settings, "300m");
    command.arg("kafka.Kafka").arg(properties);
    Ok(command)
}

/// Checks that the broker lists itself.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let request = metadata_request();
    let answer = wire::message(settings.ports.kafka, Length::Following, &request).await?;
    let brokers = brokers(&answer).context("a response to the Metadata request")?;
    ensure!(brokers > 0, "the cluster has no broker yet");
    Ok(())
}

/// Kafka's Metadata request, version 4, for no topic.
fn metadata_request() -> Vec<u8> {
    const METADATA: u16 = 3;
    const VERSION: u16 = 4;
    const CORRELATION: u32 = 1;
    let mut request = Vec::new();
    request.extend(METADATA.to_be_bytes());
    request.extend(VERSION.to_be_bytes());
    request.extend(CORRELATION.to_be_bytes());
    // No client id, no topics, no automatic creation of topics.
    request.extend([0xff, 0xff, 0, 0, 0, 0, 0]);
    request
}

/// Number of brokers in the response, after correlation id and throttle time.
fn brokers(answer: &[u8]) -> Option<u32> {
    let count = answer.get(8..12)?;
    Some(u32::from_be_bytes(count.try_into().ok()?))
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
# Topics are created by the operator or a test, never automatically.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_counted_and_a_truncated_response_is_rejected() {
        let answer = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 9];
        assert_eq!(brokers(&answer), Some(2));
        assert_eq!(brokers(&answer[..10]), None);
    }
}
