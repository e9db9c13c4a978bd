//! Settings of the worker's Kafka clients.

use layra_crds::{KafkaSource, refused_setting};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::runtime::settings::Settings;

/// Settings of every Kafka client of the worker.
pub(crate) fn client_config(settings: &Settings) -> ClientConfig {
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

/// Settings of a consumer. `name` is its client id, which the broker's tools show. It is a dynamic
/// member of the group: see `docs/decisions/0009-dynamic-group-members.md`.
pub(crate) fn consumer_config(settings: &Settings, name: Option<&str>) -> ClientConfig {
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
        // Only a rebalance can block the poll loop, for at most 20 s.
        .set(
            "max.poll.interval.ms",
            (6 * session_ms).max(30_000).to_string(),
        )
        // Few messages are needed ahead: partitions are paused most of the time.
        .set("queued.min.messages", "100")
        // A resumed partition waits for the end of the fetch request that did not include it.
        .set("fetch.wait.max.ms", "100")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "30000");
    if let Some(name) = name {
        config.set("client.id", name);
    }
    config
}

/// The text of a client's error. The client's own text for a refused setting would contain its
/// value, so it is replaced.
pub(crate) fn describe_error(error: &KafkaError) -> String {
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
    fn an_error_does_not_contain_the_value_of_a_refused_setting() {
        for name in ["security.protocol", "no.such.setting"] {
            let created: Result<BaseConsumer, _> = ClientConfig::new().set(name, "hidden").create();
            let message = describe_error(&created.err().unwrap());
            assert!(!message.contains("hidden"), "{message}");
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }
}
