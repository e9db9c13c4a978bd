//! How to reach a cluster: brokers and security. The password appears in no log and no `Debug`
//! output.

use layra_crds::KafkaSecurity;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use sha2::{Digest, Sha256};

/// A cluster and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Comma-separated `host:port`.
    pub(crate) bootstrap_servers: String,
    /// Encryption and login.
    pub(crate) security: KafkaSecurity,
}

impl Connection {
    /// Two connections with the same key may share a client. The key tells nothing of the secret.
    pub(super) fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let settings = self.security.settings();
        let parts = settings.iter().flat_map(|(name, value)| [*name, *value]);
        for part in parts.chain([self.bootstrap_servers.as_str()]) {
            // The length keeps neighbouring parts apart.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// The settings that every client of this cluster has.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "layra-operator")
            // The reasons of failed connections are logged at this level, whatever is shown.
            .set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in self.security.settings() {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(password: &str) -> Connection {
        let security = KafkaSecurity::from_secret(|key| match key {
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
    fn another_password_is_another_client() {
        assert_eq!(connection("one").key(), connection("one").key());
        assert_ne!(connection("one").key(), connection("two").key());
    }
}
