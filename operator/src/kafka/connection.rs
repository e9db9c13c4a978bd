//! The connection to a cluster: brokers and security. The password appears in no log and no `Debug`
//! output.

use layra_crds::{KafkaSecurity, refused_setting};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError as ClientError};
use sha2::{Digest, Sha256};

use super::KafkaError;

/// A cluster and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Comma-separated `host:port`.
    pub(crate) bootstrap_servers: String,
    pub(crate) security: KafkaSecurity,
}

impl Connection {
    /// Connections with the same key share a client. The key does not reveal the secret.
    pub(super) fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let settings = self.security.settings();
        let parts = settings.iter().flat_map(|(name, value)| [*name, *value]);
        for part in parts.chain([self.bootstrap_servers.as_str()]) {
            // Without the length, two different lists of parts could have the same bytes.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// The settings of every client of this cluster.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "layra-operator")
            // librdkafka logs the reasons of failed connections at this level; whether they are
            // shown is decided elsewhere.
            .set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in self.security.settings() {
            config.set(name, value);
        }
        config
    }
}

/// The error of a client that could not be created. librdkafka's own message would show the value of
/// the setting.
pub(super) fn not_created(error: &ClientError) -> KafkaError {
    KafkaError::Settings(match error {
        ClientError::ClientConfig(_, description, name, value) => {
            refused_setting(name, description, value)
        }
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn connection(password: &str) -> Connection {
        let security = KafkaSecurity::from_secret(["username", "password"], |key| match key {
            "username" => Some(b"alice"),
            "password" => Some(password.as_bytes()),
            _ => None,
        });
        Connection {
            bootstrap_servers: "kafka:9092".into(),
            security: security.unwrap(),
        }
    }

    #[test]
    fn a_client_has_the_settings_of_its_secret() {
        let config = connection("hunter2").client_config();
        assert_eq!(config.get("security.protocol"), Some("SASL_PLAINTEXT"));
        assert_eq!(config.get("sasl.mechanism"), Some("PLAIN"));
        assert_eq!(config.get("sasl.username"), Some("alice"));
        assert_eq!(config.get("sasl.password"), Some("hunter2"));
    }

    #[test]
    fn the_password_is_not_shown() {
        let shown = format!("{:?}", connection("hunter2"));
        assert!(
            !shown.contains("hunter2") && !shown.contains("alice"),
            "{shown}"
        );
    }

    #[test]
    fn the_value_of_a_rejected_setting_is_not_shown() {
        for name in ["security.protocol", "no.such.setting"] {
            let mut config = connection("one").client_config();
            let created = config.set(name, "hunter2").create::<BaseConsumer>();
            let message = not_created(&created.err().unwrap()).to_string();
            assert!(!message.contains("hunter2"), "{message}");
            assert!(message.contains(&format!("`{name}`")), "{message}");
        }
    }

    #[test]
    fn a_different_password_has_a_different_client() {
        assert_eq!(connection("one").key(), connection("one").key());
        assert_ne!(connection("one").key(), connection("two").key());
    }
}
