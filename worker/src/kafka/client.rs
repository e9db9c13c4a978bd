//! How the worker connects to Kafka.

use layra_crds::{KafkaSource, refused_setting};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

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

/// The client's words for an error. Its own for a setting that it refuses would show the value.
#[must_use]
pub fn in_words(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, name, value) => {
            refused_setting(name, description, value)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn the_value_of_a_setting_that_is_refused_is_not_shown() {
        for name in ["security.protocol", "no.such.setting"] {
            let made: Result<BaseConsumer, _> = ClientConfig::new().set(name, "hidden").create();
            let message = in_words(&made.err().unwrap());
            assert!(!message.contains("hidden"), "{message}");
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }
}
