//! How the worker connects to Kafka.

use layra_crds::KafkaSource;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::runtime::settings::Settings;

/// Settings of every Kafka client of the worker.
#[must_use]
pub fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set(
            "bootstrap.servers",
            &settings.config.source.kafka.bootstrap_servers,
        )
        .set("client.id", "layra-worker")
        .set("reconnect.backoff.max.ms", "5000")
        .set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in settings.secrets.kafka.settings() {
        config.set(name, value);
    }
    config
}

/// Settings of the consumer. `name` is how it appears in the broker's tools. It is a dynamic
/// member of the group: see `docs/decisions/0009-dynamic-group-members.md`.
#[must_use]
pub fn consumer_config(settings: &Settings, name: Option<&str>) -> ClientConfig {
    let kafka: &KafkaSource = &settings.config.source.kafka;
    let session_ms = u64::from(kafka.session_timeout_seconds) * 1000;
    let mut config = client_config(settings);
    config
        .set("group.id", &kafka.consumer_group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session_ms.to_string())
        .set(
            "heartbeat.interval.ms",
            (session_ms / 3).min(3_000).to_string(),
        )
        // The poll loop is held by a rebalance at most, for 20 s.
        .set(
            "max.poll.interval.ms",
            (6 * session_ms).max(30_000).to_string(),
        )
        // Messages are small and few are needed ahead: partitions are paused most of the time.
        .set("queued.min.messages", "100")
        // A partition that is resumed waits for the end of the request in which it was left out.
        .set("fetch.wait.max.ms", "100")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "30000");
    if let Some(name) = name {
        config.set("client.id", name);
    }
    config
}
