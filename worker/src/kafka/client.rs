//! Settings of the worker's Kafka clients.

use layra_crds::{Compression, KafkaSource, refused_setting};
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
        .set(
            "fetch.wait.max.ms",
            kafka.client.fetch_max_wait_ms.unwrap_or(100).to_string(),
        )
        .set(
            "fetch.min.bytes",
            kafka.client.fetch_min_bytes.unwrap_or(1).to_string(),
        )
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", "30000");
    if let Some(name) = name {
        config.set("client.id", name);
    }
    config
}

/// Settings of the producer. A message is sent once, and acknowledged when all in-sync replicas have
/// it: its task may be committed then.
pub(crate) fn producer_config(settings: &Settings) -> ClientConfig {
    let chosen = settings.config.source.kafka.client;
    let compression = chosen.compression.unwrap_or(Compression::Zstd);
    let mut config = client_config(settings);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", compression.as_str())
        .set("linger.ms", chosen.linger_ms.unwrap_or(5).to_string())
        .set("message.timeout.ms", "30000")
        // Any message that the topic accepted fits, with further headers.
        .set("message.max.bytes", "16777216");
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

    /// Settings with this value of `source.kafka.client`.
    fn settings(client: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "{{pipeline: a/b, source: {{kafka: {{bootstrapServers: 'k:9092', client: {client}}}}}, \
             documents: {{objectStore: {{accessKeySecretRef: {{name: s}}, \
             secretKeySecretRef: {{name: s}}}}}}, \
             embedding: {{model: {{family: minilm, uri: 'file:///m'}}}}, \
             stores: {{milvus: {{uri: 'http://m'}}, mongodb: {{uriSecretRef: {{name: m}}}}}}}}"
        );
        for (path, text) in [
            ("worker.yaml", config.as_str()),
            ("object-store/accessKey", "x"),
            ("object-store/secretKey", "x"),
            ("mongodb/uri", "mongodb://m"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Settings::load(&directory.path().join("worker.yaml"), directory.path()).unwrap()
    }

    /// Reads the settings back from librdkafka.
    fn assert_native(config: &ClientConfig, expected: &[(&str, &str)]) {
        let native = config.create_native_config().unwrap();
        for (name, value) in expected {
            assert_eq!(native.get(name).unwrap(), *value, "{name}");
        }
    }

    #[test]
    fn chosen_settings_reach_the_client_and_safe_ones_cannot_be_chosen() {
        let chosen = settings(
            "{fetchMinBytes: 102400, fetchMaxWaitMs: 500, lingerMs: 100, compression: snappy}",
        );
        let consumer = [("fetch.min.bytes", "102400"), ("fetch.wait.max.ms", "500")];
        assert_native(&consumer_config(&chosen, None), &consumer);
        // librdkafka writes `all` as -1.
        let safe = [
            ("request.required.acks", "-1"),
            ("enable.idempotence", "true"),
        ];
        let producer = [("linger.ms", "100"), ("compression.codec", "snappy")];
        for expected in [&safe[..], &producer] {
            assert_native(&producer_config(&chosen), expected);
        }
        let default = settings("{}");
        let consumer = [("fetch.min.bytes", "1"), ("fetch.wait.max.ms", "100")];
        assert_native(&consumer_config(&default, None), &consumer);
        let producer = [("linger.ms", "5"), ("compression.codec", "zstd")];
        for expected in [&safe[..], &producer] {
            assert_native(&producer_config(&default), expected);
        }
    }

    #[test]
    fn a_worker_begins_with_the_oldest_message_and_commits_by_hand() {
        let consumer = consumer_config(&settings("{}"), None);
        // librdkafka calls it `smallest`.
        assert_eq!(consumer.get("auto.offset.reset"), Some("earliest"));
        let expected = [
            ("enable.auto.commit", "false"),
            ("session.timeout.ms", "30000"),
            ("heartbeat.interval.ms", "3000"),
            ("max.poll.interval.ms", "180000"),
        ];
        assert_native(&consumer, &expected);
    }

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
